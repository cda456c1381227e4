"""AGE's label tables of the graph: their names, their numbers, and the ids of their rows.

A graph id is the label's number above 48 bits of a sequence (AGE, `graphid.h`). The numbers differ from database to database, so they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, VertexKind
from heimdall_server.storage.postgres.extensions import GRAPH
from heimdall_server.storage.postgres.graph.facts import Longs

ENTRY_BITS: Final = 48


def table(kind: VertexKind | EdgeKind) -> str:
    """The name of a label's table, quoted."""
    return f'{GRAPH}."{kind}"'


async def are_there(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> bool:
    """Whether a database has the graph's tables. One that only ever kept the vault has none."""
    row = await (await connection.execute("SELECT to_regclass(%s)", (table(VertexKind.ENTITY),))).fetchone()
    return row is not None and row[0] is not None


@dataclass(frozen=True, slots=True)
class Labels:
    """Numbers of the labels in one database."""

    number: Mapping[str, int]
    """By the kind's name."""

    @classmethod
    async def load(cls, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> Labels:
        """Ask for them."""
        cursor = await connection.execute(
            "SELECT l.name, l.id FROM ag_catalog.ag_label l JOIN ag_catalog.ag_graph g ON g.graphid = l.graph WHERE g.name = %s",
            (GRAPH,),
        )
        numbers = {str(name): int(number) for name, number in await cursor.fetchall()}
        vertices = {kind: numbers[kind.value] for kind in VERTEX_KINDS}
        return cls(vertices | {kind: numbers[kind.value] for kind in EDGE_KINDS})

    def kinds(self, kinds: Sequence[VertexKind | EdgeKind]) -> Longs:
        """Where the kind of each label's number stands among some; 0 for those that aren't."""
        found = np.zeros(max(self.number.values()) + 1, np.int64)
        for place, kind in enumerate(kinds):
            found[self.number[kind]] = place
        return found

    def vertex_kind(self, graph_id: int) -> VertexKind:
        """The kind of a vertex, by its graph id."""
        number = graph_id >> ENTRY_BITS
        return next(kind for kind in VERTEX_KINDS if self.number[kind] == number)

    async def allocate(
        self, connection: psycopg.AsyncConnection[tuple[Any, ...]], kind: VertexKind | EdgeKind, count: int
    ) -> Longs:
        """Graph ids for new rows. Only one writer may do so at a time."""
        sequence = f'{GRAPH}."{kind}_id_seq"'
        cursor = await connection.execute("SELECT nextval(%s::regclass)", (sequence,))
        row = await cursor.fetchone()
        first = int(row[0]) if row is not None else 0
        if count > 1:
            await connection.execute("SELECT setval(%s::regclass, %s)", (sequence, first + count - 1))
        return (self.number[kind] << ENTRY_BITS) + np.arange(first, first + count, dtype=np.int64)
