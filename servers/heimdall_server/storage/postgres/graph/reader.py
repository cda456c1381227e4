"""Reads the graph: vertices, evidence, sightings, walks. Each answer is of one moment; of a traversal each level is."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from psycopg import errors as pg

from heimdall_server.domain.errors import QueryTimeoutError
from heimdall_server.domain.graph import ENDS, VERTEX_KINDS, EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_batches import Profile
from heimdall_server.domain.graph_reading import (
    EdgeKey,
    Evidence,
    GraphFilter,
    GraphLimits,
    GraphState,
    Level,
    Paths,
    SightingRow,
    Vertex,
)
from heimdall_server.storage.postgres.graph.groups import any_merges, parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import Labels, table
from heimdall_server.storage.postgres.graph.paths import shortest
from heimdall_server.storage.postgres.graph.rows import (
    SEEN,
    VALUE,
    Wanted,
    any_vertex,
    array,
    begin,
    seen_of,
    select_vertices,
    vertices_by_id,
)
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.graph.walk import Traversal, Walk
from heimdall_server.storage.postgres.pool import PostgresPool

_READ_S: Final = 10.0
_PROVENANCE: Final = "p.instance, p.source, p.method, p.method_version, p.dump, p.actor, p.confidence, p.tlp"
# The row of the fact itself is its one provenance; several have rows of their own.
_EVIDENCE: Final = f"""
WITH f (id, provenance, first_ns, last_ns, count, first_place, last_place) AS (
    SELECT s.* FROM ({{source}}) s WHERE s.provenance <> 0
    UNION ALL
    SELECT r.fact, r.provenance, r.first_ns, r.last_ns, r.count, r.first_place, r.last_place
    FROM ({{source}}) s JOIN graph_fact_provenance r ON r.fact = s.id WHERE s.provenance = 0
)
SELECT {_PROVENANCE}, f.first_ns, f.last_ns, f.count, f.first_place, f.last_place
FROM f JOIN graph_provenance p ON p.provenance_id = f.provenance WHERE p.tlp <= %s
ORDER BY p.confidence DESC, f.last_ns DESC, p.provenance_id
"""
_FACT: Final = "t.id, t.provenance, t.first_ns, t.last_ns, t.count, t.first_place, t.last_place"
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
_PROFILES: Final = f"""
SELECT p.id, p.rank, p.body FROM graph_profile p WHERE p.id = ANY(%s::uuid[]) AND (
    EXISTS (SELECT FROM {table(VertexKind.DUMP)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
    OR EXISTS (SELECT FROM {table(VertexKind.FIELD)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
)
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
        self._labels: Labels | None = None

    async def get(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Vertex]:
        """See the port."""
        async with self._reading(_READ_S) as connection:
            roots = await roots_of(connection, ids) if await any_merges(connection) else {one: one for one in ids}
            found = await vertices_by_id(connection, {*roots, *roots.values()}, any_vertex(tlp_max))
        # A part that the reader mustn't see isn't there for them, whatever it was merged into.
        return {id_: found[root].vertex for id_, root in roots.items() if root in found and id_ in found}

    async def list_vertices(
        self, kind: VertexKind, *, tlp_max: Tlp, type_: str = "", after: bytes = b"", count_max: int = 100
    ) -> Sequence[Vertex]:
        """See the port. Walks the index of ids: a rare type in a large graph takes long."""
        filter_ = replace(any_vertex(tlp_max), types=frozenset({type_} if type_ else ()))
        wanted = Wanted(kind, "true ORDER BY t.uid LIMIT %s", (count_max,))
        if after:
            wanted = Wanted(kind, "t.uid > %s ORDER BY t.uid LIMIT %s", (after.hex(), count_max))
        async with self._reading(_READ_S) as connection:
            found = await select_vertices(connection, (wanted,), filter_)
        return [one.vertex for one in found]

    async def profiles(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Profile]:
        """See the port."""
        async with self._reading(_READ_S) as connection:
            cursor = await connection.execute(_PROFILES, ([one.hex() for one in ids], tlp_max.value, tlp_max.value))
            return {id_.bytes: Profile(id_.bytes, rank, body) for id_, rank, body in await cursor.fetchall()}

    async def evidence(self, facts: Sequence[bytes | EdgeKey], *, tlp_max: Tlp) -> Sequence[Sequence[Evidence]]:
        """See the port. One statement a fact, and for vertices one a kind until it is found."""
        async with self._reading(_READ_S) as connection:
            return [await self._evidence_of(connection, fact, tlp_max) for fact in facts]

    async def traverse(
        self, starts: Sequence[bytes], filter_: GraphFilter, limits: GraphLimits
    ) -> AsyncIterator[Level]:
        """See the port."""
        async with self._reading(limits.time_s) as connection:
            traversal = Traversal(await Walk.begin(connection, await self._known_labels(connection), filter_, limits))
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
        async with self._reading(limits.time_s) as connection:
            walk = await Walk.begin(connection, await self._known_labels(connection), filter_, limits)
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
        async with self._reading(_READ_S) as connection:
            entities = [entity]
            if await any_merges(connection):
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

    async def _evidence_of(self, connection: Connection, fact: bytes | EdgeKey, tlp_max: Tlp) -> Sequence[Evidence]:
        if isinstance(fact, EdgeKey):
            sources = [_edge_source(fact)]
        else:
            sources = [
                (f"SELECT {_FACT} FROM {table(kind)} t WHERE t.uid = %s", list[object]([fact.hex()]))
                for kind in reversed(VERTEX_KINDS)
            ]
        for source, parameters in sources:
            statement = _EVIDENCE.format(source=source).encode()
            cursor = await connection.execute(statement, [*parameters, *parameters, tlp_max.value], prepare=False)
            if rows := await cursor.fetchall():
                return [_evidence(row) for row in rows]
        return []

    @contextlib.asynccontextmanager
    async def _reading(self, time_s: float) -> AsyncIterator[Connection]:
        async with self._pool.connection(timeout_s=time_s) as connection:
            try:
                await begin(connection, time_s=time_s)
                yield connection
            except pg.QueryCanceled:
                raise QueryTimeoutError(time_s) from None

    async def _known_labels(self, connection: Connection) -> Labels:
        if self._labels is None:
            self._labels = await Labels.load(connection)
        return self._labels


def _edge_source(key: EdgeKey) -> tuple[str, list[object]]:
    """An edge by its ends' ids. The kinds that its ends may be of follow from its own."""
    sides: list[str] = []
    parameters: list[object] = []
    for side, id_ in ((0, key.start), (1, key.end)):
        kinds = sorted({pair[side] for pair in ENDS[key.kind]})
        sides.append(" UNION ALL ".join(f"SELECT id FROM {table(kind)} WHERE uid = %s" for kind in kinds))
        parameters += [id_.hex()] * len(kinds)
    source = (
        f"SELECT {_FACT} FROM {table(key.kind)} t WHERE t.start_id IN ({sides[0]}) AND t.end_id IN ({sides[1]}) "
        "AND t.relation = coalesce((SELECT term_id FROM graph_term WHERE term = %s), 0)"
    )
    return source, [*parameters, key.relation]


def _evidence(row: Sequence[Any]) -> Evidence:
    instance, source, method, version, dump, actor, confidence, tlp = row[:8]
    return Evidence(Provenance(instance, source, method, version, dump, actor, confidence, Tlp(tlp)), *row[8:])
