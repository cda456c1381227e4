"""Shortest ways between two vertices: walked from both ends, always from the smaller side, until the two meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from heimdall_server.domain.graph_reading import Edge as ReadEdge
from heimdall_server.domain.graph_reading import EdgeKey, More, MoreReason, Path, Paths, Vertex
from heimdall_server.storage.postgres.graph.rows import FoundEdge
from heimdall_server.storage.postgres.graph.walk import Walk

_WAYS_MAX = 10_000
"""Ways that are looked at to find the most trustworthy ones."""


@dataclass(slots=True)
class _Side:
    """What is known from one end."""

    frontier: list[int]
    distance: dict[int, int]
    backwards: bool = False
    """Whether it is the goal's: edges are followed against their direction then."""
    before: dict[int, list[tuple[int, FoundEdge]]] = field(default_factory=dict)
    """For each vertex those one step nearer to the end, and the edge there."""


async def shortest(walk: Walk, start: bytes, end: bytes, *, count_max: int) -> Paths:
    """See `GraphReader.paths`."""
    first, last = await walk.start([start]), await walk.start([end])
    vertices: dict[int, Vertex] = first | last
    begin, goal = next(iter(first), None), next(iter(last), None)
    if goal is None:  # it is the start, or was merged into it
        goal = next((walk.root_of[row] for row, known in walk.ids.items() if known == end), None)
    if begin is None or goal is None:
        return Paths(())
    if begin == goal:
        return Paths((Path((vertices[begin],), ()),))
    sides = (_Side([begin], {begin: 0}), _Side([goal], {goal: 0}, backwards=True))
    more: list[More] = []
    for _ in range(walk.limits.depth_max):
        side, other = sorted(sides, key=lambda one: len(one.frontier))
        if not side.frontier:
            break
        await _step(walk, side, vertices, more)
        if any(row in other.distance for row in side.frontier):
            return Paths(tuple(_ways(walk, sides, vertices, count_max)), tuple(more))
        if walk.has_read_enough:
            more.append(More(MoreReason.EDGE_SCAN, shown_count=walk.edge_count))
            break
    else:
        if all(side.frontier for side in sides):
            more.append(More(MoreReason.DEPTH))
    return Paths((), tuple(more))


async def _step(walk: Walk, side: _Side, vertices: dict[int, Vertex], more: list[More]) -> None:
    """One step outwards. All edges between the old frontier and the new one are kept: each may be part of a shortest way."""
    edges, capped = await walk.edges(side.frontier, backwards=side.backwards)
    more += [More(MoreReason.DEGREE, walk.ids[row], walk.limits.degree_max) for row in sorted(capped)]
    vertices |= await walk.vertices({end for one in edges for end in (one.start, one.end)})
    frontier, depth = set(side.frontier), side.distance[side.frontier[0]]
    reached: dict[int, None] = {}
    for one in edges:
        start, end = (walk.root_of.get(row) for row in (one.start, one.end))
        for near, far in ((start, end), (end, start)):
            if near is None or far is None or near not in frontier:
                continue
            if side.distance.setdefault(far, depth + 1) == depth + 1:
                reached[far] = None
                side.before.setdefault(far, []).append((near, one))
    side.frontier = list(reached)


def _ways(walk: Walk, sides: tuple[_Side, _Side], vertices: Mapping[int, Vertex], count_max: int) -> list[Path]:
    first, last = sides
    meeting = [row for row in first.distance if row in last.distance]
    length = min(first.distance[row] + last.distance[row] for row in meeting)
    found: list[tuple[float, list[int], list[FoundEdge]]] = []
    for row in meeting:
        if first.distance[row] + last.distance[row] == length:
            for left in _trails(first, row):
                for right in _trails(last, row):
                    rows = [*reversed([one for one, _ in left]), row, *(one for one, _ in right)]
                    edges = [*reversed([edge for _, edge in left]), *(edge for _, edge in right)]
                    found.append((min(edge.seen.confidence for edge in edges), rows, edges))
                if len(found) > _WAYS_MAX:
                    break
    found.sort(key=lambda one: (-one[0], [walk.ids[row] for row in one[1]]))
    return [
        Path(
            tuple(vertices[row] for row in rows),
            tuple(
                ReadEdge(EdgeKey(one.kind, walk.ids[one.start], walk.ids[one.end], one.relation), one.seen)
                for one in edges
            ),
        )
        for _, rows, edges in found[:count_max]
    ]


def _trails(side: _Side, row: int) -> list[list[tuple[int, FoundEdge]]]:
    """Ways from a vertex back to the side's end: each a list of the next vertex and the edge to it."""
    if side.distance[row] == 0:
        return [[]]
    found: list[list[tuple[int, FoundEdge]]] = []
    for near, edge in side.before[row]:
        found += [[(near, edge), *rest] for rest in _trails(side, near)]
        if len(found) > _WAYS_MAX:
            break
    return found
