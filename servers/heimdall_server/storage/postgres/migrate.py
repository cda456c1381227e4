"""Makes a schema fit this program: numbered SQL files, each once, in order, all or nothing.

A file is never changed once it was released; its checksum is kept with its number and compared at every start. What a newer
program made is refused. Those of the graph (`NNNN_graph….sql`) build on none but one another: they wait, whatever their number, until there is a graph to
serve, so that the vault alone needs a PostgreSQL and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import psycopg

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.storage.postgres.faults import faults
from heimdall_server.storage.postgres.pool import SCHEMA

_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LOCK: Final = 0x4865696D64616C6C
"""Key of the advisory lock: `Heimdall` in ASCII. Two processes that start at once migrate one after the other."""
_TIME_S: Final = 3_600
"""For one file."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def is_of_graph(self) -> bool:
        """Whether it needs AGE, pgvector and the empty graph."""
        return self.name.split("_")[0] == "graph"

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, 64 hexadecimal digits."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def packaged() -> list[Migration]:
    """The program's own, in order.

    Raises:
        RuntimeError: A number is missing or there twice.
    """
    found = []
    for file in (resources.files(__package__) / "migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        msg = "the migrations aren't numbered from 1 without gaps"
        raise RuntimeError(msg)
    return found


async def migrate(
    connection: psycopg.AsyncConnection[tuple[Any, ...]],
    migrations: Sequence[Migration] | None = None,
    *,
    graph: bool = True,
) -> int:
    """Apply what is missing, in one transaction.

    Args:
        connection: Of the role that owns the schema (or may make it); not within a transaction.
        migrations: Others than the program's own, for tests.
        graph: Whether to apply those of the graph.

    Returns:
        The schema's version now.

    Raises:
        ConfigurationError: A newer program made the schema, or a file isn't the one that was applied.
        StoreError: PostgreSQL failed; nothing was changed.
    """
    wanted = packaged() if migrations is None else list(migrations)
    with faults():
        async with connection.transaction():
            # An index of millions of rows takes longer than any statement may otherwise.
            await connection.execute(f"SET LOCAL statement_timeout = '{_TIME_S}s'".encode())
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await _prepare(connection)
            cursor = await connection.execute("SELECT number, name, checksum FROM schema_migration ORDER BY number")
            applied = {int(number): (str(name), str(checksum)) for number, name, checksum in await cursor.fetchall()}
            _check(wanted, applied)
            for migration in wanted:
                if migration.number not in applied and (graph or not migration.is_of_graph):
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "INSERT INTO schema_migration (number, name, checksum) VALUES (%s, %s, %s)",
                        (migration.number, migration.name, migration.checksum),
                    )
    return len(wanted)


async def _prepare(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
    cursor = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (SCHEMA,))
    if await cursor.fetchone() is None:  # asked first: IF NOT EXISTS, too, needs the right to make one
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration ("
        "number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, "
        "applied_time timestamptz NOT NULL DEFAULT now())"
    )


def _check(wanted: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> None:
    newest = max(applied, default=0)
    if newest > len(wanted):
        problem = (
            f"postgres: its schema has version {newest}, this server knows versions up to {len(wanted)}; "
            "upgrade the server, or restore a backup of the older schema"
        )
        raise ConfigurationError((problem,))
    changed = [
        f"postgres: migration {migration.number:04} ({migration.name}) isn't the one that was applied to this database; "
        "run the server that it was made with, or a newer one"
        for migration in wanted
        if migration.number in applied and applied[migration.number][1] != migration.checksum
    ]
    if changed:
        raise ConfigurationError(tuple(changed))
