"""The one embedded engine of a pytest process: chDB takes one folder a process, so all tests share it.

Use `chdb_engine` for connections and `chdb_database` for a database of a module's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from heimdall_server.storage.clickhouse.embedded import ChdbEngine

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def chdb_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbEngine]:
    """The engine, kept open for the whole session by a connection of its own."""
    engine = ChdbEngine(tmp_path_factory.mktemp("chdb"), memory_bytes_max=2 << 30)
    connection = engine.connect()
    yield engine
    connection.close()


@pytest.fixture(scope="module")
def chdb_database(chdb_engine: ChdbEngine) -> Iterator[str]:
    """The name of a fresh database, dropped behind the module."""
    name = f"test_{next(_NUMBERS)}"
    connection = chdb_engine.connect()
    connection.command(f"CREATE DATABASE {name}")
    yield name
    connection.command(f"DROP DATABASE {name} SYNC")
    connection.close()
