"""What objects of STIX and attributes of MISP are read as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import TYPES
from heimdall_server.canonical.column import Refused
from heimdall_server.canonical.named_things import is_named_type, read_name
from heimdall_server.domain.graph import Tlp
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.texts import masked_text
from heimdall_server.services.graph.logic.interchange import misp_types, stix_values
from heimdall_server.services.graph.logic.interchange.drafts import (
    Context,
    Defaults,
    Draft,
    LinkDraft,
    Refusal,
    SightingDraft,
    ThingDraft,
    label_of,
)
from heimdall_server.services.graph.logic.interchange.misp_reader import MispImport
from heimdall_server.services.graph.logic.interchange.protecting import texts_of, with_texts
from heimdall_server.services.graph.logic.interchange.stix_import import StixImport
from heimdall_server.services.graph.logic.interchange.stix_markings import (
    MARKING_IDS,
    Markings,
    definition_of,
    tlp_label,
)
from heimdall_server.services.graph.logic.interchange.stix_reader import StixReader
from heimdall_server.services.graph.logic.interchange.stix_times import NS_MAX, shortened, time_ns, timestamp
from tests.support.interchange import TIME, observable, stix

DEFAULTS = Defaults(Tlp.AMBER, 70)


def read(object_: Mapping[str, Any]) -> list[Draft]:
    return list(StixReader(DEFAULTS).read(object_, 1))


def named(object_: Mapping[str, Any]) -> tuple[str, str]:
    """Type and value of what an object is."""
    (draft,) = [one for one in read(object_) if isinstance(one, ThingDraft)]
    return draft.things[0].type, draft.things[0].value


@pytest.mark.parametrize(
    ("object_", "expected"),
    [
        (observable("ipv4-addr", value="203.0.113.7"), ("ipv4", "203.0.113.7")),
        (observable("autonomous-system", number=64500, name="Example"), ("asn", "AS64500")),
        (observable("file", hashes={"MD5": "d" * 32, "SHA-256": "e" * 64, "SSDEEP": "3:a:b"}), ("sha256", "e" * 64)),
        (observable("file", name="invoice.exe"), ("file", "invoice.exe")),
        (observable("directory", path="/tmp"), ("file_path", "/tmp")),  # noqa: S108 - a value
        (observable("mutex", name="Global\\x"), ("mutex", "Global\\x")),
        (observable("user-account", user_id="1001", account_login="alice"), ("user-account", "alice")),
        (observable("software", name="Word", version="2019"), ("software", "Word 2019")),
        (observable("x509-certificate", hashes={"SHA-1": "a" * 40}), ("sha1", "a" * 40)),
        (observable("windows-registry-key", key="HKLM\\Software\\X"), ("registry_key", "HKLM\\Software\\X")),
        (observable("x-heimdall-entity", entity_type="cve", value="CVE-2021-44228"), ("cve", "CVE-2021-44228")),
        (observable("x-vendor-thing", value="y"), ("x-vendor-thing", "y")),
        (stix("malware", name="Loader", is_family=True), ("malware", "Loader")),
        (stix("vulnerability", name="CVE-2021-44228"), ("cve", "CVE-2021-44228")),
        (
            stix(
                "vulnerability",
                name="Log4Shell",
                external_references=[{"source_name": "cve", "external_id": "CVE-2021-44228"}],
            ),
            ("cve", "CVE-2021-44228"),
        ),
        (stix("indicator", pattern="[a:b = 'c']", pattern_type="stix", valid_from=TIME), ("indicator", "[a:b = 'c']")),
        (stix("location", country="DE"), ("country", "DE")),
        (stix("location", name="Berlin", country="DE"), ("location", "Berlin")),
        (
            stix(
                "attack-pattern",
                name="Phishing",
                external_references=[{"source_name": "mitre-attack", "external_id": "T1566"}],
            ),
            ("attack-pattern", "T1566"),
        ),
        (
            stix(
                "x-mitre-tactic",
                name="Impact",
                external_references=[{"source_name": "mitre-attack", "external_id": "TA0040"}],
            ),
            ("x-mitre-tactic", "TA0040"),
        ),
        (stix("identity", name="Alice Lovelace", identity_class="individual"), ("identity", "Alice Lovelace")),
    ],
)
def test_objects_are_named_by_what_names_them_best(object_: dict[str, Any], expected: tuple[str, str]) -> None:
    assert named(object_) == expected


def test_titles_of_reports_are_no_names_but_find_them() -> None:
    report = stix(
        "report", name="On the crew", published=TIME, object_refs=["malware--00000000-0000-4000-8000-000000000001"]
    )
    thing, link = read(report)
    assert isinstance(thing, ThingDraft)
    assert (thing.things[0].value, thing.names) == (report["id"], ["On the crew"])
    assert isinstance(link, LinkDraft)
    assert (link.relation, link.target_ref, link.within) == ("refers-to", report["object_refs"][0], True)


def test_references_are_relations_but_for_who_made_an_object_and_how_it_is_marked() -> None:
    maker = "identity--00000000-0000-4000-8000-000000000001"
    domain = observable(
        "domain-name", value="evil.example", resolves_to_refs=["ipv4-addr--00000000-0000-4000-8000-000000000002"]
    )
    address = observable(
        "ipv4-addr", value="203.0.113.7", belongs_to_refs=["autonomous-system--00000000-0000-4000-8000-000000000003"]
    )
    strategy = stix(
        "x-mitre-detection-strategy",
        name="D",
        created_by_ref=maker,
        x_mitre_modified_by_ref=maker,
        object_marking_refs=[MARKING_IDS[Tlp.GREEN]],
        x_mitre_analytic_refs=["x-mitre-analytic--00000000-0000-4000-8000-000000000004"],
        x_mitre_log_source_references=[
            {"x_mitre_data_component_ref": "x-mitre-data-component--00000000-0000-4000-8000-000000000005"}
        ],
    )
    relations = [
        [one.relation for one in read(object_) if isinstance(one, LinkDraft)] for object_ in (domain, address, strategy)
    ]
    assert relations == [["resolves-to"], ["belongs-to-asn"], ["x-mitre-analytic", "x-mitre-data-component"]]


def test_what_is_kept_of_an_object_names_no_observable() -> None:
    mail, malware = "email-addr--00000000-0000-5000-8000-000000000001", "malware--00000000-0000-4000-8000-000000000002"
    report = stix(
        "report",
        name="R",
        published=TIME,
        object_refs=[mail, malware],
        sample_ref=mail,
        deep={"x_refs": [mail], "y_ref": mail},
    )
    (draft, *_) = read(report)
    assert isinstance(draft, ThingDraft)
    assert draft.kept is not None
    assert mail not in str(draft.kept)
    assert draft.kept["object_refs"] == [malware]
    assert draft.kept["deep"] == {}


def test_observed_data_of_stix_2_0_holds_its_objects_within() -> None:
    seen = stix(
        "observed-data",
        first_observed=TIME,
        last_observed=TIME,
        number_observed=2,
        objects={"0": {"type": "ipv4-addr", "value": "203.0.113.7"}},
    )
    thing, sighting = read(seen)
    assert isinstance(thing, ThingDraft)
    assert isinstance(sighting, SightingDraft)
    assert (thing.ref, sighting.saying.count) == (sighting.of_ref, 2)


def test_markings_are_read_as_strictly_as_they_may_be_meant() -> None:
    markings = Markings()
    statement = {"id": "marking-definition--00000000-0000-4000-8000-000000000001", "definition_type": "statement"}
    odd = {
        "id": "marking-definition--00000000-0000-4000-8000-000000000002",
        "definition_type": "x-acme",
        "definition": {},
    }
    old = {
        "id": "marking-definition--00000000-0000-4000-8000-000000000003",
        "definition_type": "tlp",
        "definition": {"tlp": "white"},
    }
    assert [markings.learn(one) for one in (statement, odd, old)] == [True, False, True]
    for refs, expected in (
        ([], Tlp.AMBER),
        ([statement["id"]], Tlp.AMBER),
        ([odd["id"]], Tlp.RED),
        ([old["id"]], Tlp.CLEAR),
        ([old["id"], MARKING_IDS[Tlp.AMBER_STRICT]], Tlp.AMBER_STRICT),
        (["marking-definition--00000000-0000-4000-8000-000000000009"], Tlp.RED),
    ):
        assert markings.of({"object_marking_refs": refs}, unmarked=Tlp.AMBER) is expected
    granular = {
        "object_marking_refs": [old["id"]],
        "granular_markings": [{"marking_ref": MARKING_IDS[Tlp.GREEN], "selectors": ["name"]}],
    }
    assert markings.of(granular, unmarked=Tlp.AMBER) is Tlp.GREEN
    for tlp in Tlp:
        assert Markings().of({"object_marking_refs": [definition_of(tlp)["id"]]}, unmarked=Tlp.AMBER) is tlp
        assert tlp_label(f"TLP:{tlp.label.upper()}") is tlp
    assert tlp_label("tlp:white") is Tlp.CLEAR
    assert tlp_label("tlp:ex:chr") is None


@given(st.integers(0, NS_MAX - 1))
def test_timestamps_come_back(ns: int) -> None:
    assert time_ns(timestamp(ns)) == ns // 1000 * 1000
    assert time_ns(shortened("2026-03-01T10:00:00.123456789Z")) == time_ns("2026-03-01T10:00:00.123456Z")


@pytest.mark.parametrize(
    "text", ["", "2026-03-01", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", None, 7]
)
def test_what_is_no_time_of_ours_is_none(text: object) -> None:
    assert time_ns(text) is None


def test_hints_say_to_the_policy_what_they_are_meant_to_and_nothing_else() -> None:
    for type_, hint in stix_values.HINTS.items():
        expected = type_ if type_ in CLASSES and not type_.startswith("ip") else ""
        assert class_of_name(hint) == expected, type_
    for type_ in {*misp_types._SIMPLE.values(), *misp_types._RENAMED.values(), *TYPES} - set(CLASSES):
        assert class_of_name(stix_values.HINTS.get(type_, type_)) in ("", "phone", "card", "iban"), type_


def test_every_type_of_misp_is_a_type_of_ours() -> None:
    ours = {*misp_types._SIMPLE.values(), *misp_types._RENAMED.values(), *misp_types._CLUSTERS.values()}
    assert {one for one in ours if one not in TYPES and one not in CLASSES and not is_named_type(one)} == set()


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ('misp-galaxy:mitre-attack-pattern="Phishing - T1566"', ("attack-pattern", "T1566", ("Phishing",))),
        ('misp-galaxy:mitre-malware="Emotet - S0367"', ("malware", "Emotet", ("S0367",))),
        ('misp-galaxy:threat-actor="APT28"', ("threat-actor", "APT28", ())),
        ('misp-galaxy:sector="Energy"', ("x-misp-sector", "Energy", ())),
        ("tlp:green", None),
    ],
)
def test_tags_of_galaxies_name_what_they_speak_of(tag: str, expected: tuple[str, str, tuple[str, ...]] | None) -> None:
    found = misp_types.cluster_of(tag)
    assert (None if found is None else (found[0].type, found[0].value, tuple(found[1]))) == expected


def event(*attributes: dict[str, Any], **said: Any) -> dict[str, Any]:
    numbered = [
        {"uuid": f"00000000-0000-4000-8000-{number:012d}", "category": "Other", **one}
        for number, one in enumerate(attributes, 2)
    ]
    return {"Event": {"uuid": "00000000-0000-4000-8000-000000000001", "info": "E", "Attribute": numbered, **said}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Tlp.AMBER),
        ({"distribution": "0"}, Tlp.AMBER_STRICT),
        ({"distribution": "3", "Tag": [{"name": "tlp:clear"}]}, Tlp.CLEAR),
        ({"distribution": "1", "Tag": [{"name": "tlp:white"}]}, Tlp.AMBER),
        ({"distribution": "3", "Tag": [{"name": "tlp:green"}, {"name": "tlp:red"}]}, Tlp.RED),
        ({"distribution": "3", "Tag": [{"name": "tlp:unclear"}]}, Tlp.RED),
    ],
)
def test_events_go_as_far_as_tag_and_distribution_both_let_them(said: dict[str, Any], expected: Tlp) -> None:
    (first, *_) = MispImport(DEFAULTS).read(event(**said), 1)
    assert isinstance(first, ThingDraft)
    assert first.saying.tlp is expected


def test_attributes_that_are_texts_are_passed_over_and_odd_ones_refused() -> None:
    drafts = list(
        MispImport(DEFAULTS).read(
            event(
                {"type": "comment", "value": "x"},
                {"type": "no-such-type", "value": "x"},
                {"type": "md5", "value": 7},
                {"type": "domain|ip", "value": "evil.example"},
                {"type": "md5", "value": "d" * 32, "deleted": True},
                {"type": "filename|sha256", "value": "a|b.exe|" + "e" * 64},
            ),
            1,
        )
    )
    assert sum(isinstance(one, Context) for one in drafts) == 2
    assert sum(isinstance(one, Refusal) for one in drafts) == 3
    last = [one for one in drafts if isinstance(one, ThingDraft)][-1]
    assert (last.things[0].type, last.names) == ("sha256", ("a|b.exe",))


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"Event": []},
        {"Event": {"uuid": "x"}},
        {"Event": {"uuid": "00000000-0000-4000-8000-000000000001", "Attribute": 7}},
        {"Event": {"info": "\ud800"}},
    ],
)
def test_what_is_no_event_is_refused_once(part: dict[str, Any]) -> None:
    drafts = list(MispImport(DEFAULTS).read(part, 3))
    assert [type(one) for one in drafts if not isinstance(one, ThingDraft)] == [Refusal]


@given(st.text())
def test_names_are_stable_and_labels_are_short_lines(text: str) -> None:
    read_ = read_name(text)
    if not isinstance(read_, Refused):
        assert read_name(read_.value) == (read_.value, read_.changes.NONE, 1.0)
    label = label_of(text)
    assert len(label.encode()) <= 128
    assert label.isprintable()


def test_texts_of_an_object_are_replaced_everywhere_and_nothing_else_is() -> None:
    object_ = {
        "type": "report",
        "id": "report--1",
        "name": "secret",
        "list": ["secret", "other"],
        "secret": {"x": 1},
        "a_ref": "secret",
        "gone": "gone",
    }
    texts = set(texts_of(object_))
    assert {"secret", "other", "gone"} <= texts
    assert "report--1" not in texts
    assert with_texts(object_, {"secret": "[masked]", "gone": None}) == {
        "type": "report",
        "id": "report--1",
        "name": "[masked]",
        "list": ["[masked]", "other"],
        "[masked]": {"x": 1},
        "a_ref": "secret",
    }


KEYS = (
    "name",
    "aliases",
    "external_references",
    "object_refs",
    "objects",
    "hashes",
    "value",
    "key",
    "number",
    "count",
    "confidence",
    "revoked",
    "object_marking_refs",
    "granular_markings",
    "created",
    "modified",
    "first_seen",
    "number_observed",
    "sighting_of_ref",
    "source_ref",
    "target_ref",
    "relationship_type",
    "pattern",
    "identity_class",
    "country",
    "extensions",
    "definition",
    "entity_type",
    "x_refs",
    "x_ref",
)
TYPES_TOLD = (
    "malware",
    "indicator",
    "file",
    "ipv4-addr",
    "observed-data",
    "sighting",
    "relationship",
    "marking-definition",
    "x-thing",
    "identity",
    "x-heimdall-entity",
    "location",
    "report",
    "user-account",
)
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**10)
    | st.text(max_size=8)
    | st.sampled_from(["malware--00000000-0000-4000-8000-000000000001", TIME, "individual"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(type_=st.sampled_from(TYPES_TOLD), said=st.dictionaries(st.sampled_from(KEYS), ODD, max_size=6))
def test_whatever_is_sent_as_stix_is_read_or_refused(type_: str, said: dict[str, Any]) -> None:
    reader = StixImport(DEFAULTS, masked_text)
    object_ = {"type": type_, "spec_version": "2.1", "id": f"{type_}--00000000-0000-4000-8000-000000000001", **said}
    drafts = [*reader.read(object_, 1), *reader.finish()]
    assert drafts


@given(
    st.dictionaries(
        st.sampled_from(
            ["info", "date", "timestamp", "distribution", "Tag", "Attribute", "Object", "Galaxy", "first_seen"]
        ),
        ODD
        | st.lists(
            st.dictionaries(
                st.sampled_from(
                    [
                        "uuid",
                        "type",
                        "value",
                        "name",
                        "Tag",
                        "Sighting",
                        "Attribute",
                        "ObjectReference",
                        "to_ids",
                        "first_seen",
                        "timestamp",
                    ]
                ),
                ODD | st.sampled_from(["ip-src", "00000000-0000-4000-8000-000000000002"]),
                max_size=5,
            ),
            max_size=3,
        ),
        max_size=6,
    )
)
def test_whatever_is_sent_as_an_event_is_read_or_refused(said: dict[str, Any]) -> None:
    part = {"Event": {"uuid": "00000000-0000-4000-8000-000000000001", **said}}
    assert list(MispImport(DEFAULTS).read(part, 1))
