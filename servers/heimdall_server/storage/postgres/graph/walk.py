"""Walks through the graph, level by level: from vertices outwards, and between two of them from both ends.

What a walk has read are columns (`columns.py`); it makes values for the reader of what it tells.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np

from heimdall_server.domain.errors import QueryTimeoutError
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.domain.graph_reading import (
    Direction,
    Edge,
    GraphFilter,
    GraphLimits,
    Level,
    More,
    MoreReason,
    Vertex,
)
from heimdall_server.storage.postgres.graph.columns import EdgeColumns, Met, VertexColumns, octets_of
from heimdall_server.storage.postgres.graph.facts import NS_PER_DAY, Longs
from heimdall_server.storage.postgres.graph.groups import parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import Labels
from heimdall_server.storage.postgres.graph.rows import Wanted, any_vertex
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.graph.steps import (
    RARITY_MAX,
    TermNames,
    edges_of,
    rarity_of,
    select_columns,
    vertices_of,
)

_RARITY_ASKED_MAX: Final = 256
"""Neighbours of a level whose rarity is looked up; the others count as common."""
_HALF_LIFE_DAYS: Final = 90.0
_OPPOSITE: Final = {Direction.OUT: Direction.IN, Direction.IN: Direction.OUT, Direction.BOTH: Direction.BOTH}
_ROWS_ASIDE: Final = 500
"""More rows than these are made into values in a thread: that takes more than a millisecond."""
_Made = TypeVar("_Made")


class Known:
    """What never changes in a database, and is asked for once."""

    def __init__(self) -> None:
        self.names = TermNames()
        self._labels: Labels | None = None

    async def labels(self, connection: Connection) -> Labels:
        """Numbers of the labels."""
        if self._labels is None:
            self._labels = await Labels.load(connection)
        return self._labels


@dataclass(slots=True)
class Walk:
    """One walk: what it has met, and what it may still use.

    Vertices are known by the row of the one that stands for them; `parts` are the rows that are walked from in its place.
    """

    connection: Connection
    labels: Labels
    names: TermNames
    filter_: GraphFilter
    limits: GraphLimits
    has_merges: bool
    deadline_s: float
    met: Met = field(default_factory=Met)
    parts: dict[int, list[int]] = field(default_factory=dict)
    """Where there are merges at all: of every vertex."""
    edge_count: int = 0

    @classmethod
    async def begin(
        cls,
        connection: Connection,
        known: Known,
        filter_: GraphFilter,
        limits: GraphLimits,
        *,
        has_merges: bool,
    ) -> Walk:
        """Within a transaction that `rows.begin` has set."""
        labels = await known.labels(connection)
        return cls(connection, labels, known.names, filter_, limits, has_merges, time.monotonic() + limits.time_s)

    async def start(self, ids: Sequence[bytes]) -> VertexColumns:
        """The vertices to begin at, of whatever kind and type, as they were named."""
        wanted = list(ids)
        if self.has_merges:
            wanted = list(set((await roots_of(self.connection, ids)).values()))
        return await self._adopt(await self._named(wanted))

    async def edges(
        self, rows: Longs, *, backwards: bool = False, open_only: bool = False
    ) -> tuple[EdgeColumns, Longs]:
        """Edges of vertices and of their parts, and which of the vertices have more.

        Args:
            rows: Of vertices that were met.
            backwards: Follow edges against the filter's direction.
            open_only: Only those that lead to a vertex that passes.

        Raises:
            QueryTimeoutError: The walk's time is over.
        """
        if time.monotonic() > self.deadline_s:
            raise QueryTimeoutError(self.limits.time_s)
        every = rows
        if self.has_merges:
            every = np.array([part for row in rows.tolist() for part in self.parts[row]], np.int64)
        filter_ = replace(self.filter_, direction=_OPPOSITE[self.filter_.direction]) if backwards else self.filter_
        found, more = await edges_of(
            self.connection, self.labels, every, filter_, degree_max=self.limits.degree_max, open_only=open_only
        )
        self.edge_count += len(found)
        return found, np.unique(self.met.roots_of(more))

    async def vertices(self, rows: Longs) -> VertexColumns:
        """The vertices of rows that weren't met before and pass; of merged ones those that stand for them."""
        return await self._adopt(await vertices_of(self.connection, self.labels, rows, self.filter_))

    async def open_edges(self, rows: Longs, *, backwards: bool = False) -> tuple[EdgeColumns, Longs]:
        """As `edges`, but only those that lead to vertices that pass; these are met, and nothing is learned of them unless they may be merged."""
        edges, more = await self.edges(rows, backwards=backwards, open_only=not self.has_merges)
        ends = np.unique(np.concatenate([edges.start, edges.end]))
        unmet = ends[~self.met.find(ends)[1]]
        if self.has_merges:
            await self.vertices(unmet)
        else:
            self.met.add(unmet, unmet, np.zeros((len(unmet), 16), np.uint8))
        return edges, more

    async def doubted(self, rows: Longs) -> Longs:
        """Those of some vertices that a walk mustn't lead through, since they are believed too little."""
        found = await vertices_of(self.connection, self.labels, rows, any_vertex(self.filter_.tlp_max))
        return found.id[found.doubted(self.filter_.walk_confidence_min)]

    async def look_up(self, rows: Longs) -> dict[int, Vertex]:
        """Vertices that were met, by row, for the reader."""
        found = await vertices_of(self.connection, self.labels, rows, any_vertex(self.filter_.tlp_max))
        told = found.told(await self.names.of(self.connection, found.type))
        return dict(zip(found.id.tolist(), told, strict=True))

    def id_of(self, row: int) -> bytes:
        """The id of a vertex that was met and learned of."""
        return octets_of(self.met.uids[self.met.find(np.array([row]))[0]])[0]

    @property
    def has_read_enough(self) -> bool:
        """Whether the walk should end because of what it has read."""
        return self.edge_count >= self.limits.edge_scan_max

    def leave(self, roots: Longs) -> None:
        """Forget vertices that were met."""
        self.met.leave(roots)
        for row in roots.tolist() if self.has_merges else ():
            del self.parts[row]

    async def tell(
        self, vertices: VertexColumns, edges: EdgeColumns
    ) -> tuple[list[Vertex], list[Edge], dict[bytes, bytes]]:
        """For the reader: the vertices, of the edges those both of whose ends were met, and who stands for ends that are parts."""
        names = await self.names.of(self.connection, vertices.type, edges.relation)
        starts, has_start = self.met.find(edges.start)
        ends, has_end = self.met.find(edges.end)
        told = has_start & has_end
        uids = self.met.uids

        def make() -> tuple[list[Vertex], list[Edge], dict[bytes, bytes]]:
            start_ids, end_ids = octets_of(uids[starts[told]]), octets_of(uids[ends[told]])
            parts = self._parts_at(np.concatenate([starts[told], ends[told]])) if self.has_merges else {}
            return vertices.told(names), edges.take(told).told(start_ids, end_ids, names), parts

        return await _aside(make, len(vertices) + len(edges))

    def _parts_at(self, places: Longs) -> dict[bytes, bytes]:
        """Of vertices that were met those that are parts: who stands for each."""
        met = self.met
        parts = np.unique(places[met.roots[places] != met.rows[places]])
        stands = met.find(met.roots[parts])[0]
        return dict(zip(octets_of(met.uids[parts]), octets_of(met.uids[stands]), strict=True))

    async def _named(self, ids: Sequence[bytes]) -> VertexColumns:
        texts = [one.hex() for one in ids]
        wanted = [Wanted(kind, "t.uid = ANY(%s::uuid[])", (texts,)) for kind in VERTEX_KINDS] if texts else []
        return await select_columns(self.connection, self.labels, wanted, any_vertex(self.filter_.tlp_max))

    async def _adopt(self, found: VertexColumns) -> VertexColumns:
        """Remember vertices; merged ones become the one that stands for them, which brings its other parts along."""
        if not self.has_merges:
            self.met.add(found.id, found.id, found.uid)
            return found
        if not len(found):
            return found
        ids = found.ids()
        direct = await roots_of(self.connection, ids)
        merged = await parts_of(self.connection, set(direct.values())) | direct
        rows = dict(zip(ids, found.id.tolist(), strict=True))
        missing = {one for pair in merged.items() for one in pair} - set(rows)
        everybody = found
        if missing:
            everybody = found.joined(await self._named(list(missing)))
            known = dict(zip(octets_of(self.met.uids), self.met.rows.tolist(), strict=True)) if len(self.met) else {}
            rows = {one: known[one] for one in missing if one in known} | dict(
                zip(everybody.ids(), everybody.id.tolist(), strict=True)
            )
        place_of = {row: place for place, row in enumerate(everybody.id.tolist())}
        roots: list[int] = []
        told: dict[int, None] = {}
        for id_, row in zip(everybody.ids(), everybody.id.tolist(), strict=True):
            root = rows.get(merged.get(id_, id_), row)
            roots.append(root)
            if root not in self.parts and root in place_of:
                told[place_of[root]] = None
            if row not in (own := self.parts.setdefault(root, [])):
                own.append(row)
        everybody.gather(np.array(roots, np.int64))
        is_new = ~self.met.find(everybody.id)[1]
        self.met.add(everybody.id[is_new], np.array(roots, np.int64)[is_new], everybody.uid[is_new])
        return everybody.take(np.array(list(told), np.int64))


def not_walked(ids: Sequence[bytes]) -> More:
    """Says that some entities weren't walked on through."""
    return More(MoreReason.CONFIDENCE, ids[0] if len(ids) == 1 else b"", len(ids))


class Traversal:
    """A walk outwards, a level at a time. Between two levels it holds no connection."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._frontier = np.empty(0, np.int64)
        self._shown = 0
        self._depth = 0

    async def first(self, ids: Sequence[bytes]) -> Level:
        """The starts."""
        found = await self._walk.start(ids)
        self._frontier = found.id
        return Level(0, found.told(await self._walk.names.of(self._walk.connection, found.type)), [])

    @property
    def is_over(self) -> bool:
        """Whether there is no further level."""
        limits = self._walk.limits
        is_full = self._walk.has_read_enough or self._shown >= limits.vertex_count_max
        return not len(self._frontier) or is_full or self._depth == limits.depth_max

    async def next(self, connection: Connection) -> Level:
        """The next level. It is empty, and the last, where there is nothing beyond the one before."""
        walk, limits = self._walk, self._walk.limits
        walk.connection = connection
        self._depth += 1
        edges, capped = await walk.edges(self._frontier)
        places, _ = walk.met.find(capped)
        more = [
            More(MoreReason.DEGREE, id_, int(np.count_nonzero((edges.start == row) | (edges.end == row))))
            for row, id_ in zip(capped.tolist(), octets_of(walk.met.uids[places]), strict=True)
        ]
        room = limits.vertex_count_max - self._shown
        found, is_all = await self._candidates(edges, room)
        scores = await _scores(walk, found, edges)
        high, low = found.uid.view(">u8").reshape(-1, 2).T
        order = np.lexsort((low, high, -scores))
        if not is_all or len(found) > room:
            more.append(More(MoreReason.VERTEX_COUNT, shown_count=limits.vertex_count_max))
        if len(found) > room:
            walk.leave(found.id[order[room:]])
        chosen = found.take(order[:room])
        doubted = chosen.doubted(walk.filter_.walk_confidence_min)
        self._frontier = chosen.id[~doubted]
        self._shown += len(chosen)
        if walk.has_read_enough:
            more.append(More(MoreReason.EDGE_SCAN, shown_count=walk.edge_count))
        if doubted.any() and self._depth < limits.depth_max:
            more.append(not_walked(chosen.take(doubted).ids()))
        vertices, told, parts = await walk.tell(chosen, edges)
        return Level(self._depth, vertices, told, more, parts)

    async def _candidates(self, edges: EdgeColumns, room: int) -> tuple[VertexColumns, bool]:
        """Vertices that weren't met, the surest first, until there are enough; and whether these are all."""
        walk = self._walk
        ends = np.concatenate([edges.start, edges.end])
        unmet = np.flatnonzero(~walk.met.find(ends)[1])
        edge = unmet % max(1, len(edges))
        surest = np.lexsort((-edges.last_ns[edge], -edges.confidence[edge]))
        ends = ends[unmet[surest]]
        best = ends[np.sort(np.unique(ends, return_index=True)[1])]
        found = VertexColumns.none()
        size = walk.limits.vertex_count_max
        for begin in range(0, len(best), size):
            found = found.joined(await walk.vertices(best[begin : begin + size]))
            if len(found) >= room:
                return found, begin + size >= len(best)
        return found, True


async def _scores(walk: Walk, found: VertexColumns, edges: EdgeColumns) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How relevant vertices are: the surest and latest edge that led there, and how few others lead there."""
    if not len(found):
        return np.empty(0)
    age_days = (edges.last_ns.max() - edges.last_ns) / NS_PER_DAY
    of_edge = (edges.confidence + 1) / 101 * (0.25 + 0.75 * 0.5 ** (age_days / _HALF_LIFE_DAYS))
    roots = walk.met.roots_of(np.concatenate([edges.start, edges.end]))
    edge = np.tile(np.arange(len(edges)), 2)
    order = np.lexsort((-of_edge[edge], roots))
    reached, first = np.unique(roots[order], return_index=True)
    best_edge = edge[order[first]]
    places = np.minimum(np.searchsorted(reached, found.id), len(reached) - 1)
    best, kinds = of_edge[best_edge][places], edges.kind[best_edge][places]
    best[reached[places] != found.id] = 0
    asked = np.argsort(-best, kind="stable")[:_RARITY_ASKED_MAX]
    by_kind = {EDGE_KINDS[kind]: found.id[asked[kinds[asked] == kind]] for kind in np.unique(kinds[asked]).tolist()}
    counts = np.full(len(found), RARITY_MAX)
    rows, known = await rarity_of(walk.connection, by_kind, walk.filter_.tlp_max)
    sorter = np.argsort(found.id)
    counts[sorter[np.searchsorted(found.id, rows, sorter=sorter)]] = np.maximum(1, known)
    scores: np.ndarray[tuple[int], np.dtype[np.float64]] = best * (
        1 - 0.5 * np.log2(1 + counts) / math.log2(2 + RARITY_MAX)
    )
    return scores


async def _aside(make: Callable[[], _Made], row_count: int) -> _Made:
    return await asyncio.to_thread(make) if row_count > _ROWS_ASIDE else make()
