"""Rows of the label tables as readers get them: one statement for many vertices, one for the edges of many vertices.

Sums of a fact are of all its provenances. Where some of these lie above the reader's ceiling, they are made anew of those that don't.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_reading import Direction, GraphFilter, Seen, Vertex
from heimdall_server.storage.postgres.graph.labels import ENTRY_BITS, Labels, table
from heimdall_server.storage.postgres.graph.staging import Connection

SEEN: Final = "t.first_ns, t.last_ns, t.count, t.confidence, t.tlp_min, t.tlp_max"
VALUE: Final = "agtype_access_operator(VARIADIC ARRAY[t.properties, '\"value\"'::agtype])::text"
"""A vertex's value, out of what Cypher sees."""
_VERTEX: Final = f"t.id::text::bigint, t.uid, y.term, {VALUE}, t.day, {SEEN}"
_TLPS: Final = tuple(Tlp)
_ROWS_ASIDE: Final = 200
"""More rows than these are made into values in a thread: that takes more than a millisecond."""
_VISIBLE_SUMS: Final = (
    "SELECT f.fact::text::bigint, min(f.first_ns), max(f.last_ns), sum(f.count)::bigint, max(p.confidence), min(p.tlp) "
    "FROM graph_fact_provenance f JOIN graph_provenance p ON p.provenance_id = f.provenance "
    "WHERE f.fact = ANY(%s::ag_catalog.graphid[]) AND p.tlp <= %s GROUP BY f.fact"
)
RARITY_MAX: Final = 64
"""Edges that are counted of a neighbour; it is common beyond that."""


_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class FoundVertex:
    """A vertex and the id of its row."""

    graph_id: int
    vertex: Vertex


@dataclass(frozen=True, slots=True)
class FoundEdge:
    """An edge between rows."""

    kind: EdgeKind
    graph_id: int
    start: int
    end: int
    relation: str
    seen: Seen

    def other(self, graph_id: int) -> int:
        """The end that isn't this one."""
        return self.end if graph_id == self.start else self.start


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which vertices of a kind; `where` may end with an order and a limit."""

    kind: VertexKind
    where: str
    parameters: Sequence[object]


async def begin(connection: Connection, *, time_s: float) -> None:
    """Settings of a reading transaction, in one message, before anything is asked."""
    # Many ids are looked up one by one; whatever statistics say, whole tables aren't read for it.
    settings = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET LOCAL search_path = heimdall, ag_catalog",
        f"SET LOCAL statement_timeout = {max(1, int(time_s * 1000))}",
        "SET LOCAL enable_hashjoin = off",
        "SET LOCAL enable_mergejoin = off",
        "SET LOCAL enable_seqscan = off",
        # One plan serves all: making it takes longer than what most statements do.
        "SET LOCAL plan_cache_mode = force_generic_plan",
    )
    await connection.execute("; ".join(settings).encode())


def array(numbers: Collection[int]) -> str:
    """Graph ids as PostgreSQL's array literal."""
    return "{" + ",".join(map(str, numbers)) + "}"


async def vertices_by_row(
    connection: Connection, labels: Labels, graph_ids: Collection[int], filter_: GraphFilter
) -> dict[int, Vertex]:
    """The vertices of some rows that pass a filter."""
    kinds = {labels.number[kind]: kind for kind in VERTEX_KINDS if kind in filter_.vertex_kinds}
    by_kind: dict[VertexKind, list[int]] = {}
    for graph_id in graph_ids:
        kind = kinds.get(graph_id >> ENTRY_BITS)
        if kind is not None:
            by_kind.setdefault(kind, []).append(graph_id)
    wanted = [Wanted(kind, "t.id = ANY(%s::ag_catalog.graphid[])", (array(some),)) for kind, some in by_kind.items()]
    return {one.graph_id: one.vertex for one in await select_vertices(connection, wanted, filter_)}


async def vertices_by_id(
    connection: Connection, ids: Collection[bytes], filter_: GraphFilter
) -> dict[bytes, FoundVertex]:
    """The vertices with some ids that pass a filter."""
    texts = [one.hex() for one in ids]
    kinds = [kind for kind in VERTEX_KINDS if kind in filter_.vertex_kinds] if texts else []
    wanted = [Wanted(kind, "t.uid = ANY(%s::uuid[])", (texts,)) for kind in kinds]
    return {one.vertex.id: one for one in await select_vertices(connection, wanted, filter_)}


async def select_vertices(connection: Connection, wanted: Sequence[Wanted], filter_: GraphFilter) -> list[FoundVertex]:
    """Vertices that are visible and pass a filter, of several kinds in one statement."""
    parts: list[str] = []
    parameters: list[object] = []
    for one in wanted:
        number, condition = VERTEX_KINDS.index(one.kind), one.where
        parameters.append(filter_.tlp_max.value)
        if filter_.types and one.kind is VertexKind.ENTITY:
            condition = f"y.term = ANY(%s) AND {one.where}"
            parameters.append(sorted(filter_.types))
        parameters += one.parameters
        parts.append(
            f"(SELECT {number}, {_VERTEX} FROM {table(one.kind)} t LEFT JOIN graph_term y ON y.term_id = t.type "
            f"WHERE t.tlp_min <= %s AND {condition})"
        )
    if not parts:
        return []
    cursor = await connection.execute(" UNION ALL ".join(parts).encode(), parameters, prepare=True)
    rows = await cursor.fetchall()
    seen = await seen_of(connection, {row[1]: row[6:] for row in rows}, filter_.tlp_max)
    return await _aside(_vertices_from, rows, seen)


async def edges_of(
    connection: Connection, graph_ids: Collection[int], filter_: GraphFilter, *, degree_max: int
) -> tuple[list[FoundEdge], set[int]]:
    """The most relevant edges of some vertices, and which of the vertices have more.

    Args:
        connection: Begun by `begin`.
        graph_ids: Rows of vertices.
        filter_: What passes.
        degree_max: Of one vertex, kind and direction.
    """
    rows = await _select_edges(connection, graph_ids, filter_, degree_max + 1)
    seen = await seen_of(connection, {row[2]: row[6:] for row in rows}, filter_.tlp_max)
    return await _aside(lambda some, known: _edges_from(some, known, filter_, degree_max), rows, seen)


def _edges_from(
    rows: Sequence[tuple[Any, ...]], seen: Mapping[int, Seen], filter_: GraphFilter, degree_max: int
) -> tuple[list[FoundEdge], set[int]]:
    found: dict[int, FoundEdge] = {}
    more: set[int] = set()
    counts: dict[tuple[int, int], int] = {}
    for part, origin, graph_id, start, end, relation, *_ in rows:
        count = counts[part, origin] = counts.get((part, origin), 0) + 1
        if count > degree_max:
            more.add(origin)
        elif graph_id in seen and _passes(seen[graph_id], filter_):
            kind = EDGE_KINDS[part >> 1]
            found[graph_id] = FoundEdge(kind, graph_id, start, end, relation or "", seen[graph_id])
    return list(found.values()), more


async def _aside(
    make: Callable[[Sequence[tuple[Any, ...]], Mapping[int, Seen]], _Made],
    rows: Sequence[tuple[Any, ...]],
    seen: Mapping[int, Seen],
) -> _Made:
    return await asyncio.to_thread(make, rows, seen) if len(rows) > _ROWS_ASIDE else make(rows, seen)


async def seen_of(connection: Connection, sums: Mapping[int, Sequence[Any]], tlp_max: Tlp) -> dict[int, Seen]:
    """What a reader may know of facts.

    Args:
        connection: Any.
        sums: By row: `SEEN`.
        tlp_max: The reader's ceiling.
    """
    seen = {
        fact: Seen(first_ns, last_ns, count, confidence, _TLPS[tlp])
        for fact, (first_ns, last_ns, count, confidence, tlp, _) in sums.items()
    }
    mixed = [fact for fact, row in sums.items() if row[5] > tlp_max]
    if mixed:
        cursor = await connection.execute(_VISIBLE_SUMS, (array(mixed), tlp_max.value), prepare=False)
        visible = {
            fact: Seen(first_ns, last_ns, count, confidence, Tlp(tlp))
            for fact, first_ns, last_ns, count, confidence, tlp in await cursor.fetchall()
        }
        for fact in mixed:
            if fact in visible:
                seen[fact] = visible[fact]
            else:
                del seen[fact]
    return seen


async def rarity_of(connection: Connection, kind: EdgeKind, graph_ids: Collection[int], tlp_max: Tlp) -> dict[int, int]:
    """How many visible edges of a kind end at some vertices, up to `RARITY_MAX`."""
    cursor = await connection.execute(
        "SELECT f.id::text::bigint, d.count FROM unnest(%s::ag_catalog.graphid[]) AS f (id) CROSS JOIN LATERAL "
        f"(SELECT count(*) AS count FROM (SELECT FROM {table(kind)} t WHERE t.end_id = f.id AND t.tlp_min <= %s LIMIT {RARITY_MAX}) s) d".encode(),
        (array(graph_ids), tlp_max.value),
        prepare=True,
    )
    return {int(graph_id): int(count) for graph_id, count in await cursor.fetchall()}


def any_vertex(tlp_max: Tlp) -> GraphFilter:
    """The filter that all that is visible passes."""
    return GraphFilter(tlp_max=tlp_max)


async def _select_edges(
    connection: Connection, graph_ids: Collection[int], filter_: GraphFilter, limit: int
) -> list[tuple[Any, ...]]:
    """Edges of all kinds and directions in one statement; the first column is the kind's number, doubled, and the side."""
    sides = {Direction.OUT: (0,), Direction.IN: (1,), Direction.BOTH: (0, 1)}[filter_.direction]
    ids = array(graph_ids)
    parts: list[str] = []
    parameters: list[object] = []
    for number, kind in enumerate(EDGE_KINDS):
        for side in sides if kind in filter_.edge_kinds else ():
            conditions = ["t.tlp_min <= %s", "t.last_ns >= %s", "t.first_ns < %s", "t.confidence >= %s"]
            parameters += [ids, filter_.tlp_max.value, filter_.since_ns, filter_.until_ns, filter_.confidence_min]
            if filter_.relations and kind in (EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY):
                conditions.append("t.relation IN (SELECT term_id FROM graph_term WHERE term = ANY(%s))")
                parameters.append(sorted(filter_.relations))
            parts.append(
                f"SELECT {2 * number + side}, f.id::text::bigint, e.id::text::bigint, e.start_id::text::bigint, "
                "e.end_id::text::bigint, y.term, e.first_ns, e.last_ns, e.count, e.confidence, e.tlp_min, e.tlp_max "
                "FROM unnest(%s::ag_catalog.graphid[]) AS f (id) CROSS JOIN LATERAL ("
                f"SELECT t.* FROM {table(kind)} t WHERE t.{('start_id', 'end_id')[side]} = f.id "
                f"AND {' AND '.join(conditions)} ORDER BY t.rank DESC LIMIT {limit}) e "
                "LEFT JOIN graph_term y ON y.term_id = e.relation"
            )
    if not parts or not graph_ids:
        return []
    cursor = await connection.execute(" UNION ALL ".join(parts).encode(), parameters, prepare=True)
    return await cursor.fetchall()


def _passes(seen: Seen, filter_: GraphFilter) -> bool:
    return (
        seen.last_ns >= filter_.since_ns
        and seen.first_ns < filter_.until_ns
        and seen.confidence >= filter_.confidence_min
    )


def _vertices_from(rows: Sequence[tuple[Any, ...]], seen: Mapping[int, Seen]) -> list[FoundVertex]:
    return [
        FoundVertex(graph_id, Vertex(id_.bytes, VERTEX_KINDS[kind], type_ or "", value, seen[graph_id], day))
        for kind, graph_id, id_, type_, value, day, *_ in rows
        if graph_id in seen
    ]
