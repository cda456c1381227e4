"""One batch in one transaction: facts, their provenances, profiles, and the note of what was applied. All of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.domain.graph_batches import Applied, CheckedBatch, GraphBatch
from heimdall_server.storage.postgres.graph.dumps import keep_dumps
from heimdall_server.storage.postgres.graph.edges import (
    EdgeGroup,
    change_edges,
    find_edges,
    group_edges,
    new_edges,
)
from heimdall_server.storage.postgres.graph.facts import Facts, Longs, Pairs, Sums, Weights
from heimdall_server.storage.postgres.graph.labels import Labels
from heimdall_server.storage.postgres.graph.news import News
from heimdall_server.storage.postgres.graph.progress import is_applied, note
from heimdall_server.storage.postgres.graph.refusals import note_refused
from heimdall_server.storage.postgres.graph.staging import (
    SUM_COLUMNS,
    Connection,
    copy_all,
    copy_in,
    hours_column,
    meanwhile,
    prepare,
    sum_columns,
)
from heimdall_server.storage.postgres.graph.terms import Provenances, Terms, weights
from heimdall_server.storage.postgres.graph.vertices import (
    Kept,
    VertexGroup,
    change_vertices,
    find_vertices,
    group_vertices,
    key_columns,
    new_vertices,
)

_WRITER_LOCK: Final = 0x4865696D47726170
"""Key of the advisory lock that batches, and a rebuild, take turns by: `HeimGrap`. So ids are allocated in blocks and what was looked up stays so."""
_KEEP_PAIRS: Final = """
INSERT INTO graph_fact_provenance AS t (fact, provenance, first_ns, last_ns, count, first_place, last_place, hours)
SELECT fact, provenance, first_ns, last_ns, count, first_place, last_place, hours FROM graph_pair ORDER BY fact, provenance
ON CONFLICT (fact, provenance) DO UPDATE SET
    first_ns = least(t.first_ns, excluded.first_ns), last_ns = greatest(t.last_ns, excluded.last_ns), count = t.count + excluded.count,
    first_place = coalesce(least(nullif(t.first_place, 0), nullif(excluded.first_place, 0)), 0),
    last_place = greatest(t.last_place, excluded.last_place),
    hours = (SELECT array_agg(a + b ORDER BY n) FROM unnest(t.hours, excluded.hours) WITH ORDINALITY AS u (a, b, n))
WHERE excluded.count > 0 OR excluded.first_ns < t.first_ns OR excluded.last_ns > t.last_ns OR excluded.last_place > t.last_place
    OR coalesce(nullif(excluded.first_place, 0) < coalesce(nullif(t.first_place, 0), 9223372036854775807), false)
"""


@dataclass(slots=True)
class Shared:
    """What transactions share: numbers that never change once they are committed."""

    terms: Terms
    provenances: Provenances
    labels: Labels | None = None
    news: News | None = None
    """Told what is new; None: nobody waits for anything."""


async def lock_writers(connection: Connection) -> None:
    """Wait for the other writers of this graph, and keep them out until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER_LOCK,))


async def apply_once(connection: Connection, checked: CheckedBatch, shared: Shared, digest: bytes = b"") -> Applied:
    """Apply a batch within the caller's transaction.

    Args:
        connection: In a transaction.
        checked: The batch.
        shared: Numbers that are known.
        digest: Of what it holds; empty: not all of it can be kept.

    Raises:
        InvalidArgumentError: Its origin, or what it counts, was applied in part.
        psycopg.Error: PostgreSQL failed, or refuses something of it.
    """
    batch = checked.batch
    await prepare(connection)
    await lock_writers(connection)
    if await is_applied(connection, batch.origin, field="origin"):
        return Applied(repeated=True, refused=tuple(checked.refused))
    count = not await _counted_before(connection, batch)
    if digest and await _says_nothing_new(connection, digest, counts=count and batch.has_counts):
        await note(connection, batch.origin)
        return Applied(repeated=False)
    work = await _Work.begin(connection, checked, shared, count=count)
    vertices, edges = await work.keep()
    await _keep_pairs(connection, [*vertices, *edges])
    if count:
        await keep_dumps(connection, batch, work.provenances)
    if shared.news is not None:
        await shared.news.note(connection, checked, vertices)
    await note_refused(connection, checked)
    await note(connection, batch.origin)
    for origin in batch.counted if count else ():
        await note(connection, origin)
    return Applied(
        repeated=False,
        new_vertex_count=sum(len(kept.new) for _, kept in vertices),
        new_edge_count=sum(len(kept.new) for _, kept in edges),
        changed_count=sum(len(kept.differs) for _, kept in (*vertices, *edges)),
        refused=tuple(checked.refused),
    )


@dataclass(slots=True)
class _Work:
    connection: Connection
    checked: CheckedBatch
    labels: Labels
    terms: Terms
    provenances: Longs
    weights: Weights
    count: bool

    @classmethod
    async def begin(cls, connection: Connection, checked: CheckedBatch, shared: Shared, *, count: bool) -> _Work:
        if shared.labels is None:
            shared.labels = await Labels.load(connection)
        told = checked.batch.provenances
        numbers = await shared.provenances.numbers(connection, told)
        return cls(connection, checked, shared.labels, shared.terms, numbers, weights(numbers, told), count)

    async def keep(self) -> tuple[list[tuple[VertexGroup, Kept]], list[tuple[EdgeGroup, Kept]]]:
        """Insert what is new, change what isn't the same any more. What needs no answer is worked out while PostgreSQL is at something."""
        connection, checked = self.connection, self.checked
        groups = await asyncio.to_thread(self._vertex_groups)
        if not groups:
            return [], []
        keys = [key_columns(group) for group in groups]
        columns: list[Any] = [np.concatenate([key[index] for key in keys]) for index in range(3)]
        await copy_in(connection, "graph_vertex_key (kind, ordinal, uid)", columns)
        types = await self.terms.numbers(connection, checked.batch.vertices.column("type"), checked.vertex_ok)
        relation = checked.batch.edges.column("relation")
        relations = await self.terms.numbers(connection, relation, checked.edge_ok)
        names = self.terms.names(relation, checked.edge_ok)
        vertices = [(group, await find_vertices(connection, group, self.labels)) for group in groups]
        inserts = [new_vertices(group, kept, checked, types) for group, kept in vertices if len(kept.new)]
        edge_groups = await meanwhile(lambda: self._edge_groups(vertices, relations), copy_all(connection, inserts))
        edges = [(group, await find_edges(connection, group, self.labels)) for group in edge_groups]
        await copy_all(connection, [new_edges(group, kept, names) for group, kept in edges if len(kept.new)])
        for vertex_group, kept in vertices:
            await change_vertices(connection, vertex_group, kept, checked)
        for edge_group, kept in edges:
            await change_edges(connection, edge_group, kept)
        return vertices, edges

    def _vertex_groups(self) -> list[VertexGroup]:
        made = (
            group_vertices(self.checked, kind, self.provenances, self.weights, count=self.count)
            for kind in VERTEX_KINDS
        )
        return [group for group in made if group is not None]

    def _edge_groups(self, vertices: Sequence[tuple[VertexGroup, Kept]], relations: Longs) -> list[EdgeGroup]:
        row_count = self.checked.batch.vertices.num_rows
        vertex_ids, vertex_is_new = np.zeros(row_count, np.int64), np.ones(row_count, bool)
        for group, kept in vertices:
            vertex_ids[group.rows] = group.facts.id[group.facts_of_rows]
            vertex_is_new[group.rows] = kept.is_new[group.facts_of_rows]
        made = (
            group_edges(
                self.checked,
                kind,
                self.provenances,
                self.weights,
                count=self.count,
                vertex_ids=vertex_ids,
                vertex_is_new=vertex_is_new,
                relations=relations,
            )
            for kind in EDGE_KINDS
        )
        return [group for group in made if group is not None]


async def _says_nothing_new(connection: Connection, digest: bytes, *, counts: bool) -> bool:
    """Whether a batch that held the same was applied. Sums of a fact are least and greatest ones, so it changes nothing, unless it counts."""
    cursor = await connection.execute("INSERT INTO graph_content VALUES (%s) ON CONFLICT DO NOTHING", (digest,))
    return cursor.rowcount == 0 and not counts


async def _counted_before(connection: Connection, batch: GraphBatch) -> bool:
    if not batch.counted:
        return False
    found = {await is_applied(connection, origin, field="counted") for origin in batch.counted}
    if len(found) > 1:
        raise InvalidArgumentError("counted", "some of it was counted before, some wasn't; send these apart")
    return found.pop()


async def _keep_pairs(connection: Connection, groups: Sequence[tuple[VertexGroup | EdgeGroup, Kept]]) -> None:
    """Rows of provenance for facts that have several."""
    for group, kept in groups:
        parts = _pairs_to_keep(group.facts, group.pairs, kept)
        for facts, provenances, sums in parts:
            columns: list[Any] = [facts, provenances.astype(np.int32), *sum_columns(sums)]
            names = f"fact, provenance, {SUM_COLUMNS}"
            if sums.hours is not None:
                columns.append(hours_column(sums.hours))
                names += ", hours"
            await copy_in(connection, f"graph_pair ({names})", columns)
            # One statement may not meet a fact and its provenance twice: what was spilled comes before what is added.
            await connection.execute(_KEEP_PAIRS)
            await connection.execute("TRUNCATE graph_pair")


def _pairs_to_keep(facts: Facts, pairs: Pairs, kept: Kept) -> list[tuple[Longs, Longs, Sums]]:
    found: list[tuple[Longs, Longs, Sums]] = []
    # What stood in the rows of facts that had one provenance until now.
    spilled = kept.several[kept.held.provenance[kept.several] != 0]
    if len(spilled):
        held = kept.held.take(spilled)
        found.append((held.id, held.provenance, held.sums))
    has_several = facts.provenance == 0
    has_several[kept.were_there[kept.several]] = True
    rows = np.flatnonzero(has_several[pairs.fact])
    if len(rows):
        found.append((facts.id[pairs.fact[rows]], pairs.provenance[rows], pairs.sums.take(rows)))
    return found
