"""A bundle laid out as MITRE lays out ATT&CK comes in whole: every type of object that it has, its own properties, what is revoked."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stix2  # type: ignore[import-untyped]

from heimdall_server.domain.graph import Tlp
from heimdall_server.services.graph.logic.interchange.stix_markings import MARKING_IDS
from heimdall_server.services.graph.model import Named
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.integration.test_graph_importing import neighbours
from tests.support.interchange import LATER, TIME, Interchange, below, bundle, emptied, interchange

pytestmark = pytest.mark.usefixtures("postgres_clean")

_NUMBERS = itertools.count(1)
STATEMENT = "marking-definition--00000000-0000-4000-8000-00000000abcd"
MAKER = "identity--00000000-0000-4000-8000-00000000abcd"
TECHNIQUES = 60


def made(type_: str, name: str = "", external_id: str = "", **said: Any) -> dict[str, Any]:
    """An object as ATT&CK has them."""
    object_ = {
        "type": type_,
        "spec_version": "2.1",
        "id": f"{type_}--00000000-0000-4000-8000-{next(_NUMBERS):012d}",
        "created": TIME,
        "modified": LATER,
        "created_by_ref": MAKER,
        "object_marking_refs": [STATEMENT],
        "x_mitre_attack_spec_version": "3.3.0",
        "x_mitre_domains": ["enterprise-attack"],
        "x_mitre_modified_by_ref": MAKER,
        "x_mitre_version": "1.0",
        **({"name": name} if name else {}),
        **said,
    }
    if external_id:
        object_["external_references"] = [
            {"source_name": "mitre-attack", "external_id": external_id, "url": f"https://attack.example/{external_id}"},
            {
                "source_name": "Roe 2020",
                "description": "Roe, J. (2020, July 1). On it.",
                "url": "https://example.com/roe",
            },
        ]
    return object_


def related(relation: str, start: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """A relation, with an example of it as ATT&CK's `uses` has them."""
    return made(
        "relationship",
        relationship_type=relation,
        source_ref=start["id"],
        target_ref=end["id"],
        description=f"[{start['name']}](https://attack.example/x) was seen to do so. (Citation: Roe 2020)",
        external_references=[
            {
                "source_name": "Roe 2020",
                "description": "Roe, J. (2020, July 1). On it.",
                "url": "https://example.com/roe",
            }
        ],
        x_mitre_deprecated=False,
    )


def attack() -> list[dict[str, Any]]:
    """All of it, the marking and its maker behind what names them."""
    tactic = made("x-mitre-tactic", "Execution", "TA0002", x_mitre_shortname="execution")
    matrix = made("x-mitre-matrix", "Enterprise ATT&CK", "enterprise-attack", tactic_refs=[tactic["id"]])
    techniques = [
        made(
            "attack-pattern",
            f"Technique {number}",
            f"T{1000 + number}",
            kill_chain_phases=[{"kill_chain_name": "mitre-attack", "phase_name": "execution"}],
            x_mitre_contributors=["Jane Roe, @jroe, Example Corp"],
            x_mitre_is_subtechnique=False,
            x_mitre_platforms=["Linux"],
        )
        for number in range(TECHNIQUES)
    ]
    below = [
        made("attack-pattern", "Technique 1", f"T{1000 + number}.001", x_mitre_is_subtechnique=True)
        for number in range(TECHNIQUES)
    ]
    old = made("attack-pattern", "Old", "T0999", revoked=True)
    gone = made("course-of-action", "Gone", "M0001", x_mitre_deprecated=True)
    mitigation = made("course-of-action", "Harden it", "M1001")
    group = made("intrusion-set", "G Crew", "G0001", aliases=["G Crew", "Crew of G"])
    campaign = made(
        "campaign",
        "C Storm",
        "C0001",
        aliases=["C Storm"],
        first_seen=TIME,
        last_seen=LATER,
        x_mitre_first_seen_citation="(Citation: Roe 2020)",
    )
    malware = made(
        "malware",
        "M Loader",
        "S0001",
        is_family=True,
        x_mitre_aliases=["M Loader", "Loader of M"],
        x_mitre_platforms=["Windows"],
    )
    tool = made("tool", "T Shell", "S0002", x_mitre_aliases=["T Shell"])
    source = made("x-mitre-data-source", "Process", "DS0009", x_mitre_collection_layers=["Host"])
    component = made("x-mitre-data-component", "Process Creation", "DC0032", x_mitre_data_source_ref=source["id"])
    analytic = made(
        "x-mitre-analytic",
        "Analytic 0001",
        "AN0001",
        x_mitre_log_source_references=[
            {"x_mitre_data_component_ref": component["id"], "name": "auditd:EXECVE", "channel": "exec"}
        ],
        x_mitre_mutable_elements=[{"field": "window", "description": "minutes"}],
    )
    strategy = made("x-mitre-detection-strategy", "Detect it", "DET0001", x_mitre_analytic_refs=[analytic["id"]])
    contents = [{"object_ref": one["id"], "object_modified": LATER} for one in techniques[:3]]
    collection = made("x-mitre-collection", "Enterprise ATT&CK", x_mitre_contents=contents)
    relations = [
        *(related("subtechnique-of", one, above) for one, above in zip(below, techniques, strict=True)),
        *(related("uses", group, one) for one in techniques),
        *(related("uses", malware, one) for one in below),
        related("uses", campaign, tool),
        related("uses", group, malware),
        related("attributed-to", campaign, group),
        related("mitigates", mitigation, techniques[0]),
        related("detects", strategy, techniques[0]),
        related("detects", component, techniques[0]),
        related("revoked-by", old, below[0]),
    ]
    maker = {**made("identity", "The Maker", identity_class="organization", roles=["x"]), "id": MAKER}
    statement = {
        "type": "marking-definition",
        "spec_version": "2.1",
        "id": STATEMENT,
        "created": TIME,
        "created_by_ref": MAKER,
        "definition_type": "statement",
        "definition": {"statement": "Copyright, The Maker"},
        "x_mitre_domains": ["enterprise-attack"],
    }
    things = [collection, matrix, tactic, *techniques, *below, old, gone, mitigation, group, campaign, malware, tool]
    return [*relations, *things, source, component, analytic, strategy, maker, statement]


@pytest.fixture
async def graph(postgres_pool: PostgresPool, tmp_path: Path) -> AsyncIterator[Interchange]:
    async with interchange(postgres_pool, tmp_path) as found:
        yield found


async def test_attack_comes_in_whole(graph: Interchange) -> None:
    objects = attack()
    counts = await graph.take(bundle(*objects), source="mitre-attack", tlp=Tlp.CLEAR)
    assert (counts.refused, counts.notices, counts.context_count) == ([], [], 1)
    assert counts.types == Counter(one["type"] for one in objects)
    within = 3 + 1 + 1 + 1 + 1  # of the collection, the matrix, the component, the analytic, the strategy
    assert counts.new_count == len(objects) - 1 + within
    assert (await graph.take(bundle(*reversed(objects)), source="mitre-attack", tlp=Tlp.CLEAR)).new_count == 0

    assert await neighbours(graph, "attack-pattern:T1000", Tlp.CLEAR) == {
        ("subtechnique-of", "attack-pattern", "T1000.001"),
        ("uses", "intrusion-set", "G Crew"),
        ("mitigates", "course-of-action", "M1001"),
        ("detects", "x-mitre-detection-strategy", "DET0001"),
        ("detects", "x-mitre-data-component", "DC0032"),
        ("refers-to", "x-mitre-collection", "Enterprise ATT&CK"),
    }
    assert await neighbours(graph, "x-mitre-analytic:AN0001") == {
        ("x-mitre-data-component", "x-mitre-data-component", "DC0032"),
        ("x-mitre-analytic", "x-mitre-detection-strategy", "DET0001"),
    }
    # Techniques of one name stay two; the maker joins nothing.
    assert await neighbours(graph, "identity:The Maker") == set()
    old_id, old = await graph.finder.find(Named(type="attack-pattern", value="T0999"), Tlp.RED)
    gone_id, _ = await graph.finder.find(Named(type="course-of-action", value="Gone"), Tlp.RED)
    labels = await graph.curation.labels([old_id, gone_id], tlp_max=Tlp.RED)
    assert {(one.id, one.label) for one in labels} >= {(old_id, "revoked"), (gone_id, "deprecated")}
    assert old.seen.confidence == 0
    for name in ("intrusion-set:Crew of G", "intrusion-set:G0001", "malware:Loader of M", "x-mitre-tactic:Execution"):
        type_, _, value = name.partition(":")
        assert (await graph.finder.find(Named(type=type_, value=value), Tlp.CLEAR))[1].type == type_


async def test_what_relations_of_attack_say_is_given_out_again_and_comes_in_as_it_was(graph: Interchange) -> None:
    objects = attack()
    await graph.take(bundle(*objects), source="mitre-attack", tlp=Tlp.CLEAR)
    for _ in range(2):
        found, told = await graph.give("intrusion-set:G Crew", depth=6, who=below(Tlp.CLEAR))
        stix2.parse(found, allow_custom=True)
        assert told.left_out_count == 0
        given = {one["id"]: one for one in found["objects"]}
        clear = {"object_marking_refs": [MARKING_IDS[Tlp.CLEAR]]}
        wanted = [one for one in objects if one["type"] == "relationship"]
        assert [given[one["id"]] for one in wanted] == [{**one, **clear} for one in wanted]
        # What is said within an object is a relation of the graph, too.
        within = told.relation_count - len(wanted)
        assert within == sum(one["type"] == "relationship" for one in found["objects"]) - len(wanted)
        await emptied(graph)
        counts = await graph.take(bundle(*found["objects"]), source="mitre-attack", tlp=Tlp.CLEAR)
        assert counts.refused == []
