"""What a walk asks for at each step: the edges of many vertices, the vertices at their ends, how common these are. A statement each, whatever there are of."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from heimdall_server.domain.graph import EDGE_KINDS, ENDS, VERTEX_KINDS, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_reading import Direction, GraphFilter
from heimdall_server.storage.postgres.binary_copy import array_integers
from heimdall_server.storage.postgres.graph.columns import EDGE, VERTEX, Columns, EdgeColumns, VertexColumns, marked
from heimdall_server.storage.postgres.graph.facts import Longs, Mask
from heimdall_server.storage.postgres.graph.labels import ENTRY_BITS, Labels, table
from heimdall_server.storage.postgres.graph.rows import VALUE, VISIBLE_SUMS, Wanted, array
from heimdall_server.storage.postgres.graph.staging import Connection

_ARRAYS_EDGE: Final = ", ".join(f"array_agg({name.strip()})" for name in EDGE.split(","))
_ARRAYS_VERTEX: Final = ", ".join(f"array_agg({name.strip()})" for name in VERTEX.split(",")).replace(
    "(length)", "(octet_length(value))"
)
_SIDES: Final = {Direction.OUT: (0,), Direction.IN: (1,), Direction.BOTH: (0, 1)}
_TERMS_MAX: Final = 65_536
RARITY_MAX: Final = 64
"""Edges that are counted of a neighbour; it is common beyond that."""


class TermNames:
    """Names of types and relations by their numbers, which never change. For one event loop."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {0: ""}

    async def of(self, connection: Connection, *numbers: Longs) -> Mapping[int, str]:
        """The names of some, and perhaps of others."""
        asked = np.unique(np.concatenate(numbers)).tolist()
        unknown = [number for number in asked if number not in self._names]
        if unknown:
            if len(self._names) > _TERMS_MAX:
                self._names, unknown = {0: ""}, asked
            cursor = await connection.execute(
                "SELECT term_id, term FROM graph_term WHERE term_id = ANY(%s)", (unknown,), prepare=True
            )
            self._names |= {int(number): str(term) for number, term in await cursor.fetchall()}
        return self._names


async def edges_of(
    connection: Connection,
    labels: Labels,
    rows: Longs,
    filter_: GraphFilter,
    *,
    degree_max: int,
    open_only: bool = False,
) -> tuple[EdgeColumns, Longs]:
    """The most relevant edges of some vertices, each once, and the rows of those vertices that have more.

    Args:
        connection: Begun by `begin`.
        labels: Numbers of labels.
        rows: Of vertices.
        filter_: What passes.
        degree_max: Of one vertex, kind and direction.
        open_only: Only those that lead to a vertex that passes.
    """
    by_kind = _by_kind(labels, rows, VERTEX_KINDS)
    parts: list[str] = []
    parameters: list[object] = []
    for kind in EDGE_KINDS:
        for side in _SIDES[filter_.direction] if kind in filter_.edge_kinds else ():
            fitting = [by_kind[one] for one in {pair[side] for pair in ENDS[kind]} if one in by_kind]
            if not fitting:
                continue
            condition, asked = _open_if(kind, side, filter_) if open_only else ("", [])
            parts.append(_edge_part(kind, side, filter_, condition))
            parameters += asked
            parameters.append(array(np.sort(np.concatenate(fitting)).tolist()))
            parameters += [filter_.tlp_max.value, filter_.since_ns, filter_.until_ns, filter_.confidence_min]
            if _asks_relation(kind, filter_):
                parameters.append(sorted(filter_.relations))
            parameters.append(degree_max + 1)
    statement = f"SELECT {_ARRAYS_EDGE} FROM ({' UNION ALL '.join(parts)}) s ({EDGE})"
    answer = await _answer(connection, statement, parameters) if parts else [None] * len(EDGE.split(","))
    edges, more = EdgeColumns.of(answer, labels.kinds(EDGE_KINDS), degree_max=degree_max)
    edges = edges.take(np.sort(np.unique(edges.id, return_index=True)[1]))
    if (edges.tlp_max > filter_.tlp_max.value).any():
        edges = edges.take(await _visible_sums(connection, edges, filter_.tlp_max) & _passes(edges, filter_))
    return edges, more


async def vertices_of(connection: Connection, labels: Labels, rows: Longs, filter_: GraphFilter) -> VertexColumns:
    """The vertices of some rows that pass a filter."""
    by_kind = _by_kind(labels, rows, filter_.vertex_kinds)
    return await select_columns(connection, labels, [_of_rows(kind, some) for kind, some in by_kind.items()], filter_)


async def select_columns(
    connection: Connection, labels: Labels, wanted: Sequence[Wanted], filter_: GraphFilter
) -> VertexColumns:
    """Vertices that are visible and pass a filter, of several kinds in one statement."""
    selected = f"t.id, t.uid, t.type, t.day, t.first_ns, t.last_ns, t.count, {marked()}, coalesce({VALUE}, '')"
    parts, parameters = _vertex_parts(wanted, filter_, selected)
    if not parts:
        return VertexColumns.none()
    statement = (
        f"SELECT {_ARRAYS_VERTEX}, string_agg(value, '') "
        f"FROM ({' UNION ALL '.join(parts)}) s ({VERTEX.replace(', length', '')}, value)"
    )
    found = VertexColumns.of(await _answer(connection, statement, parameters), labels.kinds(VERTEX_KINDS))
    if (found.tlp_max > filter_.tlp_max.value).any():
        found = found.take(await _visible_sums(connection, found, filter_.tlp_max))
    return found


async def rarity_of(connection: Connection, asked: Mapping[EdgeKind, Longs], tlp_max: Tlp) -> tuple[Longs, Longs]:
    """How many visible edges of a kind end at some vertices, up to `RARITY_MAX`: rows and counts."""
    parts: list[str] = []
    parameters: list[object] = []
    for kind, rows in asked.items():
        parts.append(
            "SELECT f.id, d.count FROM unnest(%s::ag_catalog.graphid[]) AS f (id) CROSS JOIN LATERAL (SELECT count(*) AS count FROM ("
            f"SELECT FROM {table(kind)} t WHERE t.end_id = f.id AND t.tlp_min <= %s LIMIT {RARITY_MAX}) s) d"
        )
        parameters += [array(rows.tolist()), tlp_max.value]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    statement = f"SELECT array_agg(id), array_agg(count) FROM ({' UNION ALL '.join(parts)}) s (id, count)"
    found, counts = await _answer(connection, statement, parameters)
    return array_integers(found, 8), array_integers(counts, 8)


def _edge_part(kind: EdgeKind, side: int, filter_: GraphFilter, open_if: str) -> str:
    near, far = ("start_id", "end_id") if side == 0 else ("end_id", "start_id")
    conditions = ["t.tlp_min <= %s", "t.last_ns >= %s", "t.first_ns < %s", "t.confidence >= %s"]
    if _asks_relation(kind, filter_):
        conditions.append("t.relation IN (SELECT term_id FROM graph_term WHERE term = ANY(%s))")
    return (
        f"SELECT f.id, e.{far}, e.id, e.relation, e.first_ns, e.last_ns, e.count, {marked('e', side=side, open_if=open_if)} "
        f"FROM unnest(%s::ag_catalog.graphid[]) AS f (id) CROSS JOIN LATERAL (SELECT t.* FROM {table(kind)} t "
        f"WHERE t.{near} = f.id AND {' AND '.join(conditions)} ORDER BY t.rank DESC LIMIT %s) e"
    )


def _open_if(kind: EdgeKind, side: int, filter_: GraphFilter) -> tuple[str, list[object]]:
    """Whether the vertex passes that an edge leads to, and its parameters."""
    far = "end_id" if side == 0 else "start_id"
    conditions: list[str] = []
    parameters: list[object] = []
    for one in sorted({pair[1 - side] for pair in ENDS[kind]} & filter_.vertex_kinds):
        parts, asked = _vertex_parts([Wanted(one, f"t.id = e.{far}", ())], filter_, "")
        conditions.append(f"EXISTS ({parts[0]})")
        parameters += asked
    return " OR ".join(conditions) or "false", parameters


def _asks_relation(kind: EdgeKind, filter_: GraphFilter) -> bool:
    return bool(filter_.relations) and kind in (EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY)


def _of_rows(kind: VertexKind, rows: Longs) -> Wanted:
    return Wanted(kind, "t.id = ANY(%s::ag_catalog.graphid[])", (array(rows.tolist()),))


def _vertex_parts(wanted: Sequence[Wanted], filter_: GraphFilter, selected: str) -> tuple[list[str], list[object]]:
    parts: list[str] = []
    parameters: list[object] = []
    for one in wanted:
        conditions = ["t.tlp_min <= %s", one.where]
        parameters.append(filter_.tlp_max.value)
        if filter_.types and one.kind is VertexKind.ENTITY:
            conditions.insert(1, "t.type IN (SELECT term_id FROM graph_term WHERE term = ANY(%s))")
            parameters.append(sorted(filter_.types))
        parameters += one.parameters
        parts.append(f"SELECT {selected} FROM {table(one.kind)} t WHERE {' AND '.join(conditions)}")
    return parts, parameters


async def _answer(connection: Connection, statement: str, parameters: Sequence[object]) -> list[bytes | None]:
    """The one row of a statement, as the octets of its values."""
    cursor = await connection.execute(statement.encode(), parameters, prepare=True, binary=True)
    result = cursor.pgresult
    return [] if result is None else [result.get_value(0, index) for index in range(result.nfields)]


async def _visible_sums(connection: Connection, columns: Columns, tlp_max: Tlp) -> Mask:
    """Make what the reader may know of facts some of whose provenances lie above the ceiling, in place; which facts are there at all."""
    is_visible = np.ones(len(columns), bool)
    mixed = np.flatnonzero(columns.tlp_max > tlp_max.value)
    asked = array(columns.id[mixed].tolist())
    cursor = await connection.execute(VISIBLE_SUMS, (asked, tlp_max.value), prepare=False)
    visible = {row[0]: row[1:] for row in await cursor.fetchall()}
    for place, fact in zip(mixed.tolist(), columns.id[mixed].tolist(), strict=True):
        sums = visible.get(fact)
        if sums is None:
            is_visible[place] = False
            continue
        for column, value in zip(
            (columns.first_ns, columns.last_ns, columns.count, columns.confidence, columns.tlp), sums, strict=True
        ):
            column[place] = value
    return is_visible


def _passes(edges: EdgeColumns, filter_: GraphFilter) -> Mask:
    """Sums that were made anew may no longer be what was asked for."""
    mask: Mask = (
        (edges.last_ns >= filter_.since_ns)
        & (edges.first_ns < filter_.until_ns)
        & (edges.confidence >= filter_.confidence_min)
    )
    return mask


def _by_kind(labels: Labels, rows: Longs, kinds: Collection[VertexKind]) -> dict[VertexKind, Longs]:
    """Rows by their label, those of some kinds only."""
    found: dict[VertexKind, Longs] = {}
    for number in np.unique(rows >> ENTRY_BITS).tolist():
        kind = next((one for one in kinds if labels.number[one] == number), None)
        if kind is not None:
            found[kind] = rows[(rows >> ENTRY_BITS) == number]
    return found
