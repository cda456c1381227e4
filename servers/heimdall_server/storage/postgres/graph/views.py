"""Lists of entities, and what is asked about many entities at once."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph import ID_BYTES, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_reading import Vertex
from heimdall_server.domain.graph_views import (
    DumpsOf,
    EntityFilter,
    EntityPage,
    ListedEntity,
    SightingsBy,
    SightingSums,
)
from heimdall_server.storage.postgres.graph.groups import parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.moment import moment
from heimdall_server.storage.postgres.graph.rows import VALUE, any_vertex, vertices_by_id
from heimdall_server.storage.postgres.graph.sighting_sums import sums_of
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_READ_S: Final = 10.0
_ROW_BYTES: Final = 8
SCANNED_MAX: Final = 20_000
"""Entities that one page looks at."""
_FOREVER_NS: Final = 2**63 - 1
_IDS_AT_ONCE: Final = 1_000
_EDGES_AT_ONCE: Final = 200_000
"""Edges to sightings that are looked at for the dumps of some entities."""
_EDGES_OF_ONE: Final = (50, 1_000)
"""Of one entity, the most relevant ones: at least, at most."""
_SCANNED: Final = "t.id, t.uid, t.first_ns, t.last_ns, t.confidence"
_BY_ROW: Final = (
    f"(SELECT {_SCANNED} FROM {table(VertexKind.ENTITY)} t WHERE t.tlp_min <= %s{{after}} ORDER BY t.id DESC LIMIT %s)"
)
# A range of one type and an order by it, so that of all indexes only the one of (type, row) has it: told that the type is one, the
# planner, which plans for a type of middling frequency, would walk all rows for the few of a rare one.
_BY_TYPE: Final = (
    f"(SELECT {_SCANNED} FROM {table(VertexKind.ENTITY)} t WHERE t.tlp_min <= %s AND t.type >= %s AND t.type <= %s{{after}} "
    "ORDER BY t.type DESC, t.id DESC LIMIT %s)"
)
_BY_LABEL: Final = (
    f"(SELECT {_SCANNED} FROM graph_label l JOIN {table(VertexKind.ENTITY)} t ON t.uid = l.id "
    "WHERE l.label = %s AND l.tlp <= %s AND t.tlp_min <= %s AND {type}{after} ORDER BY t.id DESC LIMIT %s)"
)
# What lies above the ceiling isn't scanned, so a page never ends at it.
_PAGE: Final = """
WITH s AS MATERIALIZED (SELECT * FROM ({scans}) u ORDER BY id DESC LIMIT %s), p AS MATERIALIZED (
    SELECT id, uid FROM s WHERE confidence >= %s AND last_ns >= %s AND first_ns < %s ORDER BY id DESC LIMIT %s
)
SELECT id::text::bigint, uid, true, 0 FROM p
UNION ALL (SELECT id::text::bigint, uid, false, (SELECT count(*) FROM s) FROM s ORDER BY id LIMIT 1)
"""
_IS_THERE: Final = f"SELECT FROM {table(VertexKind.ENTITY)} t WHERE t.id = %s::ag_catalog.graphid AND t.uid = %s"
_DUMPS: Final = f"""
SELECT e.uid, (array_agg(DISTINCT s.name ORDER BY s.name) FILTER (WHERE s.name IS NOT NULL))[1:%s], count(*) >= %s
FROM {table(VertexKind.ENTITY)} e CROSS JOIN LATERAL (
    SELECT o.start_id FROM {table(EdgeKind.OF_ENTITY)} o
    WHERE o.end_id = e.id AND o.tlp_min <= %s ORDER BY o.rank DESC LIMIT %s
) o LEFT JOIN LATERAL (
    SELECT {VALUE} AS name FROM {table(VertexKind.SIGHTING)} t
    WHERE t.id = o.start_id AND t.tlp_min <= %s AND t.type = (SELECT term_id FROM graph_term WHERE term = 'dump')
) s ON true
WHERE e.uid = ANY(%s::uuid[]) AND e.tlp_min <= %s GROUP BY e.uid
"""


class PostgresGraphViews:
    """Implements `ports.graph_views.GraphViews`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def entities(self, filter_: EntityFilter, *, after: bytes = b"", count_max: int = 100) -> EntityPage:
        """See the port. Walks the index of (type, row), of rows where no type is asked for, or of labels."""
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            types = await _type_numbers(connection, filter_.types)
            if filter_.types and not types:
                return EntityPage(())
            scanned = await _scan(connection, filter_, types, await _row_of(connection, after), count_max)
            ids = [row.uid for row in scanned.passed]
            found = await vertices_by_id(connection, ids, any_vertex(filter_.tlp_max))
            # Sums of a row are of all its provenances; what the reader may see of them can be less.
            told = [row for row in scanned.passed if row.uid in found and _passes(found[row.uid].vertex, filter_)]
            into = await _merged(connection, ids, filter_.tlp_max) if has_merges and ids else {}
        return EntityPage(
            [ListedEntity(found[row.uid].vertex, row.mark, into.get(row.uid, b"")) for row in told], scanned.next_after
        )

    async def sighting_sums(
        self, entity: bytes, by: SightingsBy, *, tlp_max: Tlp, first_day: int, last_day: int, count_max: int
    ) -> SightingSums:
        """See the port."""
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            ids = [entity]
            if has_merges:
                root = (await roots_of(connection, ids))[entity]
                ids = [root, *await parts_of(connection, (root,))]
            return await sums_of(
                connection, ids, by, tlp_max=tlp_max, first_day=first_day, last_day=last_day, count_max=count_max
            )

    async def merged(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, bytes]:
        """See the port."""
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            return await _merged(connection, ids, tlp_max) if has_merges else {}

    async def dumps_of(self, ids: Collection[bytes], *, tlp_max: Tlp, count_max: int = 10) -> Mapping[bytes, DumpsOf]:
        """See the port. Of an entity with very many sightings the most relevant ones are looked at."""
        asked, found = iter(ids), dict[bytes, DumpsOf]()
        edges_max = max(_EDGES_OF_ONE[0], min(_EDGES_OF_ONE[1], _EDGES_AT_ONCE // max(1, len(ids))))
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            while some := list(islice(asked, _IDS_AT_ONCE)):
                parts = await parts_of(connection, some) if has_merges else {}
                told = await _dumps(connection, [*some, *parts], tlp_max, edges_max=edges_max, count_max=count_max)
                for id_, dumps in told.items():
                    root = parts.get(id_, id_)
                    found[root] = _both(found[root], dumps, count_max) if root in found else dumps
        return {id_: dumps for id_, dumps in found.items() if dumps.names or dumps.more}


@dataclass(frozen=True, slots=True)
class _Row:
    """An entity's row, which a page may end at."""

    graph_id: int
    uid: bytes

    @property
    def mark(self) -> bytes:
        """How a later page names it. Rows are numbered anew when the graph is made anew, so the entity's id goes with it."""
        return self.graph_id.to_bytes(_ROW_BYTES, "big", signed=True) + self.uid


@dataclass(frozen=True, slots=True)
class _Scanned:
    """What a look at some entities found."""

    passed: Sequence[_Row]
    next_after: bytes
    """The next page goes on behind it; empty: that was all."""


async def _row_of(connection: Connection, mark: bytes) -> int | None:
    if not mark:
        return None
    graph_id = int.from_bytes(mark[:_ROW_BYTES], "big", signed=True)
    if len(mark) != _ROW_BYTES + ID_BYTES:
        raise TokenError("it is damaged")
    cursor = await connection.execute(_IS_THERE, (str(graph_id), mark[_ROW_BYTES:].hex()))
    if await cursor.fetchone() is None:
        raise TokenError("where it ends is no longer there, or the graph was made anew")
    return graph_id


async def _type_numbers(connection: Connection, types: Collection[str]) -> list[int]:
    if not types:
        return []
    cursor = await connection.execute("SELECT term_id FROM graph_term WHERE term = ANY(%s)", (sorted(types),))
    return [int(row[0]) for row in await cursor.fetchall()]


async def _scan(
    connection: Connection, filter_: EntityFilter, types: Sequence[int], after: int | None, count_max: int
) -> _Scanned:
    # Where all pass that the index gives, no more of them are looked at than are wanted.
    ceiling, scanned_max = filter_.tlp_max.value, count_max + 1
    if filter_.confidence_min or filter_.since_ns or filter_.until_ns < _FOREVER_NS:
        scanned_max = max(SCANNED_MAX, count_max + 1)
    scans: list[str] = []
    parameters: list[object] = []
    behind = "" if after is None else " AND t.id < %s::ag_catalog.graphid"
    bounds: list[object] = [*([] if after is None else [str(after)]), scanned_max]
    if filter_.label:
        scans.append(_BY_LABEL.format(type="t.type = ANY(%s)" if types else "true", after=behind))
        parameters += [filter_.label, ceiling, ceiling, *([list(types)] if types else []), *bounds]
    else:
        # One walk of the index a type, each in order: together they are in order after a short sort.
        for number in types or (None,):
            scans.append((_BY_ROW if number is None else _BY_TYPE).format(after=behind))
            parameters += [ceiling, *([] if number is None else [number, number]), *bounds]
    parameters += [scanned_max, filter_.confidence_min, filter_.since_ns, filter_.until_ns, count_max + 1]
    cursor = await connection.execute(
        _PAGE.format(scans=" UNION ALL ".join(scans)).encode(), parameters, prepare=len(scans) == 1
    )
    rows = await cursor.fetchall()
    passed = sorted((_Row(row[0], row[1].bytes) for row in rows if row[2]), key=lambda row: -row.graph_id)
    if len(passed) > count_max:
        return _Scanned(passed[:count_max], passed[count_max - 1].mark)
    last = next((_Row(row[0], row[1].bytes) for row in rows if not row[2] and row[3] >= scanned_max), None)
    return _Scanned(passed, b"" if last is None else last.mark)


def _passes(vertex: Vertex, filter_: EntityFilter) -> bool:
    seen = vertex.seen
    return (
        seen.confidence >= filter_.confidence_min
        and seen.last_ns >= filter_.since_ns
        and seen.first_ns < filter_.until_ns
    )


async def _merged(connection: Connection, ids: Collection[bytes], tlp_max: Tlp) -> dict[bytes, bytes]:
    roots = {id_: root for id_, root in (await roots_of(connection, ids)).items() if root != id_}
    if not roots:
        return {}
    visible = await vertices_by_id(connection, {*roots, *roots.values()}, any_vertex(tlp_max))
    return {id_: root for id_, root in roots.items() if id_ in visible and root in visible}


async def _dumps(
    connection: Connection, ids: Sequence[bytes], tlp_max: Tlp, *, edges_max: int, count_max: int
) -> dict[bytes, DumpsOf]:
    ceiling = tlp_max.value
    parameters = (count_max + 1, edges_max, ceiling, edges_max, ceiling, [one.hex() for one in ids], ceiling)
    cursor = await connection.execute(_DUMPS, parameters, prepare=True)
    return {
        id_.bytes: DumpsOf(names[:count_max], more or len(names) > count_max)
        for id_, told, more in await cursor.fetchall()
        if (names := told or []) or more
    }


def _both(one: DumpsOf, other: DumpsOf, count_max: int) -> DumpsOf:
    names = sorted({*one.names, *other.names})
    return DumpsOf(names[:count_max], one.more or other.more or len(names) > count_max)
