"""Walks over whatever graph find what a model of it finds: levels, edges, shortest ways, under a ceiling and over merges."""

from __future__ import annotations

import collections
import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_authored import Merge
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import NOON_NS, Facts, make_id

pytestmark = pytest.mark.usefixtures("postgres_clean")
SIZE = 9
MARKS = (Tlp.GREEN, Tlp.RED)
"""Of the provenances of `Facts`."""
PATHS = 5
SHRINKLESS = (Phase.explicit, Phase.generate)
"""A try takes some time: a failing one is told as it is."""
_TRIES = itertools.count(1)
"""Each try has entities of its own, which is faster than emptying the graph."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A graph of a few vertices."""

    vertices: dict[int, frozenset[int]]
    """Each by some of the provenances."""
    edges: dict[tuple[int, int, str], int]
    """Start, end, relation: provenance."""
    merges: dict[int, int]
    """Into a greater one."""

    def facts(self, turn: int) -> Facts:
        facts = Facts()
        for number, told_by in self.vertices.items():
            for by in sorted(told_by):
                facts.vertex(f"{turn}-{number}", by=by)
        for (start, end, relation), by in self.edges.items():
            facts.edge(ident(turn, start), ident(turn, end), relation=relation, by=by, at_ns=NOON_NS + start)
        return facts

    def visible(self, ceiling: Tlp) -> set[int]:
        return {number for number, told_by in self.vertices.items() if min(MARKS[by] for by in told_by) <= ceiling}

    def root(self, number: int, ceiling: Tlp) -> int:
        """Who stands for a visible vertex: the one that all was merged into, where the reader may see that."""
        root = number
        while root in self.merges:
            root = self.merges[root]
        return root if root in self.visible(ceiling) else number

    def steps(self, ceiling: Tlp) -> dict[int, list[tuple[int, tuple[int, int, str]]]]:
        """From each root: neighbours, and the edge there."""
        visible = self.visible(ceiling)
        found: dict[int, list[tuple[int, tuple[int, int, str]]]] = collections.defaultdict(list)
        for edge, by in self.edges.items():
            if MARKS[by] <= ceiling and {edge[0], edge[1]} <= visible:
                ends = self.root(edge[0], ceiling), self.root(edge[1], ceiling)
                for near, far in {ends, ends[::-1]}:
                    found[near].append((far, edge))
        return found

    def distances(self, start: int, ceiling: Tlp) -> dict[int, int]:
        steps, found, queue = self.steps(ceiling), {start: 0}, collections.deque([start])
        while queue:
            near = queue.popleft()
            for far, _ in steps[near]:
                if far not in found:
                    found[far] = found[near] + 1
                    queue.append(far)
        return found

    def way_count(self, start: int, end: int, ceiling: Tlp) -> int:
        """Shortest ways, each of several edges between two vertices apart."""
        steps, distances = self.steps(ceiling), self.distances(start, ceiling)
        counts = collections.Counter({start: 1})
        for near in sorted(distances, key=distances.__getitem__):
            for far, _ in steps[near]:
                if distances[far] == distances[near] + 1:
                    counts[far] += counts[near]
        return counts[end]


def ident(turn: int, number: int) -> bytes:
    return make_id(f"Entity/{turn}-{number}")


@st.composite
def models(draw: st.DrawFn) -> Model:
    told_by = st.sampled_from([frozenset({0}), frozenset({1}), frozenset({0, 1})])
    vertices = {number: draw(told_by) for number in range(SIZE)}
    ends = st.tuples(
        st.integers(0, SIZE - 1), st.integers(0, SIZE - 1), st.sampled_from(["resolves-to", "same-as"])
    ).filter(lambda edge: edge[0] != edge[1])
    edges = draw(st.dictionaries(ends, st.sampled_from([0, 0, 1]), min_size=4, max_size=18))
    merges = draw(st.dictionaries(st.integers(0, SIZE - 2), st.integers(1, SIZE - 1), max_size=3))
    return Model(vertices, edges, {one: into for one, into in merges.items() if into > one})


@given(model=models(), ceiling=st.sampled_from(MARKS))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    phases=SHRINKLESS,
)
async def test_a_walk_finds_what_the_model_finds(postgres_pool: PostgresPool, model: Model, ceiling: Tlp) -> None:
    writer, curation = PostgresGraphWriter(postgres_pool), PostgresGraphCuration(postgres_pool)
    reader = PostgresGraphReader(postgres_pool)
    turn = next(_TRIES)
    assert not (await writer.apply(model.facts(turn).batch(turn))).refused
    for one, into in model.merges.items():
        await curation.merge(Merge(ident(turn, one), ident(turn, into), "somebody", 1, ""))
    filter_ = GraphFilter(tlp_max=ceiling)
    names = {ident(turn, number): number for number in model.vertices}
    roots = sorted({model.root(number, ceiling) for number in model.visible(ceiling)})
    for start in roots[:3]:
        distances = model.distances(start, ceiling)
        told = [level async for level in reader.traverse([ident(turn, start)], filter_, GraphLimits(depth_max=6))]
        found = {names[vertex.id]: level.depth for level in told for vertex in level.vertices}
        assert found == {number: far for number, far in distances.items() if far <= 6}
        edges = {(names[one.key.start], names[one.key.end], one.key.relation) for level in told for one in level.edges}
        assert edges == {edge for near in distances for _, edge in model.steps(ceiling)[near]}
    for start, end in itertools.islice(itertools.combinations(roots, 2), 4):
        far = model.distances(start, ceiling).get(end)
        limits = GraphLimits(depth_max=4)
        paths = (await reader.paths(ident(turn, start), ident(turn, end), filter_, limits, count_max=PATHS)).paths
        if far is None or far > 4:
            assert not paths
            continue
        assert {len(path.edges) for path in paths} == {far}
        assert len(paths) == min(PATHS, model.way_count(start, end, ceiling))
        sure = [min(edge.seen.confidence for edge in path.edges) for path in paths]
        assert sure == sorted(sure, reverse=True)
        for path in paths:
            assert [names[path.vertices[0].id], names[path.vertices[-1].id]] == [start, end]
            for near, edge, next_ in zip(path.vertices, path.edges, path.vertices[1:], strict=False):
                joined = {model.root(names[id_], ceiling) for id_ in (edge.key.start, edge.key.end)}
                assert joined == {names[near.id], names[next_.id]}
