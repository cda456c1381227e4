"""Finds in the graph what only tokens name: entities, and what was imported of them."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_imports import ImportedFacts
from heimdall_server.ports.graph_subjects import NamedImport
from heimdall_server.storage.postgres.graph.labels import are_there, table
from heimdall_server.storage.postgres.pool import PostgresPool

_TIME_S: Final = 60.0
# As the index on values has it.
_VALUE: Final = "ag_catalog.agtype_access_operator(VARIADIC ARRAY[properties, '\"value\"'::ag_catalog.agtype])"
_ENTITY: Final = f"SELECT uid FROM {table(VertexKind.ENTITY)} WHERE {_VALUE} = %s::ag_catalog.agtype"
_IMPORTS: Final = (
    b"SELECT sequence, source, actor, create_time_ns, tlp, facts, kept FROM graph_import "
    b"WHERE (tokens && %s OR people && %s::uuid[]) AND sequence > %s ORDER BY sequence LIMIT %s"
)


class PostgresGraphSubjects:
    """Implements `ports.graph_subjects.GraphSubjects`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def entities(self, tokens: Collection[str]) -> Sequence[bytes] | None:
        """See the port. A look-up in an index for each token."""
        found: dict[bytes, None] = {}
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            if not await are_there(connection):
                return None
            await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")  # where agtype's operators are
            for token in tokens:
                cursor = await connection.execute(_ENTITY.encode(), (json.dumps(token),))
                found |= {row[0].bytes: None for row in await cursor.fetchall()}
        return tuple(found)

    async def imports(
        self, tokens: Collection[str], ids: Collection[bytes], *, after: int, count_max: int
    ) -> Sequence[NamedImport]:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            named = (list(tokens), [one.hex() for one in ids], after, count_max)
            rows = await (await connection.execute(_IMPORTS, named)).fetchall()
        return [_import(row) for row in rows]


def _import(row: Sequence[Any]) -> NamedImport:
    number, source, actor, create_time_ns, tlp, facts, kept = row
    entities = ImportedFacts.from_json(facts).entities
    return NamedImport(int(number), source, actor, int(create_time_ns), Tlp(tlp), entities, kept)
