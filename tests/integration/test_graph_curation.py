"""What people decide about the graph: it is kept, it shapes what is read, and no rebuild touches it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from heimdall_server.domain.errors import EtagMismatchError, InvalidArgumentError, NotFoundError
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_authored import MERGE_DEPTH_MAX, Embedding, Label, Merge, Note
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.vectors import DIMENSIONS, PostgresGraphVectors
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import Facts, GraphStores, canonical_dump, make_id, values_of

pytestmark = pytest.mark.usefixtures("postgres_clean")


@pytest.fixture
def graph(postgres_pool: PostgresPool) -> GraphStores:
    return GraphStores(
        PostgresGraphWriter(postgres_pool),
        PostgresGraphReader(postgres_pool),
        PostgresGraphCuration(postgres_pool),
        PostgresGraphVectors(postgres_pool),
        PostgresCypherRunner(None),
    )


def merge(one: bytes, into: bytes) -> Merge:
    return Merge(one, into, "alice", 1, "the same machine")


def note(text: str, about: bytes, **changes: object) -> Note:
    return Note(make_id(text), about, text, "alice", 5, 5, **changes)  # type: ignore[arg-type]


async def test_labels_are_put_on_and_taken_off_and_found(graph: GraphStores) -> None:
    one, two = sorted((make_id("one"), make_id("two")))
    labels = [Label(one, "c2", "alice", 5), Label(two, "c2", "bob", 6, tlp=Tlp.RED), Label(one, "odd", "alice", 7)]
    for label in (*labels, labels[0]):
        await graph.curation.add_label(label)
    assert await graph.curation.labels([one, two], tlp_max=Tlp.RED) == [labels[0], labels[2], labels[1]]
    assert await graph.curation.labelled("c2", tlp_max=Tlp.RED) == [one, two]
    assert await graph.curation.labelled("c2", tlp_max=Tlp.RED, after=one) == [two]
    assert await graph.curation.labelled("c2", tlp_max=Tlp.AMBER) == [one]
    assert not await graph.curation.remove_label(two, "c2", tlp_max=Tlp.AMBER)
    assert await graph.curation.remove_label(one, "c2", tlp_max=Tlp.AMBER)
    assert not await graph.curation.remove_label(one, "c2", tlp_max=Tlp.RED)
    assert await graph.curation.labels([one], tlp_max=Tlp.RED) == [labels[2]]
    less_strict = Label(two, "c2", "carol", 8)
    await graph.curation.add_label(less_strict)
    await graph.curation.add_label(labels[1])
    assert await graph.curation.labels([two], tlp_max=Tlp.RED) == [less_strict]


async def test_a_note_is_changed_by_who_saw_its_last_version(graph: GraphStores) -> None:
    about = make_id("one")
    first = note("seen in the wild", about)
    await graph.curation.add_note(first)
    await graph.curation.add_note(note("secret", about, tlp=Tlp.RED))
    changed = await graph.curation.change_note(first.note_id, "seen at home", etag=first.etag, actor="bob", time_ns=9)
    assert (changed.body, changed.update_time_ns, changed.create_time_ns, changed.version) == ("seen at home", 9, 5, 2)
    assert changed.actor == "bob"
    with pytest.raises(EtagMismatchError):
        await graph.curation.change_note(first.note_id, "seen nowhere", etag=first.etag, actor="bob", time_ns=10)
    with pytest.raises(NotFoundError):
        await graph.curation.change_note(make_id("other"), "x", etag="1", actor="bob", time_ns=10)
    assert await graph.curation.notes([about], tlp_max=Tlp.AMBER) == [changed]
    assert await graph.curation.note(first.note_id) == changed
    assert await graph.curation.note(make_id("other")) is None
    with pytest.raises(EtagMismatchError):
        await graph.curation.remove_note(first.note_id, etag=first.etag)
    assert await graph.curation.remove_note(first.note_id, etag=changed.etag)
    assert not await graph.curation.remove_note(first.note_id)


async def test_merged_entities_are_walked_as_one_until_they_are_split(graph: GraphStores) -> None:
    facts = Facts()
    facts.related(("a", "x"), ("b", "y"), ("c", "z"), ("start", "a"))
    await graph.tell(facts)
    a, b, c, start = (make_id(f"Entity/{name}") for name in ("a", "b", "c", "start"))
    parted = await graph.reader.get([a, b, c], tlp_max=Tlp.RED)
    await graph.curation.merge(merge(b, a))
    await graph.curation.merge(merge(c, b))
    assert {vertex.value for vertex in (await graph.reader.get([c], tlp_max=Tlp.RED)).values()} == {"a"}
    for begin in (a, b, c):
        levels = await graph.walk(begin, limits=GraphLimits(depth_max=1))
        assert [sorted(values_of(level)) for level in levels] == [["a"], ["start", "x", "y", "z"]]
    levels = await graph.walk(start)
    assert [sorted(values_of(level)) for level in levels] == [["start"], ["a"], ["x", "y", "z"]]
    assert levels[2].parts == {b: a, c: a}
    (whole,) = levels[1].vertices
    assert whole.seen.count == sum([parted[one].seen.count for one in (a, b, c)]), "it was seen as often as its parts"
    everything = GraphFilter(tlp_max=Tlp.RED)
    found = await graph.reader.paths(start, make_id("Entity/z"), everything, GraphLimits())
    assert [[vertex.value for vertex in path.vertices] for path in found.paths] == [["start", "a", "z"]]
    assert found.paths[0].edges[1].key.start == c  # the evidence stays that of the part
    assert [len(path.edges) for path in (await graph.reader.paths(a, c, everything, GraphLimits())).paths] == [0]
    with pytest.raises(InvalidArgumentError, match="part of"):
        await graph.curation.merge(merge(a, c))
    assert {one.id for one in await graph.curation.parts(a)} == {b, c}
    assert await graph.curation.split(b) == merge(b, a)
    assert await graph.curation.split(b) is None
    assert [sorted(values_of(level)) for level in await graph.walk(start)] == [["start"], ["a"], ["x"]]
    assert {one.id for one in await graph.curation.merges([b])} == {c}


async def test_a_merge_is_replaced_and_undone_by_who_saw_it(graph: GraphStores) -> None:
    a, b, c = (make_id(name) for name in "abc")
    first = await graph.curation.merge(merge(a, b))
    assert await graph.curation.merge(Merge(a, b, "bob", 7)) == first, "a repeat changes nothing"
    for etag in ("", "0" * 16):
        with pytest.raises(EtagMismatchError):
            await graph.curation.merge(merge(a, c), etag=etag)
    second = await graph.curation.merge(merge(a, c), etag=first.etag)
    with pytest.raises(EtagMismatchError):
        await graph.curation.merge(merge(b, c), etag=first.etag)
    with pytest.raises(EtagMismatchError):
        await graph.curation.split(a, etag=first.etag)
    assert await graph.curation.split(a, etag=second.etag) == second


async def test_merges_are_neither_endlessly_deep_nor_many(graph: GraphStores, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [make_id(str(number)) for number in range(MERGE_DEPTH_MAX + 2)]
    for part, into in pairwise(chain[:-1]):
        await graph.curation.merge(merge(part, into))
    with pytest.raises(InvalidArgumentError, match="deep"):
        await graph.curation.merge(merge(chain[-2], chain[-1]))
    with pytest.raises(InvalidArgumentError, match="part of"):
        await graph.curation.merge(merge(chain[-2], chain[0]))
    monkeypatch.setattr("heimdall_server.storage.postgres.graph.curation.GROUP_MAX", MERGE_DEPTH_MAX + 1)
    with pytest.raises(InvalidArgumentError, match="may be one"):
        await graph.curation.merge(merge(chain[-1], chain[-2]))


async def test_a_part_that_a_reader_must_not_see_is_not_given_away_by_its_merge(graph: GraphStores) -> None:
    facts = Facts()
    known, secret = facts.vertex("known"), facts.vertex("secret", by=1)
    await graph.tell(facts)
    await graph.curation.merge(merge(secret, known))
    assert set(await graph.reader.get([secret, known], tlp_max=Tlp.RED)) == {secret, known}
    assert set(await graph.reader.get([secret, known], tlp_max=Tlp.AMBER)) == {known}


async def test_a_rebuild_drops_what_was_observed_and_nothing_that_was_decided(
    graph: GraphStores, postgres_pool: PostgresPool
) -> None:
    facts = Facts()
    facts.related(("a", "b"), ("b", "c"))
    facts.related(("a", "b"), by=1)
    a, b = make_id("Entity/a"), make_id("Entity/b")
    await graph.tell(facts)
    await graph.curation.add_label(Label(a, "c2", "alice", 5))
    await graph.curation.add_note(note("keep me", b))
    await graph.curation.merge(merge(b, a))
    await graph.vectors.put(VertexKind.ENTITY, "m", [Embedding(a, (1.0, *([0.0] * (DIMENSIONS - 1))))])
    whole = await canonical_dump(postgres_pool)
    await graph.writer.forget()
    assert await canonical_dump(postgres_pool) == []
    assert await graph.reader.get([a], tlp_max=Tlp.RED) == {}
    assert await graph.curation.labelled("c2", tlp_max=Tlp.RED) == [a]
    await graph.tell(facts)  # its origin was forgotten, too
    assert await canonical_dump(postgres_pool) == whole
    assert [one.body for one in await graph.curation.notes([b], tlp_max=Tlp.RED)] == ["keep me"]
    assert [sorted(values_of(level)) for level in await graph.walk(a)][1] == ["c"]
    found = await graph.vectors.nearest(VertexKind.ENTITY, "m", [1.0] * DIMENSIONS, tlp_max=Tlp.RED)
    assert [one.id for one in found] == [a]


async def test_the_nearest_vectors_are_found_by_the_index(graph: GraphStores, postgres_pool: PostgresPool) -> None:
    random = np.random.default_rng(5)
    names = [f"e{number}" for number in range(400)]
    facts = Facts()
    ids = [facts.vertex(name, by=number % 2) for number, name in enumerate(names)]
    column = facts.vertex("column", VertexKind.FIELD)
    await graph.tell(facts)
    vectors = random.normal(size=(len(ids), DIMENSIONS))
    await graph.vectors.put(
        VertexKind.ENTITY, "m", [Embedding(*one) for one in zip(ids, map(tuple, vectors), strict=True)]
    )
    await graph.vectors.put(VertexKind.FIELD, "m", [Embedding(column, tuple(vectors[0]))])
    await graph.vectors.put(VertexKind.ENTITY, "m", [Embedding(ids[7], tuple(vectors[7]))])
    asked = vectors[6] + 0.1 * random.normal(size=DIMENSIONS)
    found = await graph.vectors.nearest(VertexKind.ENTITY, "m", asked, tlp_max=Tlp.RED, count_max=5)
    assert found[0].id == ids[6]
    assert found[0].distance < 0.1 < found[1].distance
    assert [one.distance for one in found] == sorted(one.distance for one in found)
    seen = await graph.vectors.nearest(VertexKind.ENTITY, "m", vectors[7], tlp_max=Tlp.GREEN, count_max=20)
    assert len(seen) == 20
    assert not {one.id for one in seen} & {id_ for number, id_ in enumerate(ids) if number % 2}
    assert [one.id for one in await graph.vectors.nearest(VertexKind.FIELD, "m", asked, tlp_max=Tlp.RED)] == [column]
    assert await graph.vectors.nearest(VertexKind.ENTITY, "other", asked, tlp_max=Tlp.RED) == []
    async with postgres_pool.connection() as connection:
        await connection.execute("SET LOCAL search_path = heimdall, extensions")
        await connection.execute("SET LOCAL enable_seqscan = off")
        for number, index in ((4, "graph_embedding_entity"), (1, "graph_embedding_field")):
            cursor = await connection.execute(
                "EXPLAIN SELECT id FROM graph_embedding WHERE kind = %s::integer ORDER BY embedding <=> %s::vector LIMIT 3",
                (number, "[" + ",".join(["1"] * DIMENSIONS) + "]"),
            )
            assert index in "".join(line for (line,) in await cursor.fetchall())
    for kind, vector in ((VertexKind.DUMP, asked), (VertexKind.ENTITY, [1.0]), (VertexKind.ENTITY, [0.0] * DIMENSIONS)):
        with pytest.raises(InvalidArgumentError):
            await graph.vectors.nearest(kind, "m", vector, tlp_max=Tlp.RED)
