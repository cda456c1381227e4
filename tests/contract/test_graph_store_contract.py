"""What every graph promises to those who write and read it, whatever the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_batches import Origin, ProfilePart, RecordMarks
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.domain.graph_reading import Direction, EdgeKey, GraphFilter, GraphLimits, MoreReason
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.vectors import PostgresGraphVectors
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import (
    DAY_NS,
    NOON_NS,
    OURS,
    STREAM,
    THEIRS,
    Facts,
    GraphStores,
    canonical_dump,
    make_id,
    values_of,
)
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("postgres_clean")


@pytest.fixture(params=["postgres"])
async def graph(
    postgres_pool: PostgresPool, postgres_server: PostgresServer, postgres_database: str
) -> AsyncIterator[GraphStores]:
    cypher_pool = postgres_server.cypher_pool(postgres_database)
    await cypher_pool.open()
    yield stores(postgres_pool, cypher_pool)
    await cypher_pool.close()


def stores(pool: PostgresPool, cypher_pool: PostgresPool | None = None) -> GraphStores:
    return GraphStores(
        PostgresGraphWriter(pool),
        PostgresGraphReader(pool),
        PostgresGraphCuration(pool),
        PostgresGraphVectors(pool),
        PostgresCypherRunner(cypher_pool),
    )


async def seen(graph: GraphStores, id_: bytes, tlp_max: Tlp = Tlp.RED) -> tuple[int, int, int, int]:
    one = (await graph.reader.get([id_], tlp_max=tlp_max))[id_].seen
    return one.first_ns, one.last_ns, one.count, one.confidence


async def test_vertices_come_back_as_they_were_told(graph: GraphStores) -> None:
    facts = Facts()
    odd = 'a "quoted" \\ value\twith ☃ and \U0001f600'
    names = {kind: facts.vertex(odd, kind, at_ns=NOON_NS, count=3) for kind in VertexKind}
    applied = await graph.tell(facts)
    assert (applied.new_vertex_count, applied.new_edge_count, applied.repeated) == (5, 0, False)
    found = await graph.reader.get([*names.values(), make_id("nobody")], tlp_max=Tlp.GREEN)
    assert {one.kind: (one.id, one.value, one.seen.count) for one in found.values()} == {
        kind: (id_, odd, 3) for kind, id_ in names.items()
    }
    assert found[names[VertexKind.ENTITY]].type == "domain"
    assert found[names[VertexKind.ENTITY]].seen.tlp is Tlp.GREEN


async def test_the_same_origin_twice_changes_nothing(graph: GraphStores, postgres_pool: PostgresPool) -> None:
    facts = Facts()
    facts.related(("a", "b"), ("b", "c"))
    await graph.tell(facts, 7)
    before = await canonical_dump(postgres_pool)
    assert (await graph.tell(facts, 7)).repeated
    assert await canonical_dump(postgres_pool) == before
    assert await graph.writer.missing(Origin(STREAM, 6, 8)) == [(6, 6), (8, 8)]


async def test_other_positions_with_the_same_facts_count_on(graph: GraphStores) -> None:
    facts = Facts()
    id_ = facts.vertex("a", at_ns=NOON_NS, count=2)
    await graph.tell(facts, 1)
    facts.vertices[0] |= {"first_ns": NOON_NS - DAY_NS, "last_ns": NOON_NS + DAY_NS, "count": 5}
    applied = await graph.tell(facts, 2)
    assert (applied.new_vertex_count, applied.changed_count) == (0, 1)
    assert await seen(graph, id_) == (NOON_NS - DAY_NS, NOON_NS + DAY_NS, 7, 50)


async def test_what_was_counted_before_is_not_counted_again_at_other_positions(graph: GraphStores) -> None:
    facts = Facts()
    id_ = facts.vertex("a", count=4)
    records = Origin("dump:one", 1, 100)
    await graph.tell(facts, 1, counted=[records])
    assert await graph.writer.missing(Origin("dump:one", 50, 150)) == [(101, 150)]
    facts.vertices[0]["last_ns"] = NOON_NS + 1
    await graph.tell(facts, 2, counted=[records])
    assert await seen(graph, id_) == (NOON_NS, NOON_NS + 1, 4, 50)
    with pytest.raises(InvalidArgumentError, match="in part"):
        await graph.tell(facts, 3, counted=[Origin("dump:one", 50, 150)])
    assert await graph.writer.missing(Origin(STREAM, 1, 3)) == [(3, 3)]


async def test_a_batch_that_says_the_same_again_and_counts_nothing_changes_only_its_positions(
    graph: GraphStores, postgres_pool: PostgresPool
) -> None:
    facts = Facts()
    facts.related(("a", "b"), ("b", "c"))
    records = Origin("dump:one", 1, 100)
    await graph.tell(facts, 1, counted=[records])
    before = [row for row in await canonical_dump(postgres_pool) if row[0] != "graph_applied"]
    applied = await graph.tell(facts, 2, counted=[records])
    assert (applied.repeated, applied.new_vertex_count, applied.changed_count) == (False, 0, 0)
    assert [row for row in await canonical_dump(postgres_pool) if row[0] != "graph_applied"] == before
    assert await graph.writer.missing(Origin(STREAM, 1, 3)) == [(3, 3)]
    applied = await graph.tell(facts, 3)  # it counts, so it isn't the same
    assert applied.changed_count == 5


async def test_positions_that_are_known_in_part_are_refused(graph: GraphStores) -> None:
    facts = Facts()
    facts.vertex("a")
    await graph.tell(facts, 5, last=9)
    with pytest.raises(InvalidArgumentError, match="in part"):
        await graph.tell(facts, 8, last=12)
    await graph.tell(facts, 10, last=12)
    assert await graph.writer.missing(Origin(STREAM, 1, 20)) == [(1, 4), (13, 20)]


async def test_a_stream_that_is_rewound_is_noted_no_further_and_tells_what_was_lost_until_the_graph_is_forgotten(
    graph: GraphStores,
) -> None:
    rows, other = f"{STREAM}/rows/", Origin(f"{STREAM}/1", 90, 99)
    parts = [Origin(f"{rows}{position}", 0, 4) for position in (7, 8, 10, 30)]
    facts = Facts()
    id_ = facts.vertex("a", count=2)
    await graph.tell(facts, 1, last=3, counted=[*parts, other])
    assert await graph.writer.rewind(STREAM, 30, parts=rows) == []
    await graph.tell(facts, 5, last=9)
    await graph.tell(facts, 20)
    for _ in range(2):
        assert await graph.writer.rewind(STREAM, 8, parts=rows) == [(9, 30)]
        assert await graph.writer.missing(Origin(STREAM, 1, 40)) == [(4, 4), (9, 40)]
        assert [bool(await graph.writer.missing(part)) for part in parts] == [False, False, True, True]
        assert await graph.writer.missing(other) == []
    assert (await seen(graph, id_))[2] == 6, "facts stay"
    await graph.tell(facts, 9, last=40)
    assert await graph.writer.rewind(STREAM, 2**62, parts=rows) == [(9, 30)]
    assert await graph.writer.rewind(STREAM, 35, parts=rows) == [(9, 30), (36, 40)]
    await graph.writer.forget()
    assert await graph.writer.rewind(STREAM, 2**62, parts=rows) == []


async def test_every_provenance_of_a_fact_is_kept_apart(graph: GraphStores) -> None:
    third = Provenance(instance="here", source="csv", method="csv-column", dump="leak", confidence=10, tlp=Tlp.CLEAR)
    facts = Facts([OURS, THEIRS, third])
    one, two = facts.vertex("a", count=1, first_place=9, last_place=9), facts.vertex("b")
    facts.edge(one, two)
    await graph.tell(facts, 1)
    facts.vertices[0] |= {"provenance": 1, "count": 10, "first_ns": 5}
    facts.edges[0]["provenance"] = 1
    await graph.tell(facts, 2)
    facts.vertices[0] |= {"provenance": 2, "count": 100, "first_ns": NOON_NS, "first_place": 3}
    facts.vertex("a", by=0, count=1000, at_ns=NOON_NS + 5)
    await graph.tell(facts, 3)
    asked: list[bytes | EdgeKey] = [one, EdgeKey(EdgeKind.RELATED_TO, one, two, "resolves-to"), make_id("nobody")]
    vertex, edge, nobody = [one.told for one in await graph.reader.evidence(asked, tlp_max=Tlp.RED)]
    assert [(found.provenance, found.count, found.first_ns, found.first_place) for found in vertex] == [
        (THEIRS, 10, 5, 9),
        (OURS, 1001, NOON_NS, 9),
        (third, 100, NOON_NS, 3),
    ]
    assert [(found.provenance, found.count) for found in edge] == [(THEIRS, 2), (OURS, 1)]
    assert nobody == []
    few = await graph.reader.evidence(asked, tlp_max=Tlp.RED, count_max=1)
    assert [(one.told, one.count) for one in few] == [(vertex[:1], 3), (edge[:1], 2), ([], 0)]
    assert await seen(graph, one) == (5, NOON_NS + 5, 1111, 90)


async def test_a_reader_knows_nothing_of_what_lies_above_its_ceiling(graph: GraphStores) -> None:
    facts = Facts()
    start, hidden, shown = facts.vertex("start"), facts.vertex("hidden", by=1), facts.vertex("shown")
    beyond = facts.vertex("beyond")
    facts.vertex("shown", by=1, count=99, at_ns=NOON_NS + DAY_NS)
    for one, two, by in ((start, hidden, 0), (hidden, beyond, 0), (start, shown, 0), (start, shown, 1)):
        facts.edge(one, two, by=by, at_ns=NOON_NS + by * DAY_NS)
    await graph.tell(facts)
    assert await seen(graph, shown, Tlp.GREEN) == (NOON_NS, NOON_NS, 1, 50)
    assert await seen(graph, shown, Tlp.RED) == (NOON_NS, NOON_NS + DAY_NS, 100, 90)
    assert await graph.reader.get([hidden], tlp_max=Tlp.AMBER) == {}
    levels = await graph.walk(start, tlp_max=Tlp.GREEN)
    assert [values_of(level) for level in levels] == [["start"], ["shown"], []]
    assert [(edge.seen.confidence, edge.seen.count) for edge in levels[1].edges] == [(50, 1)]
    assert [values_of(level) for level in await graph.walk(start)][2] == ["beyond"]
    later = NOON_NS + DAY_NS
    assert [values_of(level) for level in await graph.walk(start, tlp_max=Tlp.GREEN, since_ns=later)][1] == []
    assert [values_of(level) for level in await graph.walk(start, since_ns=later)][1] == ["shown"]
    (witnesses,) = await graph.reader.evidence([shown], tlp_max=Tlp.GREEN)
    assert (len(witnesses.told), witnesses.count) == (1, 1)
    blind = await graph.reader.paths(start, beyond, GraphFilter(tlp_max=Tlp.GREEN), GraphLimits())
    assert (blind.paths, blind.more) == ((), ())


async def test_a_walk_goes_level_by_level_and_shows_a_vertex_once(graph: GraphStores) -> None:
    facts = Facts()
    facts.related(("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"))
    await graph.tell(facts)
    levels = await graph.walk(make_id("Entity/a"), limits=GraphLimits(depth_max=3))
    assert [sorted(values_of(level)) for level in levels] == [["a"], ["b", "c"], ["d"], ["e"]]
    assert [len(level.edges) for level in levels] == [0, 2, 4, 2]
    out = await graph.walk(make_id("Entity/a"), direction=Direction.OUT)
    assert [values_of(level) for level in out] == [["a"], ["b"], ["c"]]


async def test_a_walk_passes_only_what_the_filter_lets_through(graph: GraphStores) -> None:
    facts = Facts()
    start = facts.vertex("start")
    address, name = facts.vertex("192.0.2.1", type="ip"), facts.vertex("other")
    facts.edge(start, address)
    facts.edge(start, name, relation="member-of")
    facts.edge(start, name, kind=EdgeKind.ENRICHED_BY, relation="whois", by=1)
    sighting = facts.vertex("app", VertexKind.SIGHTING)
    facts.edge(sighting, start, EdgeKind.OF_ENTITY)
    await graph.tell(facts)

    async def found(**filters: object) -> set[str]:
        return set(values_of((await graph.walk(start, **filters))[1]))  # type: ignore[arg-type]

    assert await found() == {"192.0.2.1", "other", "app"}
    assert await found(types=frozenset({"ip"})) == {"192.0.2.1", "app"}
    assert await found(relations=frozenset({"member-of"})) == {"other", "app"}
    assert await found(edge_kinds=frozenset({EdgeKind.ENRICHED_BY})) == {"other"}
    assert await found(vertex_kinds=frozenset({VertexKind.SIGHTING})) == {"app"}
    assert await found(confidence_min=60) == {"other"}
    assert await found(until_ns=NOON_NS) == set()


async def test_the_most_relevant_neighbours_come_first_and_the_rest_is_told(graph: GraphStores) -> None:
    facts = Facts()
    hub = facts.vertex("hub")
    for number in range(40):
        facts.edge(hub, facts.vertex(f"n{number:02}"), at_ns=NOON_NS + number * DAY_NS)
    facts.edge(hub, facts.vertex("sure"), by=1)
    facts.related(*((f"m{number}", "n39") for number in range(70)))
    await graph.tell(facts)
    limits = GraphLimits(depth_max=1, degree_max=10)
    level = (await graph.walk(hub, limits=limits))[1]
    assert values_of(level)[:2] == ["sure", "n38"]  # n39 is later, but everybody knows it
    assert set(values_of(level)) == {"sure", *(f"n{number}" for number in range(31, 40))}
    assert [(more.reason, more.id, more.shown_count) for more in level.more] == [(MoreReason.DEGREE, hub, 10)]
    level = (await graph.walk(hub, limits=GraphLimits(depth_max=2, vertex_count_max=5)))[-1]
    assert (level.depth, len(level.vertices)) == (1, 5)
    assert [more.reason for more in level.more] == [MoreReason.VERTEX_COUNT]


async def test_paths_are_the_shortest_ones_the_surest_first(graph: GraphStores) -> None:
    facts = Facts()
    facts.related(("a", "b"), ("b", "z"), ("q", "a"), ("a", "long"), ("long", "er"), ("er", "z"))
    facts.related(("q", "z"), by=1)
    await graph.tell(facts)
    ends = make_id("Entity/a"), make_id("Entity/z")
    everything = GraphFilter(tlp_max=Tlp.RED)
    found = await graph.reader.paths(*ends, everything, GraphLimits(depth_max=4))
    assert [[vertex.value for vertex in path.vertices] for path in found.paths] in (
        [["a", "b", "z"], ["a", "q", "z"]],
        [["a", "q", "z"], ["a", "b", "z"]],
    )
    assert all(len(path.edges) == 2 for path in found.paths)
    for path in found.paths:
        for one, edge, two in zip(path.vertices, path.edges, path.vertices[1:], strict=False):
            assert {edge.key.start, edge.key.end} == {one.id, two.id}
    one_way = GraphFilter(tlp_max=Tlp.RED, direction=Direction.OUT)
    found = await graph.reader.paths(*ends, one_way, GraphLimits(depth_max=4))
    assert [[vertex.value for vertex in path.vertices] for path in found.paths] == [["a", "b", "z"]]
    none = await graph.reader.paths(ends[0], make_id("nobody"), everything, GraphLimits())
    assert none.paths == ()
    itself = await graph.reader.paths(ends[0], ends[0], everything, GraphLimits())
    assert [len(path.edges) for path in itself.paths] == [0]


async def test_a_path_longer_than_allowed_is_not_found_and_the_cut_is_told(graph: GraphStores) -> None:
    facts = Facts()
    facts.related(*((f"s{number}", f"s{number + 1}") for number in range(7)))
    await graph.tell(facts)
    ends = make_id("Entity/s0"), make_id("Entity/s5")
    found = await graph.reader.paths(*ends, GraphFilter(tlp_max=Tlp.RED), GraphLimits(depth_max=4))
    assert (found.paths, [more.reason for more in found.more]) == ((), [MoreReason.DEPTH])
    found = await graph.reader.paths(*ends, GraphFilter(tlp_max=Tlp.RED), GraphLimits(depth_max=5))
    assert [len(path.edges) for path in found.paths] == [5]


async def test_sightings_add_up_by_day_and_hour(graph: GraphStores) -> None:
    hours = [0] * 24
    hours[3], hours[23] = 5, 1
    other = [0] * 24
    other[3] = 7
    facts = Facts()
    entity = facts.vertex("evil.example")
    for day, by, told in ((20_000, 0, hours), (20_000, 1, other), (20_001, 0, other)):
        id_ = facts.vertex(
            "app", VertexKind.SIGHTING, id=make_id(f"sight{day}"), day=day, hours=told, by=by, count=sum(told)
        )
        facts.edge(id_, entity, EdgeKind.OF_ENTITY, by=by)
    await graph.tell(facts, 1)
    await graph.tell(facts, 2)
    found = await graph.reader.sightings(entity, tlp_max=Tlp.GREEN)
    assert [(row.day, row.source, row.seen.count, row.hours[3], row.hours[23]) for row in found] == [
        (20_001, "app", 14, 14, 0),
        (20_000, "app", 12, 10, 2),
    ]
    found = await graph.reader.sightings(entity, tlp_max=Tlp.RED, last_day=20_000)
    assert [(row.seen.count, row.hours[3], row.hours[23]) for row in found] == [(26, 24, 2)]


async def test_bad_rows_are_refused_one_by_one_and_the_rest_is_kept(graph: GraphStores) -> None:
    facts = Facts()
    good, bad = facts.vertex("good"), facts.vertex("bad\0value")
    facts.vertex("late", first_ns=NOON_NS + 1)
    field = facts.vertex("column", VertexKind.FIELD)
    facts.vertex("x", VertexKind.FIELD_VALUE, id=good)
    facts.vertex("odd", type="a\0b")
    for start, end, changes in (
        (good, bad, {}),
        (good, make_id("nobody"), {}),
        (field, good, {}),
        (good, good, {"relation": ""}),
        (good, good, {"provenance": 9}),
        (good, good, {"relation": "a\0b"}),
    ):
        facts.edge(start, end, **changes)
    facts.edge(good, good)
    applied = await graph.writer.apply(facts.batch())
    assert {(one.is_vertex, one.row): one.reason for one in applied.refused} == {
        (True, 1): "its value holds a NUL",
        (True, 2): "its last time is before its first, or before 1970",
        (True, 4): "its id is that of a vertex of another kind",
        (False, 0): "its end was refused",
        (False, 1): "its end isn't among the batch's vertices",
        (False, 2): "an edge of its kind doesn't join vertices of these kinds",
        (False, 3): "RELATED_TO and ENRICHED_BY have a relation, others have none",
        (False, 4): "its provenance isn't the batch's",
        (True, 5): "its type holds a NUL",
        (False, 5): "its relation holds a NUL",
    }
    assert (applied.new_vertex_count, applied.new_edge_count) == (2, 1)


async def test_the_token_of_the_newest_epoch_names_an_entity_whatever_comes_first(graph: GraphStores) -> None:
    tokens = {epoch: f"[email:{epoch}{'a' * 26}]" for epoch in "029"}
    for first, second in (("0", "2"), ("9", "2")):
        id_ = make_id(first + second)
        for epoch in (first, second):
            facts = Facts()
            facts.vertex(tokens[epoch], id=id_)
            await graph.tell(facts, ord(first) * 1000 + ord(epoch))
        found = await graph.reader.get([id_], tlp_max=Tlp.RED)
        assert found[id_].value == tokens[max(first, second)]


async def test_profiles_add_up_by_provenance_and_a_batch_that_comes_again_adds_nothing(graph: GraphStores) -> None:
    facts = Facts()
    id_ = facts.vertex("leak", VertexKind.DUMP)
    facts.vertex("leak", VertexKind.DUMP, by=1)
    for position, (rows, by) in enumerate(((5, 0), (9, 0), (100, 1)), start=1):
        for _ in range(2):
            await graph.tell(facts, position, profiles=[ProfilePart(id_, by, Profile(row_count=rows))])
    found = await graph.reader.profiles([id_, make_id("nobody")], tlp_max=Tlp.RED)
    assert found == {id_: Profile(row_count=114)}
    assert await graph.reader.profiles([id_], tlp_max=Tlp.GREEN) == {id_: Profile(row_count=14)}
    assert await graph.reader.profiles([id_], tlp_max=Tlp.CLEAR) == {}


async def test_records_of_a_dump_are_known_by_what_they_said_until_the_graph_is_forgotten(graph: GraphStores) -> None:
    facts = Facts()
    facts.vertex("leak", VertexKind.DUMP)
    numbers = np.array([1, 2, 2, 2, 4_095, 4_096, 1_000_000, 1_000_000], np.int64)
    hashes = np.array([11, 12, 13, 2**63, 13, 14, 7, 2**64 - 1], np.uint64)
    for position, some in enumerate(([0, 2, 4, 5, 7], [1, 3, 6], [0, 1, 2, 7]), start=1):
        await graph.tell(facts, position, records=[RecordMarks(OURS, numbers[some], hashes[some])])
        asked = np.concatenate([numbers, numbers[::-1], [1, 3, 9_999_999, 1_000_000]])
        others = np.array([13, 11, 11, 8], np.uint64)
        said = np.concatenate([hashes, hashes[::-1], others])
        known = await graph.writer.knows(OURS, asked, said)
        applied = np.isin(np.arange(len(numbers)), [0, 2, 4, 5, 7]) if position == 1 else np.ones(len(numbers), bool)
        assert known.tolist() == [*applied, *applied[::-1], False, False, False, False]
    assert not (await graph.writer.knows(THEIRS, asked, said)).any()
    await graph.writer.forget()
    assert not (await graph.writer.knows(OURS, asked, said)).any()
    await graph.tell(facts, 9, records=[RecordMarks(OURS, numbers[:1], hashes[:1])])
    assert (await graph.writer.knows(OURS, numbers, hashes)).tolist() == [True] + [False] * (len(numbers) - 1)
