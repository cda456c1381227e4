"""What the graph needs of a PostgreSQL before its schema can be made: AGE, pgvector, an empty graph, and a role that only reads.

The embedded one gets all of it from its superuser. A server elsewhere may let our role do it; if not, its operator is told the statements.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.storage.postgres.faults import faults

GRAPH: Final = "heimdall_graph"
"""Of the graph and of the schema that AGE keeps it in."""
CYPHER_ROLE: Final = "heimdall_cypher"
EXTENSIONS_SCHEMA: Final = "extensions"
_LEAKPROOF: Final = (
    ("graphid_eq(ag_catalog.graphid, ag_catalog.graphid)", 1),
    ("agtype_eq(ag_catalog.agtype, ag_catalog.agtype)", 1),
    ("agtype_access_operator(ag_catalog.agtype[])", 20),
)
"""What Cypher compares by, and what the planner takes it to cost. Row security lets indexes serve a query only by what is declared to tell
nothing by failing. The access to a property does fail by what a row holds (`n.value.x` of a text), so it must be run for no row before the policy
has let that one through: of what is declared so, PostgreSQL runs first only what costs less than 10 (`order_qual_clauses`). An index meets
no row that it fails for, since none could be written into it."""
_STATEMENTS: Final = (
    f"CREATE SCHEMA IF NOT EXISTS {EXTENSIONS_SCHEMA}",
    "CREATE EXTENSION IF NOT EXISTS age",
    "SET LOCAL search_path = ag_catalog",  # AGE names operator classes of its own without their schema
    f"CREATE EXTENSION IF NOT EXISTS vector SCHEMA {EXTENSIONS_SCHEMA}",
    (
        "SELECT ag_catalog.create_graph('heimdall_graph') "
        "WHERE NOT EXISTS (SELECT FROM ag_catalog.ag_graph WHERE name = 'heimdall_graph')"
    ),
)
_READY: Final = (
    "SELECT count(*) FROM pg_extension WHERE extname IN ('age', 'vector') "
    "UNION ALL SELECT count(*) FROM pg_namespace WHERE nspname = 'heimdall_graph'"
)


async def provide(connection: psycopg.AsyncConnection[tuple[Any, ...]], *, app_role: str, cypher_password: str) -> None:
    """Make what is missing as a superuser, for a role that will own the graph, and the role that reads it. Idempotent.

    Args:
        connection: Of the superuser, autocommit.
        app_role: Who owns the graph's tables.
        cypher_password: Of the role that runs Cypher.

    Raises:
        psycopg.Error: PostgreSQL failed.
    """
    app, cypher = sql.Identifier(app_role), sql.Identifier(CYPHER_ROLE)
    async with connection.transaction():
        for statement in _STATEMENTS:
            await connection.execute(statement)
        for function, cost in _LEAKPROOF:
            await connection.execute(f"ALTER FUNCTION ag_catalog.{function} LEAKPROOF COST {cost}")
        await _make_reader(connection, cypher, cypher_password)
        for statement in (
            f"GRANT USAGE ON SCHEMA ag_catalog, {EXTENSIONS_SCHEMA} TO {{app}}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA ag_catalog TO {app}, {cypher}",
            "GRANT USAGE ON SCHEMA ag_catalog TO {cypher}",
            f"ALTER SCHEMA {GRAPH} OWNER TO {{app}}",
            f"ALTER TABLE {GRAPH}._ag_label_vertex OWNER TO {{app}}",
            f"ALTER TABLE {GRAPH}._ag_label_edge OWNER TO {{app}}",
            f"ALTER SEQUENCE {GRAPH}._label_id_seq OWNER TO {{app}}",
            f"GRANT USAGE ON SCHEMA {GRAPH} TO {{cypher}}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {{app}} IN SCHEMA {GRAPH} GRANT SELECT ON TABLES TO {{cypher}}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {GRAPH} TO {{cypher}}",
        ):
            await connection.execute(sql.SQL(statement).format(app=app, cypher=cypher))
        await connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(connection.info.dbname), cypher)
        )


async def has_graph(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> bool:
    """Whether a server has what the graph needs.

    Raises:
        psycopg.Error: PostgreSQL failed.
    """
    cursor = await connection.execute(_READY)
    return [count for (count,) in await cursor.fetchall()] == [2, 1]


async def require(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
    """See that a server has what the graph needs, making it if our own role may.

    Args:
        connection: Of the role of the application, autocommit.

    Raises:
        ConfigurationError: Something is missing; says which statements its operator must run.
        StoreError: PostgreSQL can't be reached.
    """
    with faults():
        if await has_graph(connection):
            return
        try:
            async with connection.transaction():
                for statement in _STATEMENTS:
                    await connection.execute(statement)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            problem = (
                "postgres: the graph needs the extensions age (in shared_preload_libraries) and vector, and an empty graph that our "
                f"role owns; run as a superuser, in its database: BEGIN; {'; '.join(_STATEMENTS)}; COMMIT; then give schema {GRAPH} and its tables to "
                "our role, and USAGE and SELECT on ag_catalog"
            )
            raise ConfigurationError((problem,)) from None


async def _make_reader(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], role: sql.Identifier, password: str
) -> None:
    cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (CYPHER_ROLE,))
    rights = sql.SQL("LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT CONNECTION LIMIT 8")
    if await cursor.fetchone() is None:
        await connection.execute(sql.SQL("CREATE ROLE {} {}").format(role, rights))
    # Hashed here, as `\password` of psql does: the password itself is in no statement.
    verifier = connection.pgconn.encrypt_password(password.encode(), CYPHER_ROLE.encode(), b"scram-sha-256").decode()
    await connection.execute(sql.SQL("ALTER ROLE {} {} PASSWORD {}").format(role, rights, sql.Literal(verifier)))
    await connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))
