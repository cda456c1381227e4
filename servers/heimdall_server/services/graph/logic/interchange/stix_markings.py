"""Markings of STIX and the Traffic Light Protocol: 1.0, as STIX has it built in, and 2.0, by OASIS' extension of it.

Sources: STIX 2.1 §7.2.1.4; "TLP 2.0 STIX marking definitions", OASIS CTI TC, extension-definition--60a3c5c5-….
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from heimdall_server.domain.graph import Tlp

EXTENSION: Final = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d"
MARKING_IDS: Final[Mapping[Tlp, str]] = {
    Tlp.CLEAR: "marking-definition--94868c89-83c2-464b-929b-a1a8aa3c8487",
    Tlp.GREEN: "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb",
    Tlp.AMBER: "marking-definition--55d920b0-5e8b-4f79-9ee9-91f868d9b421",
    Tlp.AMBER_STRICT: "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003",
    Tlp.RED: "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1",
}
"""Of TLP 2.0."""
_TLP_1: Final[Mapping[str, Tlp]] = {
    "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9": Tlp.CLEAR,
    "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da": Tlp.GREEN,
    "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82": Tlp.AMBER,
    "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed": Tlp.RED,
}
_STATEMENTS: Final = frozenset({"marking-definition--fa42a846-8d90-4e51-bc29-71d5b4802168"})
"""Well-known markings that restrict nothing: MITRE's statement of copyright, which stands anywhere in its bundles."""
_LABELS: Final[Mapping[str, Tlp]] = {tlp.label: tlp for tlp in Tlp} | {"white": Tlp.CLEAR}
_CREATED: Final = "2022-10-01T00:00:00.000Z"


def tlp_label(text: str) -> Tlp | None:
    """A label of TLP 1.0 or 2.0, with or without `TLP:` before it."""
    return _LABELS.get(text.strip().lower().removeprefix("tlp:").replace(" ", ""))


def definition_of(tlp: Tlp) -> dict[str, Any]:
    """The marking definition of TLP 2.0, word for word as OASIS publishes it."""
    return {
        "type": "marking-definition",
        "spec_version": "2.1",
        "id": MARKING_IDS[tlp],
        "created": _CREATED,
        "name": f"TLP:{tlp.label.upper()}",
        "extensions": {EXTENSION: {"extension_type": "property-extension", "tlp_2_0": tlp.label}},
    }


class Markings:
    """What markings mean, as far as it was told. `None` stands for one that restricts nothing."""

    def __init__(self) -> None:
        self._meaning: dict[str, Tlp | None] = {id_: tlp for tlp, id_ in MARKING_IDS.items()}
        self._meaning.update(_TLP_1)
        self._meaning.update(dict.fromkeys(_STATEMENTS))

    def learn(self, definition: Mapping[str, Any]) -> bool:
        """Take in a marking definition; False: it is of a kind that isn't understood, so it counts as red."""
        id_ = str(definition.get("id"))
        if id_ in self._meaning:
            return True
        said = definition.get("definition")
        extension = (definition.get("extensions") or {}).get(EXTENSION) or {}
        label = extension.get("tlp_2_0") or (said.get("tlp") if isinstance(said, Mapping) else None)
        if isinstance(label, str) and (tlp := tlp_label(label)) is not None:
            self._meaning[id_] = tlp
        elif definition.get("definition_type") == "statement":
            self._meaning[id_] = None
        else:
            self._meaning[id_] = Tlp.RED
            return False
        return True

    def unknown(self, object_: Mapping[str, Any]) -> list[str]:
        """Markings of an object that weren't told of."""
        return [ref for ref in marking_refs(object_) if ref not in self._meaning]

    def of(self, object_: Mapping[str, Any], *, unmarked: Tlp) -> Tlp:
        """The marking of an object: the strictest of its own and of those of its parts; one that nobody knows is red.

        Args:
            object_: Any.
            unmarked: Of an object that has none, or none that restricts anything.
        """
        found = [self._meaning.get(ref, Tlp.RED) for ref in marking_refs(object_)]
        told = [tlp for tlp in found if tlp is not None]
        return max(told) if told else unmarked


def marking_refs(object_: Mapping[str, Any]) -> list[str]:
    """Markings of an object and of its parts (§7.2.3), each once."""
    refs = list(object_.get("object_marking_refs") or ())
    refs += [part["marking_ref"] for part in object_.get("granular_markings") or () if "marking_ref" in part]
    return list(dict.fromkeys(map(str, refs)))
