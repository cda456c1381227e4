"""Sets an embedded PostgreSQL up: a database, a role that owns a schema and the graph in it and may nothing else, and one that reads the graph."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from heimdall_server.storage.postgres.extensions import provide
from heimdall_server.storage.postgres.faults import faults
from heimdall_server.storage.postgres.pool import SCHEMA

APP_ROLE: Final = "heimdall_app"
DATABASE: Final = "heimdall"
_RIGHTS: Final = sql.SQL("LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")


async def set_up(
    superuser: str, in_database: str, *, app_password: str, cypher_password: str, database: str = DATABASE
) -> None:
    """Make what is missing. Idempotent; also gives the roles the passwords that are on file.

    Args:
        superuser: Connection string of the superuser, to any database.
        in_database: The same, to `database`.
        app_password: The role's.
        cypher_password: Of the role that reads the graph.
        database: Its name.

    Raises:
        StoreError: PostgreSQL failed.
    """
    with faults():
        async with await _connect(superuser) as connection:
            await _make_role(connection, app_password)
            cursor = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
            name = sql.Identifier(database)
            if await cursor.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
            await connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
            await connection.execute(
                sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(name, sql.Identifier(APP_ROLE))
            )
        async with await _connect(in_database) as connection:
            await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            await connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(
                    sql.Identifier(SCHEMA), sql.Identifier(APP_ROLE)
                )
            )
            await provide(connection, app_role=APP_ROLE, cypher_password=cypher_password)


async def _connect(conninfo: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, connect_timeout=5, options="-c statement_timeout=30000"
    )


async def _make_role(connection: psycopg.AsyncConnection[tuple[Any, ...]], password: str) -> None:
    role = sql.Identifier(APP_ROLE)
    cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (APP_ROLE,))
    if await cursor.fetchone() is None:
        await connection.execute(sql.SQL("CREATE ROLE {} {}").format(role, _RIGHTS))
    # Hashed here, as `\password` of psql does: the password itself is in no statement.
    verifier = connection.pgconn.encrypt_password(password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
    await connection.execute(sql.SQL("ALTER ROLE {} {} PASSWORD {}").format(role, _RIGHTS, sql.Literal(verifier)))
