"""Whatever an entity is, it is given out as an object that `stix2` accepts and that is read as the same entity again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import stix2  # type: ignore[import-untyped]

from heimdall_server.canonical.catalogue import TYPES
from heimdall_server.canonical.named_things import NAMED_TYPES
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_reading import Edge, EdgeKey, Seen, Vertex
from heimdall_server.services.graph.logic.interchange.drafts import Defaults, ThingDraft
from heimdall_server.services.graph.logic.interchange.stix_objects import (
    StixObject,
    entity_object,
    personal_object,
    relation_object,
    sighting_object,
)
from heimdall_server.services.graph.logic.interchange.stix_reader import StixReader
from tests.support.graphs import NOON_NS, make_id
from tests.support.interchange import TIME, stix

SAMPLES = {
    "ipv4": "203.0.113.7",
    "ipv6": "2001:db8::1",
    "domain": "evil.example",
    "url": "https://evil.example/a",
    "mac": "00:00:5e:00:53:01",
    "eui64": "02:00:5e:10:00:00:00:01",
    "asn": "AS64500",
    "cve": "CVE-2021-44228",
    "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "file_path": "/etc/passwd",
    "registry_key": "HKEY_LOCAL_MACHINE\\software\\x",
    "user_agent": "curl/8.0",
    "country": "DE",
    "timestamp": "2026-03-01T10:00:00.000000000Z",
    "ssdeep": "3:abc:def",
    "tlsh": "T1" + "A" * 70,
    **{
        name: "a" * digits
        for name, digits in (
            ("md5", 32),
            ("imphash", 32),
            ("sha1", 40),
            ("sha224", 56),
            ("sha256", 64),
            ("sha384", 96),
            ("sha512", 128),
            ("sha3_256", 64),
        )
    },
}


def vertex(type_: str, value: str, kind: VertexKind = VertexKind.ENTITY, **seen: Any) -> Vertex:
    told = {"first_ns": NOON_NS, "last_ns": NOON_NS + 5, "count": 3, "confidence": 70, "tlp": Tlp.GREEN, **seen}
    return Vertex(make_id(type_ + value), kind, type_, value, Seen(**told))


def again(object_: StixObject) -> tuple[str, str]:
    """What an object is read as."""
    stix2.parse(object_, allow_custom=True)
    (draft,) = [one for one in StixReader(Defaults(Tlp.AMBER, 70)).read(object_, 1) if isinstance(one, ThingDraft)]
    assert draft.saying.tlp is Tlp.GREEN
    return draft.things[0].type, draft.things[0].value


@pytest.mark.parametrize("type_", [*SAMPLES, *sorted(NAMED_TYPES), "x-vendor-thing"])
def test_an_entity_comes_back_as_itself(type_: str) -> None:
    value = SAMPLES.get(type_, "A name")
    read_type, read_value = again(entity_object(vertex(type_, value)))
    if type_ in TYPES:
        read = TYPES[read_type if read_type != "hash" else "hash"].read(read_value)
        assert (read_type, read[0]) == (type_, value)
    else:
        assert (read_type, read_value) == (type_, value)


@pytest.mark.parametrize(
    ("data_class", "value"),
    [
        ("email", "alice@example.com"),
        ("name", "alice lovelace"),
        ("phone", "+4930123456"),
        ("iban", "DE89370400440532013000"),
        ("ipv4", "203.0.113.7"),
    ],
)
def test_a_person_comes_back_as_one_whom_the_policy_knows(data_class: str, value: str) -> None:
    object_ = personal_object(vertex(data_class, "[x:y]"), value)
    (draft,) = [one for one in StixReader(Defaults(Tlp.AMBER, 70)).read(object_, 1) if isinstance(one, ThingDraft)]
    assert draft.things[0].value == value
    assert draft.things[0].hint
    stix2.parse(object_, allow_custom=True)


def test_what_an_object_was_told_as_is_given_out_again_without_pseudonyms() -> None:
    token = "[email:1" + "a" * 26 + "]"
    kept = stix("malware", name="Loader", is_family=True, description=f"write to {token}")
    object_ = entity_object(vertex("malware", "Loader"), json.dumps(kept))
    assert object_["description"] == "write to [email]"
    assert object_["id"] == kept["id"]
    stix2.parse(object_, allow_custom=True)
    about_nothing = stix("report", name="R", published=TIME)
    told = entity_object(vertex("report", about_nothing["id"]), json.dumps(about_nothing))
    assert told["type"] == "x-heimdall-entity"


def test_relations_and_sightings_are_stix_and_follow_from_the_facts() -> None:
    domain, malware = entity_object(vertex("domain", "evil.example")), entity_object(vertex("malware", "Loader"))
    edge = Edge(EdgeKey(EdgeKind.RELATED_TO, make_id("a"), make_id("b"), "uses"), Seen(1, 1, 1, 50, Tlp.GREEN))
    made = relation_object(edge, malware["id"], domain["id"])
    assert made == relation_object(edge, malware["id"], domain["id"])
    seen = vertex("log", "app", VertexKind.SIGHTING, count=2_000_000_000)
    for object_ in (made, sighting_object(seen, domain), sighting_object(seen, malware)):
        stix2.parse(object_, allow_custom=True)
    assert sighting_object(seen, domain)["number_observed"] == 999_999_999
    assert sighting_object(seen, malware)["sighting_of_ref"] == malware["id"]
