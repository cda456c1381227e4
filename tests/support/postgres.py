"""One embedded PostgreSQL a pytest process, a fresh database for each module that asks.

    postgres_server    session   the server: `.conninfo(database)`, `.new_database()`, `.kill()`, `.call(coroutine)`
    postgres_database  module    the name of a database of the module's own, set up and migrated
    postgres_pool      function  a `PostgresPool` on it, opened, under the role of the application
    postgres_clean     function  empties every table of it first (for suites that count)

It is the real one, under a real account; only flushing to the disk is off, which makes it several times as fast.
Tests that kill and restart a server start one of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from heimdall_server.storage.postgres.config import PostgresConfig
from heimdall_server.storage.postgres.embedded import EmbeddedPostgres
from heimdall_server.storage.postgres.extensions import CYPHER_ROLE
from heimdall_server.storage.postgres.migrate import migrate
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.roles import APP_ROLE, set_up

APP_PASSWORD = "of the application"  # noqa: S105 - of nothing that lasts
CYPHER_PASSWORD = "of who reads the graph"  # noqa: S105 - of nothing that lasts
START_S = 60.0
T = TypeVar("T")
_NUMBERS = itertools.count(1)


def small_postgres(**changes: Any) -> PostgresConfig:
    """Short times, a small cache."""
    values = {"shared_buffers_bytes": 16 << 20, "pool_size": 6, "connect_timeout_s": 5.0, "statement_timeout_s": 20.0}
    return PostgresConfig(**{**values, **changes})


def remove_place(data_dir: Path) -> None:
    """Remove what a server that ran as root kept of PostgreSQL outside of its data folder."""
    place = data_dir / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


class PostgresServer:
    """The server, on an event loop of its own, since it outlives those of tests."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="heimdall-postgres-"))  # where another account can go
        self.folder.chmod(0o755)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres", daemon=True)
        self._thread.start()
        self.embedded = self.call(self._start())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_S)

    def conninfo(self, database: str = "postgres", *, superuser: bool = False) -> str:
        """How to connect."""
        if superuser:
            return self.embedded.conninfo(database=database)
        return self.embedded.conninfo(user=APP_ROLE, password=APP_PASSWORD, database=database)

    def new_database(self, *, migrated: bool = True) -> str:
        """Make a database as the application gets it."""
        name = f"test_{next(_NUMBERS)}"
        self.call(self._make(name, migrated=migrated))
        return name

    def drop_database(self, name: str) -> None:
        """Remove it, whoever is connected."""
        with psycopg.connect(self.conninfo(superuser=True), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def pool(self, database: str, **changes: Any) -> PostgresPool:
        """Connections to a database, not opened yet."""
        return PostgresPool(lambda: self.conninfo(database), small_postgres(**changes))

    def close(self) -> None:
        """Stop it and delete its data."""
        self.call(self.embedded.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()
        shutil.rmtree(self.folder)

    def cypher_pool(self, database: str, **changes: Any) -> PostgresPool:
        """The same under the role that only reads the graph."""
        return PostgresPool(
            lambda: self.embedded.conninfo(user=CYPHER_ROLE, password=CYPHER_PASSWORD, database=database),
            small_postgres(**{"pool_size": 2, **changes}),
        )

    async def _start(self) -> EmbeddedPostgres:
        embedded = await EmbeddedPostgres.start(
            small_postgres(pool_size=40),
            data_dir=self.folder / "data_dir",
            keys_dir=self.folder / "keys",
            places=self.folder / "places",
            durable=False,
        )
        await embedded.wait_ready(START_S)
        return embedded

    async def _make(self, name: str, *, migrated: bool) -> None:
        superuser = self.conninfo(superuser=True)
        await set_up(
            superuser,
            self.conninfo(name, superuser=True),
            app_password=APP_PASSWORD,
            cypher_password=CYPHER_PASSWORD,
            database=name,
        )
        if migrated:
            async with await psycopg.AsyncConnection.connect(self.pool(name).conninfo(), autocommit=True) as connection:
                await migrate(connection)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server, for the whole session."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a fresh database, dropped behind the module."""
    name = postgres_server.new_database()
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
async def postgres_pool(postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[PostgresPool]:
    """Connections to the module's database."""
    pool = postgres_server.pool(postgres_database)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def postgres_clean(postgres_server: PostgresServer, postgres_database: str) -> None:
    """Empty every table of the application, but the list of migrations."""
    with psycopg.connect(postgres_server.conninfo(postgres_database), autocommit=True) as connection:
        found = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname IN ('heimdall', 'heimdall_graph') AND tablename <> 'schema_migration'"
        ).fetchall()
        if found:
            names = ", ".join(name for (name,) in found)
            connection.execute(f"TRUNCATE {names} CASCADE")
