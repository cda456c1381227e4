"""Reads the graph: vertices, evidence, sightings, walks. Each answer is of one moment; of a traversal each level is."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.domain.graph_reading import (
    EdgeKey,
    GraphFilter,
    GraphLimits,
    GraphState,
    Level,
    Paths,
    Seen,
    SightingRow,
    Vertex,
    Witnesses,
)
from heimdall_server.storage.postgres.graph.dumps import visible_profiles
from heimdall_server.storage.postgres.graph.evidence import evidence_of
from heimdall_server.storage.postgres.graph.groups import parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.moment import moment, reading
from heimdall_server.storage.postgres.graph.paths import shortest
from heimdall_server.storage.postgres.graph.rows import (
    SEEN,
    VALUE,
    any_vertex,
    array,
    seen_of,
    vertices_by_id,
)
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.graph.walk import Known, Traversal, Walk
from heimdall_server.storage.postgres.pool import PostgresPool

_READ_S: Final = 10.0
_ALL: Final = 2**31 - 1
_SIGHTINGS: Final = f"""
SELECT t.id::text::bigint, t.uid, {VALUE}, t.day, t.hours, t.provenance, {SEEN}
FROM {table(VertexKind.ENTITY)} e JOIN {table(EdgeKind.OF_ENTITY)} o ON o.end_id = e.id
JOIN {table(VertexKind.SIGHTING)} t ON t.id = o.start_id
WHERE e.uid = ANY(%s::uuid[]) AND e.tlp_min <= %s AND o.tlp_min <= %s AND t.tlp_min <= %s AND t.day BETWEEN %s AND %s
ORDER BY t.day DESC, t.id LIMIT %s
"""
_HOURS: Final = """
SELECT fact::text::bigint, (
    SELECT array_agg(s ORDER BY n) FROM (
        SELECT u.n, sum(u.hour)::integer AS s
        FROM graph_fact_provenance g JOIN graph_provenance p ON p.provenance_id = g.provenance, unnest(g.hours) WITH ORDINALITY AS u (hour, n)
        WHERE g.fact = f.fact AND p.tlp <= %s GROUP BY u.n
    ) h
) FROM unnest(%s::ag_catalog.graphid[]) AS f (fact)
"""
_STATE: Final = """
SELECT coalesce(sum(c.reltuples) FILTER (WHERE l.kind = 'v'), 0)::bigint, coalesce(sum(c.reltuples) FILTER (WHERE l.kind = 'e'), 0)::bigint,
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, (SELECT count(DISTINCT stream) FROM graph_applied)
FROM ag_catalog.ag_label l JOIN ag_catalog.ag_graph g ON g.graphid = l.graph JOIN pg_class c ON c.oid = l.relation
WHERE g.name = 'heimdall_graph' AND c.reltuples >= 0
"""


class PostgresGraphReader:
    """Implements `ports.graph.GraphReader`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._known = Known()

    async def get(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Vertex]:
        """See the port."""
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            roots = await roots_of(connection, ids) if has_merges else {one: one for one in ids}
            parts = await parts_of(connection, set(roots.values())) if has_merges else {}
            found = await vertices_by_id(connection, {*roots, *roots.values(), *parts}, any_vertex(tlp_max))
        whole = {one: [found[one].vertex.seen] for one in roots.values() if one in found}
        for part, root in parts.items():
            if part in found and root in whole:
                whole[root].append(found[part].vertex.seen)
        # A part that the reader mustn't see isn't there for them, whatever it was merged into.
        return {
            id_: replace(found[root].vertex, seen=_sum(whole[root])) if len(whole[root]) > 1 else found[root].vertex
            for id_, root in roots.items()
            if root in found and id_ in found
        }

    async def profiles(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Profile]:
        """See the port."""
        async with self._reading(_READ_S) as connection:
            return await visible_profiles(connection, ids, tlp_max)

    async def evidence(
        self, facts: Sequence[bytes | EdgeKey], *, tlp_max: Tlp, count_max: int | None = None
    ) -> Sequence[Witnesses]:
        """See the port. One statement, and one more where there are edges."""
        async with self._reading(_READ_S) as connection:
            return await evidence_of(connection, facts, tlp_max, _ALL if count_max is None else count_max)

    async def traverse(
        self, starts: Sequence[bytes], filter_: GraphFilter, limits: GraphLimits
    ) -> AsyncIterator[Level]:
        """See the port."""
        async with moment(self._pool, limits.time_s) as (connection, has_merges):
            traversal = Traversal(await Walk.begin(connection, self._known, filter_, limits, has_merges=has_merges))
            found = [await traversal.first(starts), await traversal.next(connection)]
        for level in found:
            yield level
        while not traversal.is_over:
            async with self._reading(limits.time_s) as connection:
                level = await traversal.next(connection)
            yield level

    async def paths(
        self, start: bytes, end: bytes, filter_: GraphFilter, limits: GraphLimits, *, count_max: int = 5
    ) -> Paths:
        """See the port."""
        async with moment(self._pool, limits.time_s) as (connection, has_merges):
            walk = await Walk.begin(connection, self._known, filter_, limits, has_merges=has_merges)
            return await shortest(walk, start, end, count_max=count_max)

    async def sightings(
        self,
        entity: bytes,
        *,
        tlp_max: Tlp,
        first_day: int = 0,
        last_day: int = 2**31 - 1,
        count_max: int = 1_000,
    ) -> Sequence[SightingRow]:
        """See the port."""
        ceiling = tlp_max.value
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            entities = [entity]
            if has_merges:
                root = (await roots_of(connection, entities))[entity]
                entities = [root, *await parts_of(connection, (root,))]
            ids = [one.hex() for one in entities]
            parameters = (ids, ceiling, ceiling, ceiling, first_day, last_day, count_max)
            cursor = await connection.execute(_SIGHTINGS, parameters)
            rows = await cursor.fetchall()
            seen = await seen_of(connection, {row[0]: row[6:] for row in rows}, tlp_max)
            several = [row[0] for row in rows if row[5] == 0]
            hours = {row[0]: row[4] or [] for row in rows}
            if several:
                cursor = await connection.execute(_HOURS, (ceiling, array(several)), prepare=False)
                hours |= {fact: told or [] for fact, told in await cursor.fetchall()}
        return [
            SightingRow(row[1].bytes, row[2], row[3], seen[row[0]], tuple(hours[row[0]]))
            for row in rows
            if row[0] in seen
        ]

    async def state(self) -> GraphState:
        """See the port."""
        async with self._reading(_READ_S) as connection:
            cursor = await connection.execute(_STATE)
            row = await cursor.fetchone()
        return GraphState(*(int(one) for one in row or (0, 0, 0, 0)))

    def _reading(self, time_s: float) -> AbstractAsyncContextManager[Connection]:
        return reading(self._pool, time_s)


def _sum(parts: Sequence[Seen]) -> Seen:
    return Seen(
        min(one.first_ns for one in parts),
        max(one.last_ns for one in parts),
        sum(one.count for one in parts),
        max(one.confidence for one in parts),
        min(one.tlp for one in parts),
    )
