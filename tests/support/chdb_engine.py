"""The one embedded engine of a pytest process: chDB takes one folder a process, so all tests share it.

Use `chdb_engine` for connections and `chdb_database` for a database of a module's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from heimdall_server.storage.clickhouse.embedded import ChdbConnection, ChdbEngine

_NUMBERS = itertools.count(1)


@dataclass
class _Opened:
    """What is open for the rest of the process, whatever pytest does with its fixtures meanwhile."""

    engine: ChdbEngine | None = None
    connection: ChdbConnection | None = None


_OPENED = _Opened()


@pytest.fixture(scope="session")
def chdb_engine(tmp_path_factory: pytest.TempPathFactory) -> ChdbEngine:
    """The engine, kept open for the whole process by a connection of its own."""
    if _OPENED.engine is None:
        _OPENED.engine = ChdbEngine(tmp_path_factory.mktemp("chdb"), memory_bytes_max=2 << 30)
        _OPENED.connection = _OPENED.engine.connect()
    return _OPENED.engine


def pytest_sessionfinish() -> None:
    """Close what is open: a process that ends with open handles may crash."""
    if _OPENED.connection is not None:
        _OPENED.connection.close()
        _OPENED.connection = None


@pytest.fixture(scope="module")
def chdb_database(chdb_engine: ChdbEngine) -> Iterator[str]:
    """The name of a fresh database, dropped behind the module."""
    name = f"test_{next(_NUMBERS)}"
    connection = chdb_engine.connect()
    connection.command(f"CREATE DATABASE {name}")
    yield name
    connection.command(f"DROP DATABASE {name} SYNC")
    connection.close()
