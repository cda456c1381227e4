"""Rows of the label tables as readers get them: one statement for many vertices, one for the edges of many vertices.

Sums of a fact are of all its provenances. Where some of these lie above the reader's ceiling, they are made anew of those that don't.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from heimdall_server.domain.graph import VERTEX_KINDS, Tlp, VertexKind
from heimdall_server.domain.graph_reading import GraphFilter, Seen, Vertex
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

SEEN: Final = "t.first_ns, t.last_ns, t.count, t.confidence, t.tlp_min, t.tlp_max"
VALUE: Final = "agtype_access_operator(VARIADIC ARRAY[t.properties, '\"value\"'::agtype])::text"
"""A vertex's value, out of what Cypher sees."""
_VERTEX: Final = f"t.id::text::bigint, t.uid, y.term, {VALUE}, t.day, {SEEN}"
_TLPS: Final = tuple(Tlp)
_ROWS_ASIDE: Final = 200
"""More rows than these are made into values in a thread: that takes more than a millisecond."""
VISIBLE_SUMS: Final = (
    "SELECT f.fact::text::bigint, min(f.first_ns), max(f.last_ns), sum(f.count)::bigint, max(p.confidence), min(p.tlp) "
    "FROM graph_fact_provenance f JOIN graph_provenance p ON p.provenance_id = f.provenance "
    "WHERE f.fact = ANY(%s::ag_catalog.graphid[]) AND p.tlp <= %s GROUP BY f.fact"
)


_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class FoundVertex:
    """A vertex and the id of its row."""

    graph_id: int
    vertex: Vertex


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which vertices of a kind; `where` may end with an order and a limit."""

    kind: VertexKind
    where: str
    parameters: Sequence[object]


async def begin(connection: Connection, *, time_s: float) -> bool:
    """Begin a reading transaction and make its settings, in one message; the connection commits by itself otherwise.

    Returns:
        Whether anything is merged at all. Mostly nothing is, and then nobody need ask who stands for whom.
    """
    # Many ids are looked up one by one; whatever statistics say, whole tables aren't read for it.
    settings = (
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET LOCAL search_path = heimdall, ag_catalog",
        f"SET LOCAL statement_timeout = {max(1, int(time_s * 1000))}",
        "SET LOCAL enable_hashjoin = off",
        "SET LOCAL enable_mergejoin = off",
        "SET LOCAL enable_seqscan = off",
        # One plan serves all: making it takes longer than what most statements do.
        "SET LOCAL plan_cache_mode = force_generic_plan",
        "SELECT EXISTS (SELECT FROM graph_merge)",
    )
    cursor = await connection.execute("; ".join(settings).encode())
    while cursor.nextset():
        pass
    row = await cursor.fetchone()
    return bool(row and row[0])


def array(numbers: Collection[int]) -> str:
    """Graph ids as PostgreSQL's array literal."""
    return "{" + ",".join(map(str, numbers)) + "}"


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
        cursor = await connection.execute(VISIBLE_SUMS, (array(mixed), tlp_max.value), prepare=False)
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


def any_vertex(tlp_max: Tlp) -> GraphFilter:
    """The filter that all that is visible passes."""
    return GraphFilter(tlp_max=tlp_max)


def _vertices_from(rows: Sequence[tuple[Any, ...]], seen: Mapping[int, Seen]) -> list[FoundVertex]:
    return [
        FoundVertex(graph_id, Vertex(id_.bytes, VERTEX_KINDS[kind], type_ or "", value, seen[graph_id], day))
        for kind, graph_id, id_, type_, value, day, *_ in rows
        if graph_id in seen
    ]
