"""What is given out is STIX, holds what the caller may see, and comes back as the same facts."""
# ruff: noqa: S608 - statements are made of names of ours

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stix2  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import InvalidArgumentError, NotFoundError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_authored import Merge
from heimdall_server.services.graph.logic.interchange import stix_reader
from heimdall_server.services.graph.logic.interchange.exporting import ExportOptions
from heimdall_server.services.graph.logic.interchange.stix_markings import MARKING_IDS
from heimdall_server.services.graph.logic.interchange.stix_times import timestamp
from heimdall_server.services.graph.model import Ceiling, Named
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import DAY_NS
from tests.support.interchange import (
    CAROL,
    LATER,
    TIME,
    Interchange,
    below,
    bundle,
    emptied,
    interchange,
    observable,
    stix,
)

pytestmark = pytest.mark.usefixtures("postgres_clean")

IP = observable("ipv4-addr", value="203.0.113.7")
DOMAIN = observable("domain-name", value="evil.example")
MAIL = observable("email-addr", value="alice@example.com")
PERSON = stix("identity", name="Alice Lovelace", identity_class="individual")
ACTOR = stix("threat-actor", name="Crime Crew", aliases=["CC"], description="Of no fixed abode")
SECRET = stix(
    "malware",
    name="Secret",
    is_family=False,
    object_marking_refs=["marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"],
)
INDICATOR = stix(
    "indicator", name="C2", pattern="[ipv4-addr:value = '203.0.113.7']", pattern_type="stix", valid_from=TIME
)
TALKS = stix("relationship", relationship_type="communicates-with", source_ref=ACTOR["id"], target_ref=IP["id"])
USES = stix("relationship", relationship_type="uses", source_ref=ACTOR["id"], target_ref=SECRET["id"])
MAILS = stix("relationship", relationship_type="attributed-to", source_ref=MAIL["id"], target_ref=ACTOR["id"])
IS = stix("relationship", relationship_type="related-to", source_ref=MAIL["id"], target_ref=PERSON["id"])
SHOWS = stix("relationship", relationship_type="indicates", source_ref=INDICATOR["id"], target_ref=ACTOR["id"])
SEEN = stix(
    "observed-data", first_observed=TIME, last_observed=LATER, number_observed=7, object_refs=[IP["id"], MAIL["id"]]
)
WHOLE = bundle(IP, MAIL, PERSON, ACTOR, SECRET, INDICATOR, TALKS, USES, MAILS, IS, SHOWS, SEEN)


@pytest.fixture
async def graph(postgres_pool: PostgresPool, tmp_path: Path) -> AsyncIterator[Interchange]:
    async with interchange(postgres_pool, tmp_path) as made:
        yield made


def by_type(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Objects of a bundle, each of which is STIX."""
    told: dict[str, list[dict[str, Any]]] = {}
    stix2.parse({**found, "objects": found["objects"] or [IP]}, allow_custom=True)
    for one in found["objects"]:
        stix2.parse(one, allow_custom=True)
        told.setdefault(one["type"], []).append(one)
    return told


async def test_an_export_is_stix_with_the_ids_of_the_standard_and_without_persons(graph: Interchange) -> None:
    await graph.take(WHOLE)
    found, told = await graph.give("threat-actor:CC")
    objects = by_type(found)
    assert objects["ipv4-addr"][0]["id"] == stix2.v21.IPv4Address(value="203.0.113.7")["id"]
    assert objects["threat-actor"][0] | {"object_marking_refs": []} == ACTOR | {"object_marking_refs": []}
    assert objects["indicator"][0]["pattern"] == INDICATOR["pattern"]
    assert {one["relationship_type"] for one in objects["relationship"]} == {"communicates-with", "uses", "indicates"}
    assert [one["number_observed"] for one in objects["observed-data"]] == [7]
    assert (told.personal_count, told.left_out_count, told.truncated) == (2, 2, False)
    assert "email" not in str(found)
    assert {one["name"] for one in objects["marking-definition"]} == {"TLP:AMBER", "TLP:RED"}

    again, _ = await graph.give("threat-actor:CC")
    assert again["objects"] == found["objects"]


async def test_the_ceiling_holds_within_the_export(graph: Interchange) -> None:
    await graph.take(WHOLE)
    found, told = await graph.give("threat-actor:CC", who=below(Tlp.AMBER_STRICT))
    assert "Secret" not in str(found)
    assert (told.relation_count, told.left_out_count) == (2, 2)
    with pytest.raises(NotFoundError):
        await graph.give("malware:Secret", who=below(Tlp.AMBER_STRICT))


async def test_what_several_say_is_marked_as_the_strictest_of_them_that_is_given_out(graph: Interchange) -> None:
    crew = {**ACTOR, "description": "what everybody knows"}
    secret = {**ACTOR, "description": "what few know"}
    await graph.take(bundle(crew, IP, TALKS), source="open", tlp=Tlp.CLEAR)
    await graph.take(bundle(secret, IP, TALKS), source="closed", tlp=Tlp.RED)
    for ceiling, description in ((Tlp.RED, "what few know"), (Tlp.AMBER, "what everybody knows")):
        found, _ = await graph.give("threat-actor:CC", who=below(ceiling))
        objects = by_type(found)
        expected = "TLP:RED" if ceiling is Tlp.RED else "TLP:CLEAR"
        assert [one["name"] for one in objects["marking-definition"]] == [expected]
        assert [one["description"] for one in objects["threat-actor"]] == [description]


async def test_persons_are_given_out_for_a_reason_and_each_is_written_down(graph: Interchange) -> None:
    await graph.take(WHOLE)
    found, told = await graph.give("threat-actor:CC", reveal=True)
    objects = by_type(found)
    assert objects["email-addr"][0]["id"] == stix2.v21.EmailAddress(value="alice@example.com")["id"]
    assert [one["name"].casefold() for one in objects["identity"]] == ["alice lovelace"]
    assert (told.personal_count, told.left_out_count, told.relation_count) == (0, 0, 5)
    revealing = [act for act in await graph.acts() if act.action == "privacy.reveal"]
    assert {name for act in revealing for name in act.details["tokens"].split()} == {
        str(name) for name in graph.revealed
    }
    assert "alice" not in str(await graph.acts()).lower()


async def test_an_export_begins_at_entities_and_says_why_it_reveals(graph: Interchange) -> None:
    await graph.take(WHOLE)
    unexplained = ExportOptions(
        [Named(type="threat-actor", value="Crime Crew")], 1, 10, reveal_personal=True, reason=" "
    )
    with pytest.raises(InvalidArgumentError, match="reason"):
        await anext(graph.exporting.run(CAROL, unexplained, Ceiling(Tlp.RED)))
    found, told = await graph.give("indicator:C2", depth=1)
    assert told.entity_count == 2
    assert len(found["objects"]) > 2


async def test_merged_entities_are_given_out_as_one(graph: Interchange) -> None:
    other = stix("threat-actor", name="Other Crew")
    uses = stix("relationship", relationship_type="uses", source_ref=other["id"], target_ref=SECRET["id"])
    await graph.take(bundle(ACTOR, other, SECRET, IP, uses, TALKS))
    crew, _ = await graph.finder.find(Named(type="threat-actor", value="Crime Crew"), Tlp.RED)
    merged, _ = await graph.finder.find(Named(type="threat-actor", value="Other Crew"), Tlp.RED)
    await graph.curation.merge(Merge(merged, crew, "ann", 1))
    found, told = await graph.give("threat-actor:Crime Crew", depth=1)
    relations = by_type(found)["relationship"]
    assert {one["source_ref"] for one in relations} == {ACTOR["id"]}
    assert (told.entity_count, told.relation_count, told.left_out_count) == (3, 2, 0)


REPORTER = stix("identity", name="The Bank", identity_class="organization")
ANALYST = stix("identity", name="Mallory Lovelace", identity_class="individual")
SAID = {
    "description": "seen by alice@example.com",
    "external_references": [{"source_name": "case", "external_id": "17", "description": "of bob@example.org"}],
    "labels": ["first"],
    "x_note": {"by": ["carol@example.net"]},
}
MASKED = {
    "description": "seen by [email]",
    "external_references": [{"source_name": "case", "external_id": "17", "description": "of [email]"}],
    "labels": ["first"],
    "x_note": {"by": ["[email]"]},
}
LOOKED = stix(
    "observed-data", first_observed=TIME, last_observed=LATER, number_observed=2, object_refs=[IP["id"]], labels=["x"]
)
SIGHTED = stix(
    "sighting",
    sighting_of_ref=ACTOR["id"],
    count=3,
    first_seen=TIME,
    last_seen=TIME,
    where_sighted_refs=[REPORTER["id"], ANALYST["id"]],
    observed_data_refs=[LOOKED["id"]],
    summary=False,
    created_by_ref=ANALYST["id"],
    **SAID,
)
TOLD = stix(
    "relationship",
    relationship_type="communicates-with",
    source_ref=ACTOR["id"],
    target_ref=IP["id"],
    created_by_ref=REPORTER["id"],
    start_time=TIME,
    **SAID,
)
SAYING = bundle(IP, ACTOR, REPORTER, ANALYST, LOOKED, SIGHTED, TOLD)


def without(object_: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in object_.items() if key not in {"object_marking_refs", *keys}}


async def test_relations_and_sightings_are_given_out_with_all_that_they_say(graph: Interchange) -> None:
    await graph.take(SAYING)
    relation, sighting = {**TOLD, **MASKED}, {**SIGHTED, **MASKED, "where_sighted_refs": [REPORTER["id"]]}
    for _ in range(2):
        found, told = await graph.give("threat-actor:CC", depth=1)
        objects = by_type(found)
        address = objects["ipv4-addr"][0]["id"]
        assert [without(one) for one in objects["relationship"]] == [{**relation, "target_ref": address}]
        # Ids of persons may be hashes of their names.
        assert [without(one) for one in objects["sighting"]] == [without(sighting, "created_by_ref")]
        assert [without(one) for one in objects["observed-data"]] == [{**LOOKED, "object_refs": [address]}]
        assert (told.relation_count, told.sighting_count) == (1, 2)
        before = await facts_of(graph)
        await graph.writer.forget()
        await graph.imports.catch_up()  # as a rebuild does
        assert await facts_of(graph) == before
    await emptied(graph)
    again = await graph.take(bundle(*found["objects"]))
    assert not again.refused
    given, _ = await graph.give("threat-actor:CC", depth=1)
    assert given["objects"] == found["objects"]


async def test_no_personal_value_of_a_relation_or_a_sighting_is_kept(graph: Interchange) -> None:
    mails = {**MAILS, **SAID}
    seen = stix("sighting", sighting_of_ref=PERSON["id"], **SAID)
    await graph.take(bundle(MAIL, PERSON, ACTOR, IP, ANALYST, TOLD, SIGHTED, mails, seen))
    async with graph.log._pool.connection() as connection:
        rows = await (await connection.execute("SELECT r::text FROM graph_import r WHERE fact IS NOT NULL")).fetchall()
    text = "\n".join(row for (row,) in rows)
    assert len(rows) == 4
    for part in (
        "alice",
        "bob@",
        "carol@",
        "Mallory",
        MAIL["id"],
        ANALYST["id"],
        PERSON["id"],
        MAILS["id"],
        seen["id"],
    ):
        assert part not in text
    opened = {graph.keyring.open(value) for value in (await graph.sealed()).values()}
    assert {"alice@example.com", "bob@example.org", "carol@example.net"} <= opened

    found, _ = await graph.give("threat-actor:CC", depth=1, reveal=True)
    revealed = next(one for one in by_type(found)["relationship"] if one["relationship_type"] == "attributed-to")
    assert without(revealed, "id", "source_ref") == {**without(mails, "id", "source_ref"), **MASKED}
    (token,) = {str(name) for name in graph.revealed if name.data_class == "email"}
    await graph.eraser.erase([token])
    async with graph.log._pool.connection() as connection:
        rows = await (await connection.execute("SELECT r::text FROM graph_import r WHERE fact IS NOT NULL")).fetchall()
    assert len(rows) == 3


async def test_what_a_relation_says_above_the_ceiling_is_not_given_out(graph: Interchange) -> None:
    secret = {**TALKS, "description": "what few know"}
    other = stix("relationship", **{**without(TALKS, "type", "id", "created", "modified", "spec_version"), "x_n": 1})
    await graph.take(bundle(ACTOR, IP, TALKS, other), source="open", tlp=Tlp.CLEAR)
    await graph.take(bundle(ACTOR, IP, secret), source="closed", tlp=Tlp.RED)
    for ceiling, told in ((Tlp.RED, [other, secret]), (Tlp.AMBER, [TALKS, other])):
        found, _ = await graph.give("threat-actor:CC", who=below(ceiling))
        given = sorted(by_type(found)["relationship"], key=lambda one: str(one["id"]))
        wanted = [without(one, "target_ref") for one in sorted(told, key=lambda one: str(one["id"]))]
        assert [without(one, "target_ref") for one in given] == wanted
        marking = MARKING_IDS[Tlp.RED if ceiling is Tlp.RED else Tlp.CLEAR]
        assert {ref for one in given for ref in one["object_marking_refs"]} == {marking}


async def test_sightings_are_given_out_once_and_count_what_was_counted(graph: Interchange) -> None:
    later = {**SIGHTED, "count": 8, "last_seen": LATER, "modified": LATER, "description": "again"}
    both = stix(
        "observed-data",
        first_observed=TIME,
        last_observed=TIME,
        number_observed=5,
        object_refs=[IP["id"], DOMAIN["id"]],
        labels=["both"],
    )
    await graph.take(bundle(ACTOR, IP, DOMAIN, SIGHTED, both))
    await graph.take(bundle(ACTOR, later))
    found, told = await graph.give("threat-actor:CC", depth=1)
    assert [(one["id"], one["count"], one["description"]) for one in by_type(found)["sighting"]] == [
        (SIGHTED["id"], 8, "again")
    ]
    assert told.sighting_count == 1
    found, _ = await graph.give("ipv4:203.0.113.7", "domain:evil.example", depth=1)
    observed = by_type(found)["observed-data"]
    assert [(one["number_observed"], one["labels"], len(one["object_refs"])) for one in observed] == [
        (5, ["both"], 1)
    ] * 2
    assert len({one["id"] for one in observed}) == 2

    async with graph.log._pool.connection() as connection:  # one from before objects were kept
        await connection.execute("UPDATE graph_import SET kept = '', fact = NULL WHERE counted = 5")
    found, _ = await graph.give("ipv4:203.0.113.7", depth=1)
    assert [(one["number_observed"], one.get("labels")) for one in by_type(found)["observed-data"]] == [(5, None)]


async def test_what_was_imported_without_objects_of_relations_gets_them_by_the_same_import_again(
    graph: Interchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(stix_reader, "_waiting", lambda _: b"")
        await graph.take(SAYING)
    found, _ = await graph.give("threat-actor:CC", depth=1)
    assert not any("description" in one for one in by_type(found)["relationship"])
    before = await facts_of(graph)
    assert (await graph.take(SAYING)).new_count == 3
    assert await facts_of(graph) == before
    found, told = await graph.give("threat-actor:CC", depth=1)
    objects = by_type(found)
    assert [one["id"] for one in objects["relationship"]] == [TOLD["id"]]
    assert [(one["id"], one["count"]) for one in objects["sighting"]] == [(SIGHTED["id"], 3)]
    assert (told.relation_count, told.sighting_count) == (1, 2)


async def test_an_id_that_speaks_of_something_else_now_is_given_out_once(graph: Interchange) -> None:
    moved = {**TALKS, "target_ref": DOMAIN["id"], "modified": LATER}
    await graph.take(bundle(ACTOR, IP, DOMAIN, TALKS))
    await graph.take(bundle(ACTOR, DOMAIN, moved))
    found, _ = await graph.give("threat-actor:CC", depth=1)
    relations = by_type(found)["relationship"]
    assert len({one["id"] for one in relations}) == len({one["target_ref"] for one in relations}) == 2


VALUES = (
    "domain:evil.example",
    "ipv4:203.0.113.7",
    "sha256:" + "e" * 64,
    "md5:" + "d" * 32,
    "cve:CVE-2021-44228",
    "asn:AS64500",
    "malware:Loader",
    "threat-actor:Crime Crew",
    "user_agent:curl/8.0",
    "country:DE",
    "mutex:Global\\x",
    "x-vendor-thing:y",
    "imphash:" + "a" * 32,
    "file_path:/etc/passwd",
    "url:https://evil.example/a",
    "registry_key:HKEY_LOCAL_MACHINE\\Software\\X",
)
RELATIONS = ("uses", "resolves-to", "same-as")
graphs = st.lists(
    st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES), st.sampled_from(RELATIONS)).filter(
        lambda edge: edge[0] != edge[1]
    ),
    min_size=1,
    max_size=6,
)
sightings = st.lists(st.tuples(st.integers(0, 5), st.integers(20_000, 20_003), st.integers(1, 99)), max_size=4)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edges=graphs, seen=sightings)
async def test_what_was_given_out_comes_back_as_the_same_facts(
    graph: Interchange,
    edges: list[tuple[str, str, str]],
    seen: list[tuple[int, int, int]],
) -> None:
    names = list(dict.fromkeys(itertools.chain.from_iterable(edge[:2] for edge in edges)))
    # Told once as a bundle that names all in our own way, with the sightings by the source that will tell them again.
    refs = {
        name: observable("x-heimdall-entity", entity_type=name.partition(":")[0], value=name.partition(":")[2])
        for name in names
    }
    related = [
        stix("relationship", relationship_type=relation, source_ref=refs[start]["id"], target_ref=refs[end]["id"])
        for start, end, relation in dict.fromkeys(edges)
    ]
    times = {day: _time(day) for _, day, _ in seen}
    observed = [
        stix(
            "observed-data",
            first_observed=times[day],
            last_observed=times[day],
            number_observed=count,
            object_refs=[refs[names[index % len(names)]]["id"]],
        )
        for index, day, count in dict.fromkeys(seen)
    ]
    await emptied(graph)
    counts = await graph.take(bundle(*refs.values(), *related, *observed))
    assert not counts.refused
    before = await facts_of(graph)
    given, _ = await graph.give(*names, depth=1)
    by_type(given)
    await emptied(graph)
    counts = await graph.take(bundle(*given["objects"]))
    assert not counts.refused
    assert await facts_of(graph) == before


def _time(day: int) -> str:
    return timestamp(day * DAY_NS + 12 * 3600 * 10**9)


async def facts_of(graph: Interchange) -> list[tuple[str, ...]]:
    """Entities, relations and sightings, without who says so and how often an entity was told of."""
    statements = (
        "MATCH (n:Entity) RETURN n.type, n.value, 0, 0",
        "MATCH (a:Entity)-[r:RELATED_TO]->(b:Entity) RETURN a.value, r.relation, b.value, 0",
        "MATCH (s:Sighting)-[:OF_ENTITY]->(n:Entity) RETURN s.value, n.value, s.day, 0",
    )
    rows: list[tuple[str, ...]] = []
    async with graph.log._pool.connection() as connection:
        await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")
        for statement in statements:
            asked = (
                f"SELECT * FROM cypher('heimdall_graph', $${statement}$$) AS (a agtype, b agtype, c agtype, d agtype)"
            )
            cursor = await connection.execute(asked.encode())
            rows += [tuple(map(str, row)) for row in await cursor.fetchall()]
        counts = await connection.execute(b'SELECT day, sum(count) FROM heimdall_graph."Sighting" GROUP BY day')
        rows += [tuple(map(str, row)) for row in await counts.fetchall()]
    return sorted(rows)
