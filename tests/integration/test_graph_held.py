"""An export tells all that the graph holds on a subject, with who says so, and nothing of others but their tokens."""

from __future__ import annotations

from typing import Any

import pytest

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label, Merge, Note
from heimdall_server.domain.graph_imports import ImportedEntity, ImportedFacts, ImportRow, Told
from heimdall_server.domain.personal import TokenName
from heimdall_server.services.privacy.logic import graph_held
from heimdall_server.services.privacy.logic.graph_held import GraphHeld
from heimdall_server.services.privacy.logic.held import Missing
from heimdall_server.storage.postgres.graph import subjects
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.import_log import PostgresImportLog
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.subjects import PostgresGraphSubjects
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import NOON_NS, Facts

ADA, BOB = TokenName("email", "1" + "a" * 26), TokenName("email", "1" + "b" * 26)
pytestmark = pytest.mark.usefixtures("postgres_clean")


def facts_of(*names: TokenName, days: int = 2) -> tuple[Facts, dict[TokenName, bytes]]:
    """Each stands in a dump's field, is sighted in it on some days, and wrote to all others."""
    facts = Facts()
    dump, field = facts.vertex("forum", VertexKind.DUMP), facts.vertex("mail", VertexKind.FIELD)
    facts.edge(dump, field, EdgeKind.HAS_FIELD, "")
    ids = {name: facts.vertex(str(name), type="email", by=number) for number, name in enumerate(names)}
    for name, id_ in ids.items():
        value = facts.vertex(str(name), VertexKind.FIELD_VALUE)
        facts.edge(field, value, EdgeKind.HAS_VALUE, "")
        facts.edge(value, id_, EdgeKind.OF_ENTITY, "")
        for day in range(20_000, 20_000 + days):
            sighting = facts.vertex("forum", VertexKind.SIGHTING, id=f"{name}{day}".encode()[-16:], day=day)
            facts.edge(sighting, id_, EdgeKind.OF_ENTITY, "")
        for other in ids.values():
            if other != id_:
                facts.edge(id_, other, relation="wrote-to", by=1)
    return facts, ids


async def lines(pool: PostgresPool, *names: TokenName, missing: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """What an export has of the graph, and what it says is missing."""

    async def what_is_missing() -> str:
        return missing

    held = GraphHeld(
        PostgresGraphSubjects(pool), PostgresGraphReader(pool), PostgresGraphCuration(pool), what_is_missing
    )
    given = [line async for line in held.lines(names, TimeRange())]
    return (
        [dict(line) for line in given if not isinstance(line, Missing)],
        [line.reason for line in given if isinstance(line, Missing)],
    )


async def test_an_entity_is_told_with_all_that_hangs_on_it(postgres_pool: PostgresPool) -> None:
    facts, ids = facts_of(ADA, BOB)
    await PostgresGraphWriter(postgres_pool).apply(facts.batch(1))
    curation = PostgresGraphCuration(postgres_pool)
    await curation.add_label(Label(ids[ADA], "suspect", "ann", NOON_NS, "case 17", Tlp.RED))
    await curation.add_note(Note(b"n" * 16, ids[ADA], "she called", "ann", NOON_NS, NOON_NS, Tlp.RED))
    await curation.add_label(Label(ids[BOB], "witness", "ann", NOON_NS))
    found, missing = await lines(postgres_pool, ADA, TokenName("email", "1" + "c" * 26))
    assert missing == []
    (entity,) = [line for line in found if line["kind"] == "graph_entity"]
    assert (entity["entity_id"], entity["entity"]["value"]) == (ids[ADA].hex(), str(ADA))
    assert [(one["source"], one["method"]) for one in entity["provenances"]] == [("app", "log-observable")]
    assert [(one["label"], one["actor"], one["tlp"]) for one in entity["labels"]] == [("suspect", "ann", "red")]
    assert [one["body"] for one in entity["notes"]] == ["she called"]
    sightings = [line for line in found if line["kind"] == "graph_sighting"]
    assert [one["sighting"]["day"] for one in sightings] == ["2024-10-05", "2024-10-04"]
    assert all(one["provenances"][0]["source"] == "app" for one in sightings)
    relations = [line["relation"] for line in found if line["kind"] == "graph_relation"]
    told = {(one["edge_kind"], one["relation"], one["start"]["value"], one["end"]["value"]) for one in relations}
    ada, bob = str(ADA), str(BOB)
    assert told == {
        ("RELATED_TO", "wrote-to", ada, bob),
        ("RELATED_TO", "wrote-to", bob, ada),
        ("OF_ENTITY", "", ada, ada),
        ("HAS_VALUE", "", "mail", ada),
        ("HAS_FIELD", "", "forum", "mail"),
    }
    assert "witness" not in repr(found)


async def test_what_was_imported_of_a_subject_is_told_as_it_was_told(postgres_pool: PostgresPool) -> None:
    told = Told(NOON_NS, NOON_NS, 1, 80, Tlp.GREEN)
    log = PostgresImportLog(postgres_pool)

    def row(number: int, name: TokenName, kept: str) -> ImportRow:
        entities = [ImportedEntity(name.word[-16:].encode(), "email", str(name), told)]
        facts = ImportedFacts("here", "partner", "stix-import", "1", "someone", entities)
        return ImportRow(bytes([number]) * 16, bytes([number]) * 16, facts, Tlp.GREEN, kept=kept)

    await log.append([row(1, ADA, '{"type":"email-addr"}'), row(2, BOB, ""), row(3, ADA, "")], actor="ann", time_ns=1)
    found, _ = await lines(postgres_pool, ADA)
    assert [(line["kind"], line["number"], line["object"], line["actor"]) for line in found] == [
        ("graph_import", 1, {"type": "email-addr"}, "ann"),
        ("graph_import", 3, None, "ann"),
    ]
    assert found[0]["entities"] == [{"type": "email", "value": str(ADA)}]


async def test_more_than_one_question_tells_is_asked_for_by_several(
    postgres_pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_held, "_SIGHTINGS", 3)
    monkeypatch.setattr(graph_held, "_AT_ONCE", 2)
    facts, ids = facts_of(ADA, days=5)
    for source in ("a", "b", "c", "d"):  # more of one day than one question tells
        id_ = f"{source}20003".encode().rjust(16)
        facts.edge(facts.vertex(source, VertexKind.SIGHTING, id=id_, day=20_003), ids[ADA], EdgeKind.OF_ENTITY, "")
    await PostgresGraphWriter(postgres_pool).apply(facts.batch(1))
    found, _ = await lines(postgres_pool, ADA)
    told = [(line["sighting"]["day"], line["sighting"]["source"]) for line in found if line["kind"] == "graph_sighting"]
    days = [f"2024-10-{day:02}" for day in range(4, 9)]
    assert sorted(told) == sorted([(day, "forum") for day in days] + [(days[3], source) for source in "abcd"])


async def test_where_there_never_was_a_graph_that_is_said_and_nothing_is_missing(
    postgres_pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(_: object) -> bool:
        return False

    monkeypatch.setattr(subjects, "are_there", none)
    found, missing = await lines(postgres_pool, ADA, missing="this process doesn't run the graph")
    assert ([line["kind"] for line in found], missing) == (["graph_off"], [])


async def test_merges_and_what_the_graph_lacks_are_told(postgres_pool: PostgresPool) -> None:
    facts, ids = facts_of(ADA, BOB)
    await PostgresGraphWriter(postgres_pool).apply(facts.batch(1))
    await PostgresGraphCuration(postgres_pool).merge(Merge(ids[BOB], ids[ADA], "ann", NOON_NS, "the same one"))
    found, missing = await lines(postgres_pool, BOB, missing="it is behind")
    assert missing == ["it is behind"]
    (entity,) = [line for line in found if line["kind"] == "graph_entity"]
    assert [(one["entity_id"], one["into_entity_id"]) for one in entity["merges"]] == [(ids[BOB].hex(), ids[ADA].hex())]
