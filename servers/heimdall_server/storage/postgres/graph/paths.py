"""Shortest ways between two vertices: walked from both ends, always from the smaller side, until the two meet.

On the way nothing is learned of a vertex but that it may be walked through; those on the ways that are told are looked up at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from heimdall_server.domain.graph_reading import Edge, More, MoreReason, Path, Paths, Vertex
from heimdall_server.storage.postgres.graph.columns import EdgeColumns
from heimdall_server.storage.postgres.graph.facts import Longs
from heimdall_server.storage.postgres.graph.walk import Walk, not_walked

_WAYS_MAX = 10_000
"""Ways that are looked at to find the most trustworthy ones."""


@dataclass(slots=True)
class _Step:
    """The edges by which a side came one step further, by the vertex that they reached, rising."""

    far: Longs
    near: Longs
    edge: Longs
    """In `edges`."""
    edges: EdgeColumns

    def back(self, row: int) -> Iterator[tuple[int, int]]:
        """From a vertex that was reached: vertices one step nearer to the end, and the edge there."""
        begin, end = np.searchsorted(self.far, [row, row + 1])
        yield from zip(self.near[begin:end].tolist(), self.edge[begin:end].tolist(), strict=True)


@dataclass(slots=True)
class _Side:
    """What is known from one end."""

    frontier: Longs
    reached: Longs
    """Rows of all vertices so far, rising."""
    backwards: bool = False
    """Whether it is the goal's: edges are followed against their direction then."""
    steps: list[_Step] = field(default_factory=list)

    def depth(self, row: int) -> int:
        """Steps from the end to a vertex that was reached."""
        for number, step in enumerate(self.steps, 1):
            place = int(np.searchsorted(step.far, row))
            if place < len(step.far) and step.far[place] == row:
                return number
        return 0


@dataclass(frozen=True, slots=True)
class _Way:
    """Rows of vertices, and for each two of them the step and its edge that join them."""

    rows: tuple[int, ...]
    hops: tuple[tuple[_Step, int], ...]

    @property
    def confidence(self) -> int:
        """Of its least sure edge."""
        return min(int(step.edges.confidence[edge]) for step, edge in self.hops)


async def shortest(walk: Walk, start: bytes, end: bytes, *, count_max: int) -> Paths:
    """See `GraphReader.paths`."""
    first, last = await walk.start([start]), await walk.start([end])
    begin = int(first.id[0]) if len(first) else None
    goal = int(last.id[0]) if len(last) else None
    if goal is None:  # it is the start, or was merged into it
        same = np.flatnonzero((walk.met.uids == np.frombuffer(end, np.uint8)).all(axis=1))
        goal = int(walk.met.roots[same[0]]) if len(same) else None
    if begin is None or goal is None:
        return Paths(())
    if begin == goal:
        return Paths((Path(((await walk.look_up(first.id))[begin],), ()),))
    sides = tuple(_Side(np.array([row]), np.array([row]), row == goal) for row in (begin, goal))
    more: list[More] = []
    passed: set[int] = set()
    for _ in range(walk.limits.depth_max):
        side, other = sorted(sides, key=lambda one: len(one.frontier))
        if not len(side.frontier):
            break
        await _step(walk, side, more)
        passed |= await _leave_doubted(walk, side, ends=np.array([begin, goal]))
        meeting = np.intersect1d(side.frontier, other.reached)
        if len(meeting):
            more += await _doubts_told(walk, passed)
            return Paths(await _told(walk, _ways(sides, meeting), count_max), tuple(more))
        if walk.has_read_enough:
            more.append(More(MoreReason.EDGE_SCAN, shown_count=walk.edge_count))
            break
    else:
        if all(len(side.frontier) for side in sides):
            more.append(More(MoreReason.DEPTH))
    return Paths((), (*more, *await _doubts_told(walk, passed)))


async def _step(walk: Walk, side: _Side, more: list[More]) -> None:
    """One step outwards. All edges between the old frontier and the new one are kept: each may be part of a shortest way."""
    edges, capped = await walk.open_edges(side.frontier, backwards=side.backwards)
    if len(capped):
        known = await walk.look_up(capped)
        more += [More(MoreReason.DEGREE, known[row].id, walk.limits.degree_max) for row in capped.tolist()]
    starts, stops = walk.met.roots_of(edges.start), walk.met.roots_of(edges.end)
    near, far = np.concatenate([starts, stops]), np.concatenate([stops, starts])
    edge = np.tile(np.arange(len(edges)), 2)
    passed = (far >= 0) & np.isin(near, side.frontier) & ~np.isin(far, side.reached)
    near, far, edge = near[passed], far[passed], edge[passed]
    order = np.argsort(far, kind="stable")
    side.steps.append(_Step(far[order], near[order], edge[order], edges))
    side.frontier = np.unique(far)
    side.reached = np.union1d(side.reached, side.frontier)


async def _leave_doubted(walk: Walk, side: _Side, *, ends: Longs) -> set[int]:
    """Take out of a frontier the entities that are believed too little for a way to lead through them; their rows."""
    if not walk.filter_.walk_confidence_min or not len(side.frontier):
        return set()
    step = side.steps[-1]
    sure = step.far[step.edges.confidence[step.edge] >= walk.filter_.walk_confidence_min]
    # Whoever makes an entity sure makes the edges at it sure, too; so only the others need be looked at.
    asked = np.setdiff1d(side.frontier, np.concatenate([sure, ends]))
    found = await walk.doubted(asked) if len(asked) else asked
    side.frontier = np.setdiff1d(side.frontier, found)
    side.reached = np.setdiff1d(side.reached, found)
    return set(found.tolist())


async def _doubts_told(walk: Walk, rows: set[int]) -> list[More]:
    if not rows:
        return []
    known = await walk.look_up(np.array(sorted(rows)))
    return [not_walked([vertex.id for vertex in known.values()])]


def _ways(sides: tuple[_Side, ...], meeting: Longs) -> list[_Way]:
    """Shortest ways through the vertices where the sides met, as many as are looked at."""
    first, last = sides
    rows = meeting.tolist()
    length = min(first.depth(row) + last.depth(row) for row in rows)
    found: list[_Way] = []
    for row in rows:
        if first.depth(row) + last.depth(row) != length:
            continue
        rights = _trails(last, row, last.depth(row))
        for left in _trails(first, row, first.depth(row)):
            for right in rights:
                far = (*reversed([one for one, _ in left]), row, *(one for one, _ in right))
                found.append(_Way(far, (*reversed([hop for _, hop in left]), *(hop for _, hop in right))))
            if len(found) > _WAYS_MAX:
                return found
    return found


def _trails(side: _Side, row: int, depth: int) -> list[list[tuple[int, tuple[_Step, int]]]]:
    """Ways from a vertex back to the side's end: each a list of the next vertex and the edge to it."""
    if not depth:
        return [[]]
    step = side.steps[depth - 1]
    found: list[list[tuple[int, tuple[_Step, int]]]] = []
    for near, edge in step.back(row):
        found += [[(near, (step, edge)), *rest] for rest in _trails(side, near, depth - 1)]
        if len(found) > _WAYS_MAX:
            break
    return found


async def _told(walk: Walk, ways: list[_Way], count_max: int) -> tuple[Path, ...]:
    """The surest ways, for the reader; of equally sure ones those with the least ids."""
    ways.sort(key=lambda way: -way.confidence)
    least = ways[: count_max or None][-1].confidence
    ways = [way for way in ways if way.confidence >= least]
    vertices = await walk.look_up(np.unique([row for way in ways for row in way.rows]))
    ways.sort(key=lambda way: (-way.confidence, [vertices[row].id for row in way.rows]))
    chosen = ways[:count_max]
    edges = [await _edges_told(walk, way, vertices) for way in chosen]
    return tuple(Path(tuple(vertices[row] for row in way.rows), told) for way, told in zip(chosen, edges, strict=True))


async def _edges_told(walk: Walk, way: _Way, vertices: Mapping[int, Vertex]) -> tuple[Edge, ...]:
    found: list[Edge] = []
    for step, number in way.hops:
        edge = step.edges.take(np.array([number]))
        # Parts of merged vertices aren't on the way themselves; of them ids are known.
        rows = (int(edge.start[0]), int(edge.end[0]))
        ends = [vertices[row].id if row in vertices else walk.id_of(row) for row in rows]
        found += edge.told(ends[:1], ends[1:], await walk.names.of(walk.connection, edge.relation))
    return tuple(found)
