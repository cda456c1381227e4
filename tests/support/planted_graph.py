"""Plants values through what people and other tools tell the graph, and asks it for them: notes, labels, STIX, MISP, Cypher."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from tests.support.frames_out import OWN_WORDS
from tests.support.interchange import bundle, observable, stix
from tests.support.planted import SHORT_KINDS, Planted, Value

ABOUT: Final = "domain:planted.example"
"""What is written about."""
_PART: Final = "domain:www.planted.example"
_MISP_TYPES: Final = {"email-src": "email", "iban": "iban", "cc-number": "card", "phone-number": "phone"}
_VALID_FROM: Final = "2026-03-01T10:00:00Z"


@dataclass
class GraphDoors:
    """All that people tell the graph and ask of it. What a type's name alone tells is planted bare only where the type is told."""

    client: Client
    planted: Planted
    heard: list[tuple[str, list[bytes]]] = field(default_factory=list)

    def feed(self) -> None:
        """Imports first: what is written about must be there."""
        for name, data in (("stix", self._stix()), ("misp", self._misp())):
            self._import(name, data)
            self._import(name, self._broken(name))
        for place, tell in self._told().items():
            kinds = () if place in ("note", "reason of a label") else SHORT_KINDS
            self._each(place, tell, kinds)
        for place, ask in self._asked().items():
            self._each(place, ask, SHORT_KINDS)

    def _import(self, name: Any, data: bytes) -> None:
        def act(value: Value) -> object:
            return self.client.import_facts(data, "planted", format=name, reason=value.text)

        self._each(f"import of {name}", act, SHORT_KINDS[:1])

    def _stix(self) -> bytes:
        domains = [observable("domain-name", value=one.partition(":")[2]) for one in (ABOUT, _PART)]
        about, part = (one["id"] for one in domains)
        return bundle(*domains, *self._stix_texts(about), *self._stix_facts(about, part), *self._stix_names())

    def _stix_facts(self, about: str, part: str) -> list[Mapping[str, Any]]:
        """Values of every kind in what relations and sightings say."""
        sighted = stix("campaign", name="Of late")
        observed = {"first_observed": _VALID_FROM, "last_observed": _VALID_FROM, "number_observed": 1}

        def said(place: str) -> Sequence[Mapping[str, Any]]:
            texts = [value.text for value in self.planted.take_all(f"stix: {place}")]
            return [{"external_references": [{"source_name": one, "description": one}], "x_note": one} for one in texts]

        ends = {"relationship_type": "related-to", "source_ref": part, "target_ref": about}
        return [
            sighted,
            *(stix("relationship", **ends, description=one["x_note"], **one) for one in said("relation")),
            *(
                stix("sighting", sighting_of_ref=sighted["id"], description=one["x_note"], **one)
                for one in said("sighting")
            ),
            *(stix("observed-data", object_refs=[about], **observed, **one) for one in said("observed")),
        ]

    def _stix_texts(self, about: str) -> list[Mapping[str, Any]]:
        """Values of every kind, in sentences."""

        def take(place: str) -> Sequence[str]:
            return [value.text for value in self.planted.take_all(f"stix: {place}")]

        return [
            *(stix("malware", name=text, is_family=False) for text in take("name")),
            *(stix("identity", name="Somebody", description=text) for text in take("description")),
            *(stix("note", content=text, abstract=text, object_refs=[about]) for text in take("note")),
            *(stix("campaign", name="Of old", x_note=text, labels=[text]) for text in take("label")),
        ]

    def _stix_names(self) -> list[Mapping[str, Any]]:
        """Values alone, where something is named."""

        def take(place: str, kinds: Sequence[str] = SHORT_KINDS) -> Sequence[str]:
            return [value.bare for value in self.planted.take_all(f"stix: {place}", kinds)]

        pattern: dict[str, Any] = {"pattern_type": "stix", "valid_from": _VALID_FROM}
        return [
            *(
                stix("indicator", name=bare, pattern=f"[email-addr:value = '{bare}']", **pattern)
                for bare in take("pattern")
            ),
            *(
                stix("tool", name="Of a reference", external_references=[{"source_name": bare, "external_id": bare}])
                for bare in take("reference")
            ),
            *(
                observable("file", name=bare, hashes={"SHA-256": hashed(number)})
                for number, bare in enumerate(take("file"))
            ),
            *(observable("url", value=f"https://example.org/?who={bare}") for bare in take("url")),
            *(observable("user-account", user_id=bare, display_name=bare) for bare in take("account")),
            *(observable("email-addr", value=bare, display_name=bare) for bare in take("mail", ("email",))),
            *({"type": bare, "id": bare, "name": bare} for bare in take("refused")),
        ]

    def _misp(self) -> bytes:
        def take(place: str, kinds: Sequence[str] = ()) -> Sequence[Value]:
            return self.planted.take_all(f"misp: {place}", kinds)

        attributes: list[dict[str, Any]] = [
            *({"type": "comment", "value": one.text, "comment": one.text} for one in take("comment")),
            *({"type": name, "value": one.bare} for name, kind in _MISP_TYPES.items() for one in take(name, (kind,))),
            *({"type": "ip-dst", "value": one.bare} for one in take("wrong type", SHORT_KINDS)),
            *({"type": "text", "value": "x", "Tag": [{"name": f"who:{one.bare}"}]} for one in take("tag", SHORT_KINDS)),
        ]
        for attribute in attributes:
            attribute |= {"uuid": str(uuid.uuid4()), "category": "Other"}
        events = [_event(one.text, []) for one in take("info")]
        return json.dumps({"response": [{"Event": one} for one in (_event("of much", attributes), *events)]}).encode()

    def _broken(self, name: str) -> bytes:
        texts = [value.text for value in self.planted.take_all(f"{name}: broken")]
        return json.dumps({"objects": texts, "response": 7})[:-3].encode()

    def _told(self) -> Mapping[str, Callable[[Value], object]]:
        client = self.client
        return {
            "label": lambda value: client.add_label(ABOUT, value.bare),
            "reason of a label": lambda value: client.add_label(ABOUT, "planted", reason=value.text),
            "note": lambda value: client.add_note(ABOUT, value.text),
            "merge": lambda value: client.merge_entities(_PART, ABOUT, reason=value.text),
            "split": lambda value: client.split_entity(_PART, reason=value.text),
        }

    def _asked(self) -> Mapping[str, Callable[[Value], object]]:
        client = self.client
        return {
            "vertex": lambda value: client.vertex(f"{value.data_class}:{value.bare}"),
            "another type": lambda value: client.vertex(f"domain:{value.bare}"),
            "dump": lambda value: client.vertex(f"dump:{value.bare}"),
            "walk": lambda value: client.neighbourhood(f"{value.data_class}:{value.bare}"),
            "paths": lambda value: client.paths(f"{value.data_class}:{value.bare}", ABOUT),
            "sightings": lambda value: client.sightings(f"{value.data_class}:{value.bare}"),
            "hunt": lambda value: client.start_hunt(value.bare),
            "export": lambda value: client.export_stix_bundle(ABOUT, reveal_personal=True, reason=value.text),
            "cypher": lambda value: client.cypher(f"MATCH (e:Entity {{value: '{value.bare}'}}) RETURN e"),
            "cypher wrongly": lambda value: client.cypher(f"MATCH (e:`{value.bare}` RETURN '{value.bare}'"),
        }

    def _each(self, place: str, act: Callable[[Value], object], kinds: Sequence[str]) -> None:
        for value in self.planted.take_all(f"graph: {place}", kinds):
            try:
                self.heard.append((f"{OWN_WORDS} {place}", [repr(act(value)).encode()]))
            except (HeimdallError, ValueError) as error:
                self.heard.append((f"a refusal of {place}", [(repr(error) + str(error)).encode()]))


def hashed(number: int) -> str:
    """A SHA-256 digest of its own for each number."""
    return f"{number:064x}"


def _event(info: str, attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "info": info,
        "date": "2026-03-01",
        "timestamp": "1772359200",
        "distribution": "3",
        "Attribute": attributes,
    }
