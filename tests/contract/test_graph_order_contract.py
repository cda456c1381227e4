"""However facts come, the graph is the same: in any order, cut into any batches, repeated."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.graph import EdgeKind, VertexKind
from heimdall_server.domain.graph_batches import GraphBatch
from heimdall_server.ports.graph import GraphWriter
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import DAY_NS, NOON_NS, Facts, canonical_dump, make_id

pytestmark = pytest.mark.usefixtures("postgres_clean")


@pytest.fixture(params=["postgres"])
def writer(postgres_pool: PostgresPool) -> GraphWriter:
    return PostgresGraphWriter(postgres_pool)


VALUES = [f"e{number}" for number in range(12)]


@st.composite
def told(draw: st.DrawFn) -> list[Facts]:
    """Facts in pieces that stand for themselves: an edge and its ends, a vertex alone."""
    pieces = []
    for _ in range(draw(st.integers(1, 12))):
        facts = Facts()
        by = draw(st.integers(0, 1))
        at_ns = NOON_NS + draw(st.integers(-3, 3)) * DAY_NS
        place = draw(st.integers(0, 9))
        changes: dict[str, Any] = {
            "by": by,
            "at_ns": at_ns,
            "count": draw(st.integers(0, 5)),
            "first_place": place,
            "last_place": place,
        }
        one, two = draw(st.sampled_from(VALUES)), draw(st.sampled_from(VALUES))
        start, end = facts.vertex(one, **changes), facts.vertex(two, **changes)
        if draw(st.booleans()):
            facts.edge(start, end, relation=draw(st.sampled_from(["resolves-to", "same-as"])), **changes)
        if draw(st.booleans()):
            hours = draw(st.lists(st.integers(0, 3), min_size=24, max_size=24))
            sighting = facts.vertex(
                "app", VertexKind.SIGHTING, id=make_id(f"s{one}"), day=20_000, hours=hours, **changes
            )
            facts.edge(sighting, start, EdgeKind.OF_ENTITY, **changes)
        pieces.append(facts)
    return pieces


@given(pieces=told(), seed=st.integers(0, 2**32))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
async def test_whatever_the_order_the_cuts_and_the_repeats_the_graph_is_the_same(
    writer: GraphWriter, postgres_pool: PostgresPool, pieces: list[Facts], seed: int
) -> None:
    await writer.forget()
    for position, piece in enumerate(pieces, start=1):
        assert not (await writer.apply(piece.batch(position))).refused
    one_by_one = await canonical_dump(postgres_pool)
    await writer.forget()
    chance = random.Random(seed)
    batches: list[GraphBatch] = []
    position = 1
    while position <= len(pieces):
        size = chance.randint(1, len(pieces) - position + 1)
        together = Facts()
        for piece in pieces[position - 1 : position - 1 + size]:
            together.vertices += piece.vertices
            together.edges += piece.edges
        batches.append(together.batch(position, position + size - 1))
        position += size
    batches += chance.sample(batches, len(batches) // 2)
    chance.shuffle(batches)
    for batch in batches:
        assert not (await writer.apply(batch)).refused
    assert await canonical_dump(postgres_pool) == one_by_one
