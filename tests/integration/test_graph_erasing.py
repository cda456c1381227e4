"""What was erased goes from the graph, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heimdall_server.domain.graph import VERTEX_KINDS, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label
from heimdall_server.domain.graph_batches import ProfilePart, RecordMarks
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import NOON_NS, OURS, Facts, canonical_dump

ADA = "[email:1" + "a" * 26 + "]"
BOB = "[email:1" + "b" * 26 + "]"


def _told(*names: str) -> tuple[Facts, dict[str, bytes]]:
    """A dump with a field in which each name stands, each sighted there."""
    facts = Facts()
    dump, field = facts.vertex("forum", VertexKind.DUMP), facts.vertex("mail", VertexKind.FIELD)
    facts.edge(dump, field, EdgeKind.HAS_FIELD, "")
    ids: dict[str, bytes] = {}
    for name in names:
        ids[name] = facts.vertex(name, type="email")
        value = facts.vertex(name, VertexKind.FIELD_VALUE)
        sighting = facts.vertex(f"forum/{name}", VertexKind.SIGHTING, day=20_000, hours=[1] + [0] * 23)
        facts.vertex(name, type="email", by=1, at_ns=NOON_NS + 5)  # a second provenance has rows of its own
        facts.edge(field, value, EdgeKind.HAS_VALUE, "")
        facts.edge(value, ids[name], EdgeKind.OF_ENTITY, "")
        facts.edge(sighting, ids[name], EdgeKind.OF_ENTITY, "")
        facts.edge(sighting, dump, EdgeKind.OBSERVED_IN, "")
    return facts, ids


@pytest.mark.usefixtures("postgres_clean")
async def test_an_erased_entity_goes_with_all_that_hangs_on_it_and_others_stay(postgres_pool: PostgresPool) -> None:
    writer, curation = PostgresGraphWriter(postgres_pool), PostgresGraphCuration(postgres_pool)
    await writer.apply(_told(BOB)[0].batch(1))
    expected = [row for row in await canonical_dump(postgres_pool) if row[0] in ("FieldValue", "Sighting", "Entity")]
    await writer.forget()

    facts, ids = _told(ADA, BOB)
    await writer.apply(facts.batch(1))
    await curation.add_label(Label(ids[ADA], "suspect", "ann", 1, tlp=Tlp.GREEN))
    eraser = PostgresGraphEraser(postgres_pool)
    assert await eraser.erase([ADA]) == 3
    left = [row for row in await canonical_dump(postgres_pool) if row[0] in ("FieldValue", "Sighting", "Entity")]
    assert left == expected
    assert ADA not in repr(await canonical_dump(postgres_pool))
    assert not await curation.labels([ids[ADA]], tlp_max=Tlp.RED)
    assert set(await PostgresGraphReader(postgres_pool).get(ids.values(), tlp_max=Tlp.RED)) == {ids[BOB]}
    assert await eraser.erase([ADA, "[email:1" + "c" * 26 + "]"]) == 0


@pytest.mark.usefixtures("postgres_clean")
async def test_records_that_told_of_what_was_erased_are_taken_in_again_and_profiles_show_it_no_more(
    postgres_pool: PostgresPool,
) -> None:
    who = replace(OURS, dump="forum")
    facts, _ = _told(ADA, BOB)
    facts.provenances[0] = who
    for row in (*facts.vertices, *facts.edges):
        place = 7 if ADA in repr(row) or row["first_place"] else 8
        row |= {"first_place": place, "last_place": place}
    field = next(row["id"] for row in facts.vertices if row["kind"] == VERTEX_KINDS.index(VertexKind.FIELD))
    profile = Profile(value_count=2, types={"email": 2}, samples=((1, ADA), (2, BOB)))
    marks = RecordMarks(who, np.array([6, 7, 7, 8, 8, 5_000]), np.array([1, 2, 5, 3, 6, 4], np.uint64))
    writer = PostgresGraphWriter(postgres_pool)
    await writer.apply(facts.batch(1, profiles=[ProfilePart(field, 0, profile)], records=[marks]))
    await PostgresGraphEraser(postgres_pool).erase([ADA])
    known = await writer.knows(who, marks.numbers, marks.hashes)
    assert known.tolist() == [True, False, False, True, True, True]
    found = await PostgresGraphReader(postgres_pool).profiles([field], tlp_max=Tlp.RED)
    assert found[field] == replace(profile, samples=((2, BOB),))
