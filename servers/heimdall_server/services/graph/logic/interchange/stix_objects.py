"""Facts of the graph as objects of STIX 2.1.

    entity with an observable object   that, with the id that the standard derives from its value
    entity told of by an import        the object that it was told of as
    entity known by a name             an object of its type, where the standard asks for no more than that
    any other entity                   `x-heimdall-entity` with its type and value
    relation                           relationship: each that it was told as, or one
    sighting                           observed-data of an observable, sighting of what isn't one: as it was told, and one of what else was counted

Ids that the standard doesn't fix follow from the facts', so the same export twice gives the same objects.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import pyarrow as pa

from heimdall_server.canonical.stix import properties_of, sco_ids
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_imports import KeptObject
from heimdall_server.domain.graph_reading import Edge, Seen, Vertex
from heimdall_server.domain.personal import ENCRYPTED, HASHED, TOKEN
from heimdall_server.services.graph.logic.interchange.stix_markings import MARKING_IDS
from heimdall_server.services.graph.logic.interchange.stix_times import timestamp
from heimdall_server.services.graph.logic.interchange.stix_values import OURS

StixObject: TypeAlias = "dict[str, Any]"
_NAMESPACE: Final = uuid.UUID("5b0e7f5c-3c0e-5f7e-8a9e-0f3f6c2a9d41")
"""Ours: of ids that follow from the graph's."""
_COUNT_MAX: Final = 999_999_999
_OBSERVABLE_NAMES: Final = {"mutex": "name", "file": "name", "user-account": "user_id"}
"""Types of observables that are known by a name, and the property that holds it."""
_ABOUT: Final = frozenset({"report", "grouping", "note", "opinion"})
"""Types that must be about something."""
_BARE: Final[Mapping[str, Mapping[str, Any]]] = {
    "attack-pattern": {},
    "campaign": {},
    "course-of-action": {},
    "identity": {"identity_class": "unknown"},
    "infrastructure": {},
    "intrusion-set": {},
    "malware": {"is_family": True},
    "threat-actor": {},
    "tool": {},
    "vulnerability": {},
}
"""Types that need nothing but a name, and what else they must say."""


def entity_object(vertex: Vertex, kept: str = "") -> StixObject:
    """An entity that isn't personal.

    Args:
        vertex: It.
        kept: The object that it was told of as, JSON; empty: it wasn't.
    """
    if kept:
        told = _told(kept)
        if told["type"] not in _ABOUT or told.get("object_refs"):
            return {**told, **_marked(vertex.seen.tlp)}
    return _valued(vertex, vertex.type, vertex.value)


def personal_object(vertex: Vertex, value: str) -> StixObject:
    """An entity that is personal, in plain: for an export under a grant.

    Args:
        vertex: Its type is the class, its value the token.
        value: Behind the token.
    """
    if vertex.type == "name":
        return _domain_object(vertex, "identity", {"name": value, "identity_class": "individual"})
    return _valued(vertex, vertex.type, value)


def told_relation(kept: KeptObject, edge: Edge, source_ref: str, target_ref: str) -> StixObject:
    """A relation between two objects, as it was told.

    Args:
        kept: As which.
        edge: It, with the marking that it goes out with.
        source_ref: What it begins at, as that is given out.
        target_ref: What it ends at.
    """
    ends = {"source_ref": source_ref, "target_ref": target_ref}
    return {"id": _id("relationship", kept.ref), **_told(kept.text), **ends, **_marked(edge.seen.tlp)}


def told_sighting(kept: KeptObject, sighting: Vertex, of: StixObject) -> StixObject | None:
    """When an object was seen, as it was told; None: what it is given out as can't be seen so.

    Args:
        kept: As which.
        sighting: It, with the marking that it goes out with.
        of: What was seen, as it is given out.
    """
    told = _told(kept.text)
    if (told["type"] == "observed-data") != is_observable(of):
        return None
    seen = {"object_refs": [of["id"]]} if is_observable(of) else {"sighting_of_ref": of["id"]}
    return {"id": _id(told["type"], kept.ref), **told, **seen, **_marked(sighting.seen.tlp)}


def relation_object(edge: Edge, source_ref: str, target_ref: str) -> StixObject:
    """A relation between two objects."""
    times: StixObject = {}
    start, stop = timestamp(edge.seen.first_ns), timestamp(edge.seen.last_ns)
    if stop > start:
        times = {"start_time": start, "stop_time": stop}
    return {
        "type": "relationship",
        "id": _id("relationship", edge.key.id),
        **_common(edge.seen),
        "relationship_type": edge.key.relation,
        "source_ref": source_ref,
        "target_ref": target_ref,
        **times,
    }


def sighting_object(sighting: Vertex, of: StixObject) -> StixObject:
    """When an object was seen, by one source on one day."""
    seen = sighting.seen
    count = min(seen.count, _COUNT_MAX)
    first, last = timestamp(seen.first_ns), timestamp(seen.last_ns)
    if is_observable(of):
        return {
            "type": "observed-data",
            "id": _id("observed-data", sighting.id),
            **_common(seen),
            "first_observed": first,
            "last_observed": last,
            "number_observed": max(1, count),
            "object_refs": [of["id"]],
        }
    return {
        "type": "sighting",
        "id": _id("sighting", sighting.id),
        **_common(seen),
        "first_seen": first,
        "last_seen": last,
        "count": max(0, count),
        "sighting_of_ref": of["id"],
    }


def renamed(object_: StixObject, *facts: bytes) -> StixObject:
    """The same with an id that follows from facts' ids, where another object has its own."""
    return {**object_, "id": _id(object_["type"], b"".join(facts))}


def is_observable(object_: StixObject) -> bool:
    """Whether an object is an observable: these say nothing of who made them and when."""
    return "created" not in object_


def _told(kept: str) -> StixObject:
    # What stands for personal values in its texts would leave a pseudonym with whoever gets it.
    text = HASHED.sub(r"[\1]", ENCRYPTED.sub(r"[\1]", TOKEN.sub(r"[\1]", kept)))
    told: StixObject = json.loads(text)
    return told


def _valued(vertex: Vertex, type_: str, value: str) -> StixObject:
    found = properties_of(type_, value)
    if found is not None:
        return _observable(vertex, found[0], found[1], str(sco_ids(type_, pa.array([value]))[0]))
    if type_ in _OBSERVABLE_NAMES:
        return _observable(vertex, type_, {_OBSERVABLE_NAMES[type_]: value}, _id(type_, vertex.id))
    if type_ == "cve":
        reference = {"source_name": "cve", "external_id": value}
        return _domain_object(vertex, "vulnerability", {"name": value, "external_references": [reference]})
    if type_ == "country":
        return _domain_object(vertex, "location", {"country": value})
    if type_ in _BARE:
        return _domain_object(vertex, type_, {"name": value, **_BARE[type_]})
    return _observable(vertex, OURS, {"entity_type": type_, "value": value}, _id(OURS, vertex.id))


def _observable(vertex: Vertex, type_: str, said: Mapping[str, Any], id_: str) -> StixObject:
    return {"type": type_, "spec_version": "2.1", "id": id_, **said, **_marked(vertex.seen.tlp)}


def _domain_object(vertex: Vertex, type_: str, said: Mapping[str, Any]) -> StixObject:
    return {"type": type_, "id": _id(type_, vertex.id), **_common(vertex.seen), **said}


def _common(seen: Seen) -> StixObject:
    return {
        "spec_version": "2.1",
        "created": timestamp(seen.first_ns),
        "modified": timestamp(seen.last_ns),
        "confidence": seen.confidence,
        **_marked(seen.tlp),
    }


def _marked(tlp: Tlp) -> StixObject:
    return {"object_marking_refs": [MARKING_IDS[tlp]]}


def _id(type_: str, id_: bytes) -> str:
    return f"{type_}--{uuid.uuid5(_NAMESPACE, id_.hex())}"
