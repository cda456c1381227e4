"""Whose records a database holds: facts in its own table, so that they go where the records go."""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final

from heimdall_server.ports.log_store import StoreIdentity
from heimdall_server.storage.clickhouse.connection import Connection
from heimdall_server.storage.clickhouse.schema import Tables

_STORE: Final = "store_id"
_JOURNAL: Final = "journal_id"


def identity(connection: Connection, tables: Tables) -> StoreIdentity:
    """Whose records the database holds; a database that has no name yet gets one.

    Raises:
        EngineError: The engine failed.
    """
    facts = _facts(connection, tables)
    if _STORE not in facts:
        _write(connection, tables, _STORE, uuid.uuid4().hex)
        facts = _facts(connection, tables)
    return StoreIdentity(facts[_STORE], facts.get(_JOURNAL, ""))


def claim(connection: Connection, tables: Tables, journal_id: str) -> None:
    """Note whose journal's records come into the database.

    Raises:
        EngineError: The engine failed.
    """
    _write(connection, tables, _JOURNAL, journal_id)


def holds_beyond(connection: Connection, tables: Tables, datasets: Iterable[str], shard: int, position: int) -> bool:
    """Are there records of a shard behind a position?

    Raises:
        EngineError: The engine failed.
    """
    for name in datasets:
        found = connection.table(
            f"SELECT 1 AS found FROM {tables.records(name)} "
            "WHERE shard = {shard:UInt16} AND position > {position:UInt64} LIMIT 1",
            {"shard": shard, "position": position},
        )
        if found.num_rows:
            return True
    return False


def _facts(connection: Connection, tables: Tables) -> dict[str, str]:
    found = connection.table(f"SELECT name, argMax(value, written) AS value FROM {tables.meta} GROUP BY name")
    return dict(zip(found.column("name").to_pylist(), found.column("value").to_pylist(), strict=True))


def _write(connection: Connection, tables: Tables, name: str, value: str) -> None:
    connection.command(
        f"INSERT INTO {tables.meta} (name, value, written) VALUES ({{name:String}}, {{value:String}}, now64(9))",
        {"name": name, "value": value},
    )
