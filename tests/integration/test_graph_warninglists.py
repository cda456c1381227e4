"""Walks end at what nearly everybody meets, say so, and go on where they are asked to."""

from __future__ import annotations

import pytest

from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits, Level, More, MoreReason
from heimdall_server.domain.warninglists import WALK_CONFIDENCE
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import Facts, make_id, values_of

pytestmark = pytest.mark.usefixtures("postgres_clean")
LISTED = Provenance(instance="here", source="app", method="log-observable", confidence=10)
PLAIN = Provenance(instance="here", source="app", method="log-observable")
LESS, SURE = 0, 1
USUAL = GraphFilter(Tlp.RED, walk_confidence_min=WALK_CONFIDENCE)
EVERYTHING = GraphFilter(Tlp.RED)


def sightings(facts: Facts, entity: str, *dumps: str, by: int) -> None:
    for dump in dumps:
        seen = facts.vertex(f"{entity} in {dump}", VertexKind.SIGHTING, by=by)
        facts.edge(seen, facts.vertex(entity, by=by), EdgeKind.OF_ENTITY, by=by)
        facts.edge(seen, facts.vertex(dump, VertexKind.DUMP, by=SURE), EdgeKind.OBSERVED_IN, by=by)


def make_facts() -> Facts:
    """Two dumps that have the public resolver in common, and two that have a domain in common, too."""
    facts = Facts(provenances=[LISTED, PLAIN])
    sightings(facts, "8.8.8.8", "a", "b", "c", by=LESS)
    sightings(facts, "evil.net", "b", "c", by=SURE)
    return facts


def dump(name: str) -> bytes:
    return make_id(f"{VertexKind.DUMP}/{name}")


def entity(name: str) -> bytes:
    return make_id(f"{VertexKind.ENTITY}/{name}")


async def walk(reader: PostgresGraphReader, start: bytes, filter_: GraphFilter, depth: int) -> list[Level]:
    return [level async for level in reader.traverse([start], filter_, GraphLimits(depth_max=depth))]


async def test_a_walk_meets_what_is_listed_and_doesnt_go_on_through_it(postgres_pool: PostgresPool) -> None:
    await PostgresGraphWriter(postgres_pool).apply(make_facts().batch())
    reader = PostgresGraphReader(postgres_pool)
    levels = await walk(reader, dump("a"), USUAL, 4)
    assert [sorted(values_of(level)) for level in levels] == [["a"], ["8.8.8.8 in a"], ["8.8.8.8"]]
    assert levels[2].more == [More(MoreReason.CONFIDENCE, entity("8.8.8.8"), 1)]
    everything = await walk(reader, dump("a"), EVERYTHING, 4)
    assert sorted(values_of(everything[4])) == ["b", "c"]
    assert not [more for level in everything for more in level.more]
    # At the last hop nothing was left out for it.
    assert not (await walk(reader, dump("a"), USUAL, 2))[2].more


async def test_whoever_asks_for_what_is_listed_is_led_to_where_it_was_seen(postgres_pool: PostgresPool) -> None:
    await PostgresGraphWriter(postgres_pool).apply(make_facts().batch())
    levels = await walk(PostgresGraphReader(postgres_pool), entity("8.8.8.8"), USUAL, 2)
    assert sorted(values_of(levels[2])) == ["a", "b", "c"]


async def test_no_way_leads_through_what_is_listed_unless_it_is_asked_to(postgres_pool: PostgresPool) -> None:
    await PostgresGraphWriter(postgres_pool).apply(make_facts().batch())
    reader = PostgresGraphReader(postgres_pool)
    limits = GraphLimits(depth_max=6)
    found = await reader.paths(dump("a"), dump("b"), USUAL, limits)
    assert not found.paths
    assert More(MoreReason.CONFIDENCE, entity("8.8.8.8"), 1) in found.more
    (through,) = (await reader.paths(dump("a"), dump("b"), EVERYTHING, limits)).paths
    assert [vertex.value for vertex in through.vertices][2] == "8.8.8.8"
    other = await reader.paths(dump("b"), dump("c"), USUAL, limits)
    assert [path.vertices[2].value for path in other.paths] == ["evil.net"]
    # Its own ends may be listed.
    ends = await reader.paths(entity("8.8.8.8"), dump("a"), USUAL, limits)
    assert [len(path.edges) for path in ends.paths] == [2]


async def test_what_somebody_says_with_more_confidence_is_walked_through(postgres_pool: PostgresPool) -> None:
    writer, reader = PostgresGraphWriter(postgres_pool), PostgresGraphReader(postgres_pool)
    await writer.apply(make_facts().batch(1))
    said = Facts(provenances=[LISTED, PLAIN])
    said.vertex("8.8.8.8", by=SURE)
    await writer.apply(said.batch(2))
    levels = await walk(reader, dump("a"), USUAL, 4)
    assert sorted(values_of(levels[4])) == ["b", "c"]
