"""Walks through the graph, level by level: from vertices outwards, and between two of them from both ends."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heimdall_server.domain.errors import QueryTimeoutError
from heimdall_server.domain.graph import EdgeKind
from heimdall_server.domain.graph_reading import (
    Direction,
    Edge,
    EdgeKey,
    GraphFilter,
    GraphLimits,
    Level,
    More,
    MoreReason,
    Vertex,
)
from heimdall_server.storage.postgres.graph.facts import NS_PER_DAY
from heimdall_server.storage.postgres.graph.groups import any_merges, parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import Labels
from heimdall_server.storage.postgres.graph.rows import (
    RARITY_MAX,
    FoundEdge,
    any_vertex,
    edges_of,
    rarity_of,
    vertices_by_id,
    vertices_by_row,
)
from heimdall_server.storage.postgres.graph.staging import Connection

_RARITY_ASKED_MAX: Final = 256
"""Neighbours of a level whose rarity is looked up; the others count as common."""
_HALF_LIFE_DAYS: Final = 90.0
_OPPOSITE: Final = {Direction.OUT: Direction.IN, Direction.IN: Direction.OUT, Direction.BOTH: Direction.BOTH}


@dataclass(slots=True)
class Walk:
    """One walk: what it has seen, and what it may still use.

    Vertices are known by the row of the one that stands for them; `parts` are the rows that are walked from in its place.
    """

    connection: Connection
    labels: Labels
    filter_: GraphFilter
    limits: GraphLimits
    ids: dict[int, bytes] = field(default_factory=dict)
    """By row, of every vertex that was met, parts included."""
    root_of: dict[int, int] = field(default_factory=dict)
    parts: dict[int, list[int]] = field(default_factory=dict)
    edge_count: int = 0
    has_merges: bool = False
    deadline_s: float = 0.0

    @classmethod
    async def begin(cls, connection: Connection, labels: Labels, filter_: GraphFilter, limits: GraphLimits) -> Walk:
        """Within a transaction that `rows.begin` has set."""
        deadline_s = time.monotonic() + limits.time_s
        has_merges = await any_merges(connection)
        return cls(connection, labels, filter_, limits, has_merges=has_merges, deadline_s=deadline_s)

    async def start(self, ids: Sequence[bytes]) -> dict[int, Vertex]:
        """The vertices to begin at, by row; of whatever kind and type, as they were named."""
        wanted: Collection[bytes] = ids
        if self.has_merges:
            wanted = set((await roots_of(self.connection, ids)).values())
        found = await vertices_by_id(self.connection, wanted, any_vertex(self.filter_.tlp_max))
        return await self._adopt({one.graph_id: one.vertex for one in found.values()})

    async def edges(self, rows: Iterable[int], *, backwards: bool = False) -> tuple[list[FoundEdge], set[int]]:
        """Edges of vertices and of their parts, and which of the vertices have more.

        Args:
            rows: Of vertices that were met.
            backwards: Follow edges against the filter's direction.

        Raises:
            QueryTimeoutError: The walk's time is over.
        """
        if time.monotonic() > self.deadline_s:
            raise QueryTimeoutError(self.limits.time_s)
        every = [part for row in rows for part in self.parts[row]]
        filter_ = replace(self.filter_, direction=_OPPOSITE[self.filter_.direction]) if backwards else self.filter_
        found, more = await edges_of(self.connection, every, filter_, degree_max=self.limits.degree_max)
        self.edge_count += len(found)
        return found, {self.root_of[part] for part in more}

    async def vertices(self, rows: Collection[int]) -> dict[int, Vertex]:
        """The vertices of rows that weren't met before and pass, by the row of the one that stands for them."""
        unknown = [row for row in rows if row not in self.root_of]
        return await self._adopt(await vertices_by_row(self.connection, self.labels, unknown, self.filter_))

    @property
    def has_read_enough(self) -> bool:
        """Whether the walk should end because of what it has read."""
        return self.edge_count >= self.limits.edge_scan_max

    def leave(self, row: int) -> None:
        """Forget a vertex that was met."""
        for part in self.parts.pop(row):
            del self.ids[part], self.root_of[part]

    def told(self, edges: Iterable[FoundEdge]) -> list[Edge]:
        """Edges for the reader: those both of whose ends were met."""
        return [
            Edge(EdgeKey(one.kind, self.ids[one.start], self.ids[one.end], one.relation), one.seen)
            for one in edges
            if one.start in self.ids and one.end in self.ids
        ]

    async def _adopt(self, found: Mapping[int, Vertex]) -> dict[int, Vertex]:
        """Remember vertices; merged ones become the one that stands for them, which brings its other parts along."""
        roots: dict[int, Vertex] = {}
        merged: dict[bytes, bytes] = {}
        if self.has_merges and found:
            direct = await roots_of(self.connection, [vertex.id for vertex in found.values()])
            parts = await parts_of(self.connection, set(direct.values()))
            merged = parts | direct
        rows = {vertex.id: row for row, vertex in found.items()}
        everybody = dict(found)
        missing = {one for pair in merged.items() for one in pair} - set(rows)
        if missing:
            known = {id_: row for row, id_ in self.ids.items()}
            more = await vertices_by_id(self.connection, missing, any_vertex(self.filter_.tlp_max))
            everybody |= {one.graph_id: one.vertex for id_, one in more.items()}
            rows |= {id_: one.graph_id for id_, one in more.items()} | {
                id_: known[id_] for id_ in missing if id_ in known
            }
        for row, vertex in everybody.items():
            root = rows.get(merged.get(vertex.id, vertex.id), row)
            is_met = root in self.parts
            self.ids[row], self.root_of[row] = vertex.id, root
            if row not in (own := self.parts.setdefault(root, [])):
                own.append(row)
            if not is_met and root in everybody:
                roots[root] = everybody[root]
        return roots


class Traversal:
    """A walk outwards, a level at a time. Between two levels it holds no connection."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._frontier: dict[int, Vertex] = {}
        self._shown = 0
        self._depth = 0

    async def first(self, ids: Sequence[bytes]) -> Level:
        """The starts."""
        self._frontier = await self._walk.start(ids)
        return Level(0, list(self._frontier.values()), [])

    @property
    def is_over(self) -> bool:
        """Whether there is no further level."""
        limits = self._walk.limits
        is_full = self._walk.has_read_enough or self._shown >= limits.vertex_count_max
        return not self._frontier or is_full or self._depth == limits.depth_max

    async def next(self, connection: Connection) -> Level:
        """The next level. It is empty, and the last, where there is nothing beyond the one before."""
        walk, limits = self._walk, self._walk.limits
        walk.connection = connection
        self._depth += 1
        edges, capped = await walk.edges(self._frontier)
        more = [
            More(MoreReason.DEGREE, walk.ids[row], sum(1 for one in edges if row in (one.start, one.end)))
            for row in sorted(capped)
        ]
        room = limits.vertex_count_max - self._shown
        found, is_all = await self._candidates(edges, room)
        scores = await _scores(walk, found, edges)
        chosen = sorted(found, key=lambda row: (-scores[row], walk.ids[row]))
        if not is_all or len(chosen) > room:
            more.append(More(MoreReason.VERTEX_COUNT, shown_count=limits.vertex_count_max))
        for row in chosen[room:]:
            walk.leave(row)
        self._frontier = {row: found[row] for row in chosen[:room]}
        self._shown += len(self._frontier)
        if walk.has_read_enough:
            more.append(More(MoreReason.EDGE_SCAN, shown_count=walk.edge_count))
        return Level(self._depth, list(self._frontier.values()), walk.told(edges), more)

    async def _candidates(self, edges: Sequence[FoundEdge], room: int) -> tuple[dict[int, Vertex], bool]:
        """Vertices that weren't met, the surest first, until there are enough; and whether these are all."""
        walk = self._walk
        ends: dict[int, tuple[int, int]] = {}
        for one in edges:
            for end in (one.start, one.end):
                if end not in walk.root_of:
                    ends[end] = max(ends.get(end, (0, 0)), (one.seen.confidence, one.seen.last_ns))
        best = sorted(ends, key=lambda end: ends[end], reverse=True)
        found: dict[int, Vertex] = {}
        size = walk.limits.vertex_count_max
        for begin in range(0, len(best), size):
            found |= await walk.vertices(best[begin : begin + size])
            if len(found) >= room:
                return found, begin + size >= len(best)
        return found, True


async def _scores(walk: Walk, found: Mapping[int, Vertex], edges: Sequence[FoundEdge]) -> dict[int, float]:
    """How relevant vertices are: the surest and latest edge that led there, and how few others lead there."""
    if not found:
        return {}
    newest = max((one.seen.last_ns for one in edges), default=0)
    best = dict.fromkeys(found, 0.0)
    kinds: dict[int, EdgeKind] = {}
    for one in edges:
        age_days = (newest - one.seen.last_ns) / NS_PER_DAY
        score = (one.seen.confidence + 1) / 101 * (0.25 + 0.75 * 0.5 ** (age_days / _HALF_LIFE_DAYS))
        for end in (one.start, one.end):
            root = walk.root_of.get(end, 0)
            if root in best and score > best[root]:
                best[root], kinds[root] = score, one.kind
    asked: dict[EdgeKind, list[int]] = {}
    for row in sorted(best, key=lambda row: -best[row])[:_RARITY_ASKED_MAX]:
        asked.setdefault(kinds.get(row, EdgeKind.RELATED_TO), []).append(row)
    counts: dict[int, int] = {}
    for kind, rows in asked.items():
        counts |= await rarity_of(walk.connection, kind, rows, walk.filter_.tlp_max)
    most = math.log2(2 + RARITY_MAX)
    return {
        row: score * (1 - 0.5 * math.log2(1 + max(1, counts.get(row, RARITY_MAX))) / most)
        for row, score in best.items()
    }
