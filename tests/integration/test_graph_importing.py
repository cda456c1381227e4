"""What other programs tell becomes facts that survive, once, and that go with the person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heimdall_server.domain.errors import FormatError, InvalidArgumentError, NotFoundError, OverloadedError, StoreError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits
from heimdall_server.protect.policy import PrivacyRule
from heimdall_server.services.graph.logic.interchange import importing
from heimdall_server.services.graph.logic.interchange.drafts import Defaults
from heimdall_server.services.graph.logic.interchange.importing import ImportOptions
from heimdall_server.services.graph.logic.interchange.stix_import import StixImport
from heimdall_server.services.graph.model import Named
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import canonical_dump
from tests.support.interchange import CAROL, LATER, TIME, Interchange, below, bundle, interchange, observable, stix

pytestmark = pytest.mark.usefixtures("postgres_clean")

IP = observable("ipv4-addr", value="203.0.113.7")
DOMAIN = observable("domain-name", value="Evil.Example", resolves_to_refs=[IP["id"]])
MAIL = observable("email-addr", value="alice@example.com", display_name="Alice Lovelace")
FILE = observable("file", hashes={"MD5": "d" * 32, "SHA-256": "e" * 64}, name="invoice.exe")
ACTOR = stix(
    "threat-actor",
    name="Crime  Crew",
    aliases=["CC"],
    threat_actor_types=["crime-syndicate"],
    description="Write to bob@example.org or see 203.0.113.7",
)
MALWARE = stix(
    "malware",
    name="Loader",
    is_family=True,
    external_references=[{"source_name": "mitre-attack", "external_id": "S9999"}],
)
USES = stix("relationship", relationship_type="uses", source_ref=ACTOR["id"], target_ref=MALWARE["id"])
TALKS = stix("relationship", relationship_type="communicates-with", source_ref=MALWARE["id"], target_ref=DOMAIN["id"])
MAILS = stix("relationship", relationship_type="attributed-to", source_ref=MAIL["id"], target_ref=ACTOR["id"])
SEEN = stix(
    "observed-data",
    first_observed=TIME,
    last_observed=LATER,
    number_observed=7,
    object_refs=[IP["id"], MAIL["id"]],
)
SIGHTED = stix("sighting", sighting_of_ref=MALWARE["id"], count=3, first_seen=TIME, last_seen=TIME)
# Relations first, so that they speak of what comes later.
WHOLE = bundle(USES, TALKS, MAILS, SEEN, SIGHTED, IP, DOMAIN, MAIL, FILE, ACTOR, MALWARE)


@pytest.fixture
async def graph(postgres_pool: PostgresPool, tmp_path: Path) -> AsyncIterator[Interchange]:
    async with interchange(postgres_pool, tmp_path) as made:
        yield made


async def neighbours(graph: Interchange, name: str, tlp_max: Tlp = Tlp.RED) -> set[tuple[str, str, str]]:
    """(relation or kind, type, value) of what is one hop away; a personal value is its class."""
    type_, _, value = name.partition(":")
    id_, _ = await graph.finder.find(Named(type=type_, value=value), tlp_max)
    found: set[tuple[str, str, str]] = set()
    async for level in graph.reader.traverse([id_], GraphFilter(tlp_max), GraphLimits(depth_max=1)):
        by_id = {vertex.id: vertex for vertex in level.vertices}
        for edge in level.edges:
            for end in (edge.key.start, edge.key.end):
                if end != id_ and end in by_id:
                    other = by_id[end]
                    shown = "…" if other.value.startswith("[") else other.value
                    found.add((edge.key.relation or edge.key.kind.value, other.type, shown))
    return found


async def test_a_bundle_becomes_entities_relations_and_sightings(graph: Interchange) -> None:
    counts = await graph.take(WHOLE, piece=7)
    assert not counts.refused
    assert (counts.object_count, counts.refused_count, counts.known_count) == (11, 0, 0)
    assert await neighbours(graph, "threat-actor:Crime Crew") == {
        ("uses", "malware", "Loader"),
        ("attributed-to", "email", "…"),
    }
    assert await neighbours(graph, "malware:S9999") == {
        ("uses", "threat-actor", "Crime Crew"),
        ("communicates-with", "domain", "evil.example"),
        ("OF_ENTITY", "feed", "partner"),
    }
    assert ("resolves-to", "ipv4", "203.0.113.7") in await neighbours(graph, "domain:evil.example")
    assert ("same-as", "md5", "d" * 32) in await neighbours(graph, "sha256:" + "e" * 64)
    assert await neighbours(graph, "email:ALICE@example.com") == {
        ("attributed-to", "threat-actor", "Crime Crew"),
        ("OF_ENTITY", "feed", "partner"),
    }
    id_, _ = await graph.finder.find(Named(type="ip", value="203.0.113.7"), Tlp.RED)
    (row,) = await graph.reader.sightings(id_, tlp_max=Tlp.RED)
    assert (row.source, row.seen.count, row.day) == ("partner", 7, 20_514)
    labels = await graph.curation.labels(
        [(await graph.finder.find(Named(type="threat-actor", value="CC"), Tlp.RED))[0]], tlp_max=Tlp.RED
    )
    assert [label.label for label in labels] == ["CC"]
    acts = await graph.acts()
    assert [(act.action, act.outcome, act.subject) for act in acts] == [
        ("graph.import", "allowed", "partner"),
        ("graph.import", "done", "partner"),
    ]


async def test_the_same_again_changes_nothing_in_any_order_and_survives_a_rebuild(
    graph: Interchange, postgres_pool: PostgresPool
) -> None:
    await graph.take(WHOLE)
    before = await canonical_dump(postgres_pool)
    again = await graph.take(bundle(MALWARE, ACTOR, FILE, MAIL, DOMAIN, IP, SIGHTED, SEEN, MAILS, TALKS, USES))
    assert (again.new_count, again.refused_count) == (0, 0)
    assert await canonical_dump(postgres_pool) == before

    await graph.writer.forget()
    await graph.imports.catch_up()
    after = await canonical_dump(postgres_pool)
    assert [row for row in after if row[0] != "graph_applied"] == [row for row in before if row[0] != "graph_applied"]
    assert await graph.imports.catch_up() == 0
    assert ("uses", "malware", "Loader") in await neighbours(graph, "threat-actor:CC")


async def test_no_personal_value_is_kept_and_an_erasure_takes_along_what_named_it(
    graph: Interchange, postgres_pool: PostgresPool
) -> None:
    person = stix("identity", name="Alice Lovelace", identity_class="individual")
    account = observable("user-account", user_id="alovelace", account_type="unix")
    knows = stix("relationship", relationship_type="related-to", source_ref=account["id"], target_ref=person["id"])
    await graph.take(bundle(MAIL, ACTOR, MAILS, person, account, knows, SEEN, IP))
    stored = await everything(postgres_pool)
    for value in ("alice@example", "bob@example", "Lovelace", "alovelace", MAIL["id"], account["id"]):
        assert value not in stored, value
    opened = {graph.keyring.open(value) for value in (await graph.sealed()).values()}
    assert {"alice@example.com", "bob@example.org", "alovelace"} <= opened
    assert {"email", "name"} == {name.data_class for name in await graph.sealed()}

    (token,) = [
        str(name) for name, value in (await graph.sealed()).items() if graph.keyring.open(value) == "alice@example.com"
    ]
    await graph.eraser.erase([token])
    assert ("OF_ENTITY", "feed", "partner") in await neighbours(graph, "ip:203.0.113.7")
    for _ in range(2):  # neither now, nor after a rebuild
        with pytest.raises(NotFoundError):
            await neighbours(graph, "email:alice@example.com")
        assert not await neighbours(graph, "threat-actor:CC")
        await graph.writer.forget()
        await graph.imports.catch_up()
    assert token not in await everything(postgres_pool)


async def everything(pool: PostgresPool) -> str:
    """All that the graph's tables hold."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            b"SELECT tablename FROM pg_tables WHERE schemaname = 'heimdall' AND tablename LIKE 'graph%'"
        )
        rows = [
            row
            for (name,) in await cursor.fetchall()
            for row in await (await connection.execute(f"SELECT t::text FROM {name} t".encode())).fetchall()  # noqa: S608 - names of ours
        ]
    return repr(rows) + repr(await canonical_dump(pool))


async def test_markings_hold_and_nobody_brings_in_what_they_could_not_see(graph: Interchange) -> None:
    red, white = (
        "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed",
        "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9",
    )
    green = {
        **stix(
            "marking-definition",
            name="TLP:GREEN",
            extensions={
                "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d": {
                    "extension_type": "property-extension",
                    "tlp_2_0": "green",
                }
            },
        ),
    }
    del green["modified"]
    secret = stix("malware", name="Secret", is_family=False, object_marking_refs=[red])
    open_ = stix("malware", name="Open", is_family=False, object_marking_refs=[white])
    late = stix("malware", name="Late", is_family=False, object_marking_refs=[green["id"]])
    odd = stix(
        "malware",
        name="Odd",
        is_family=False,
        object_marking_refs=["marking-definition--00000000-0000-4000-8000-000000000001"],
    )
    parts = stix(
        "malware",
        name="Parts",
        is_family=False,
        object_marking_refs=[white],
        granular_markings=[{"marking_ref": red, "selectors": ["name"]}],
    )
    plain = stix("malware", name="Plain", is_family=False)
    leak = stix(
        "relationship",
        relationship_type="uses",
        source_ref=open_["id"],
        target_ref=secret["id"],
        object_marking_refs=[white],
    )
    data = bundle(secret, open_, late, odd, parts, plain, leak, green)

    counts = await graph.take(data, who=below(Tlp.AMBER_STRICT))
    assert (
        sorted(one.reason for one in counts.refused if "marked red" in one.reason)
        == ["it is marked red, and you may see no more than amber+strict"] * 3
    )
    assert any("neither in the import nor known" in one.reason for one in counts.refused)
    assert any("taken for red" in text for text in counts.notices)

    await graph.take(data)
    seen = {}
    for name in ("Secret", "Open", "Late", "Odd", "Parts", "Plain"):
        _, vertex = await graph.finder.find(Named(type="malware", value=name), Tlp.RED)
        seen[name] = vertex.seen.tlp
    assert seen == {
        "Secret": Tlp.RED,
        "Open": Tlp.CLEAR,
        "Late": Tlp.GREEN,
        "Odd": Tlp.RED,
        "Parts": Tlp.RED,
        "Plain": Tlp.AMBER,
    }
    assert not await neighbours(graph, "malware:Open", Tlp.AMBER)
    assert await neighbours(graph, "malware:Open") == {("uses", "malware", "Secret")}


async def test_what_is_malformed_is_refused_one_by_one_and_told_up_to_a_bound(graph: Interchange) -> None:
    bad = [
        observable("ipv4-addr", value="203.0.113.777"),
        stix("malware", name="no is_family"),
        stix("indicator", pattern="[not a pattern", pattern_type="stix", valid_from=TIME),
        stix(
            "relationship",
            relationship_type="uses",
            source_ref=MALWARE["id"],
            target_ref="malware--00000000-0000-4000-8000-000000000009",
        ),
        observable("file", size=3),
        {"type": "malware", "id": "malware--00000000-0000-4000-8000-00000000000a", "name": "half \ud800"},
        {"name": "alice@example.com"},
        stix("malware", name="x", is_family="alice@example.com"),
    ]
    counts = await graph.take(bundle(MALWARE, *bad, IP))
    assert counts.refused_count == len(bad)
    assert counts.new_count == 2
    assert not any("alice" in one.reason for one in counts.refused)
    assert {one.number for one in counts.refused} == {2, 3, 4, 5, 6, 7, 8, 9}

    many = await graph.take(bundle(*[{**bad[1], "x_number": number} for number in range(1_000)]))
    assert (many.refused_count, len(many.refused)) == (1_000, importing.REFUSED_TOLD)

    odd = await graph.take(json.dumps({"type": "bundle", "objects": [MALWARE, None, 5, IP]}).encode())
    assert [(one.number, one.reason) for one in odd.refused] == [(2, "it is no object"), (3, "it is no object")]
    assert odd.known_count == 2


async def test_what_is_no_bundle_or_too_large_ends_it_and_keeps_what_came_before(
    graph: Interchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (b"[1, 2", b'{"type": "bundle", "objects": [{"a": tru', b"\xff\xfe", b'{"objects": [{}', b"hello"):
        with pytest.raises(FormatError, match="stix"):
            await graph.take(data)
    monkeypatch.setattr(importing, "IMPORT_BYTES_MAX", 500)
    with pytest.raises(InvalidArgumentError, match="split it"):
        await graph.take(WHOLE, piece=100)


async def test_a_newer_version_of_a_sighting_counts_what_it_adds(graph: Interchange) -> None:
    await graph.take(bundle(MALWARE, SIGHTED))
    newer = {**SIGHTED, "count": 5, "modified": LATER, "last_seen": LATER}
    await graph.take(bundle(newer))  # what it speaks of is known
    await graph.take(bundle(newer, SIGHTED))
    id_, _ = await graph.finder.find(Named(type="malware", value="Loader"), Tlp.RED)
    rows = await graph.reader.sightings(id_, tlp_max=Tlp.RED)
    assert sum(row.seen.count for row in rows) == 5


async def test_revoked_and_deprecated_things_say_so(graph: Interchange) -> None:
    old = stix(
        "attack-pattern",
        name="PowerShell",
        revoked=True,
        external_references=[{"source_name": "mitre-attack", "external_id": "T1086"}],
    )
    new = stix(
        "attack-pattern",
        name="PowerShell",
        x_mitre_deprecated=True,
        external_references=[{"source_name": "mitre-attack", "external_id": "T1059.001"}],
    )
    by = stix("relationship", relationship_type="revoked-by", source_ref=old["id"], target_ref=new["id"])
    await graph.take(bundle(old, new, by))
    id_, vertex = await graph.finder.find(Named(type="attack-pattern", value="T1086"), Tlp.RED)
    assert vertex.seen.confidence == 0
    assert {one.label for one in await graph.curation.labels([id_], tlp_max=Tlp.RED)} == {"PowerShell", "revoked"}
    assert await neighbours(graph, "attack-pattern:T1059.001") == {("revoked-by", "attack-pattern", "T1086")}


async def test_a_dry_run_keeps_nothing_and_says_what_it_would(graph: Interchange, postgres_pool: PostgresPool) -> None:
    empty = await everything(postgres_pool)
    counts = await graph.take(WHOLE, dry_run=True)
    assert counts.new_count == 6 + 4 + 3  # entities, relations (one of them within a domain), sightings
    assert await everything(postgres_pool) == empty
    assert not await graph.sealed()
    assert (await graph.take(WHOLE)).new_count == counts.new_count
    assert (await graph.take(WHOLE, dry_run=True)).new_count == 0


async def test_the_policy_decides_what_becomes_of_personal_values(postgres_pool: PostgresPool, tmp_path: Path) -> None:
    rules = (PrivacyRule("mask", "email"), PrivacyRule("tokenise", "ipv4"), PrivacyRule("keep"))
    async with interchange(postgres_pool, tmp_path, rules=rules) as graph:
        counts = await graph.take(bundle(MAIL, IP, observable("user-account", user_id="root")))
        assert [one.reason for one in counts.refused] == [
            "email: the privacy policy lets no such value be kept, or no token take its place"
        ]
        _, vertex = await graph.finder.find(Named(type="user-account", value="root"), Tlp.RED)
        assert vertex.value == "root"
        assert {name.data_class for name in await graph.sealed()} == {"ipv4"}
        assert "203.0.113.7" not in await everything(postgres_pool)


async def test_a_stream_that_breaks_keeps_what_came_and_sending_it_again_adds_the_rest(
    graph: Interchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH_OBJECTS", 2)

    async def broken() -> AsyncIterator[bytes]:
        yield bundle(MALWARE, ACTOR, IP, USES)[:-40]
        raise ConnectionResetError

    options = ImportOptions("partner", Defaults(Tlp.AMBER, 70))
    with pytest.raises(ConnectionResetError):
        async for _ in graph.importing.run(CAROL, options, partial(StixImport, mask_text=str), broken()):
            pass
    assert not await neighbours(graph, "malware:Loader")
    counts = await graph.take(bundle(MALWARE, ACTOR, IP, USES))
    assert (counts.new_count, counts.known_count) == (2, 2)  # the address and the relation
    assert ("uses", "threat-actor", "Crime Crew") in await neighbours(graph, "malware:Loader")


async def test_rows_that_could_not_be_applied_come_into_the_graph_later(
    graph: Interchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: object) -> None:
        raise StoreError("postgres", "it is away")

    with monkeypatch.context() as away:
        away.setattr(graph.imports._writer, "apply", fails)
        with pytest.raises(StoreError):
            await graph.take(bundle(MALWARE))
    assert await graph.imports.catch_up() == 1
    assert (await graph.take(bundle(MALWARE))).new_count == 0
    assert (await graph.finder.find(Named(type="malware", value="Loader"), Tlp.RED))[1].value == "Loader"


async def test_imports_are_few_at_a_time_and_an_erasure_waits_for_what_is_protected_and_not_kept(
    graph: Interchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    append = graph.log.append

    async def slow(*arguments: Any, **named: Any) -> int:
        entered.set()
        await go_on.wait()
        return await append(*arguments, **named)

    monkeypatch.setattr(graph.log, "append", slow)
    monkeypatch.setattr(importing, "IMPORTS_MAX", 1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(graph.take(bundle(MAIL)))
        await entered.wait()
        with pytest.raises(OverloadedError):
            await graph.take(bundle(IP))
        barrier = tasks.create_task(graph.importing.sections.barrier())
        await asyncio.sleep(0.05)
        assert not barrier.done()
        go_on.set()
    assert (await graph.take(bundle(MAIL))).new_count == 0
