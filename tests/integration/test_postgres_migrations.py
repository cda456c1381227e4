"""The schema's migrations: those of the graph wait until there is a graph to serve."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from heimdall_server.storage.postgres.extensions import has_graph
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.remaking import PostgresGraphSlices
from heimdall_server.storage.postgres.migrate import migrate, packaged
from heimdall_server.storage.postgres.roles import set_up
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.postgres import APP_PASSWORD, CYPHER_PASSWORD, PostgresServer


@pytest.fixture
def bare_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of our role with nothing in it: no AGE, no pgvector."""
    postgres_server.drop_database(postgres_server.new_database())  # so that there is the role
    with psycopg.connect(postgres_server.conninfo(superuser=True), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare TEMPLATE template0 OWNER heimdall_app")
    yield "bare"
    postgres_server.drop_database("bare")


async def test_the_vault_alone_needs_no_extension_and_the_graph_can_be_added_later(
    postgres_server: PostgresServer, bare_database: str
) -> None:
    pool = postgres_server.pool(bare_database)
    async with await psycopg.AsyncConnection.connect(pool.conninfo(), autocommit=True) as connection:
        assert not await has_graph(connection)
        await migrate(connection, graph=False)
        cursor = await connection.execute("SELECT name FROM schema_migration ORDER BY number")
        assert [name for (name,) in await cursor.fetchall()] == [one.name for one in packaged() if not one.is_of_graph]
    await pool.open()
    assert await PostgresVault(pool).applied("a journal") == 0
    assert await PostgresGraphEraser(pool).erase(["[enc:email:x]"]) == 0
    assert await PostgresGraphSlices(pool).is_empty()
    await pool.close()
    await set_up(
        postgres_server.conninfo(superuser=True),
        postgres_server.conninfo(bare_database, superuser=True),
        app_password=APP_PASSWORD,
        cypher_password=CYPHER_PASSWORD,
        database=bare_database,
    )
    async with await psycopg.AsyncConnection.connect(pool.conninfo(), autocommit=True) as connection:
        assert await has_graph(connection)
        await migrate(connection)
        cursor = await connection.execute("SELECT count(*) FROM schema_migration")
        assert await cursor.fetchone() == (len(packaged()),)
        await migrate(connection, graph=False)  # what is there stays
