"""Objects of a STIX 2.1 bundle → drafts of facts, one object after the other.

    observables               values of our types; several hashes of a file are one and the same
    the other objects         what is known by a name or by the id of a catalogue (T1059, M1036, CVE-…); further names are labels
    relationship              a relation by its relationship_type
    references within objects a relation by the property's name: `object_refs` → `refers-to`, `x_mitre_tactic_refs` → `x-mitre-tactic`
    sighting, observed-data   sightings, by the source of the import
    markings                  the strictest of an object's; see `stix_markings.py`

Who made an object (`created_by_ref`) is no relation: it would join everything that one vendor tells with everything else. It stays in the
object as it is kept. What was revoked is as unsure as can be, and says so by a label. Patterns are kept as they are and never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from heimdall_server.canonical.named_things import NAME_CHARACTERS_MAX
from heimdall_server.domain.graph import Tlp
from heimdall_server.services.graph.logic.interchange.drafts import (
    NAMES_MAX,
    Context,
    Defaults,
    Draft,
    LinkDraft,
    Notice,
    Refusal,
    Saying,
    SightingDraft,
    Thing,
    ThingDraft,
)
from heimdall_server.services.graph.logic.interchange.references import is_ref, refs_within, without_refs
from heimdall_server.services.graph.logic.interchange.stix_markings import Markings
from heimdall_server.services.graph.logic.interchange.stix_times import time_ns
from heimdall_server.services.graph.logic.interchange.stix_values import (
    ACCOUNT_HINT,
    OBSERVABLE_TYPES,
    OURS,
    things_of,
)

REVOKED, DEPRECATED = "revoked", "deprecated"
CONTEXT_TYPES: Final = frozenset({"marking-definition", "extension-definition", "language-content", "bundle"})
SIGHTED_MAX: Final = 10_000
"""Objects of one observed-data."""
_CATALOGUED: Final = frozenset({"attack-pattern", "course-of-action"})
_CATALOGUES: Final = ("mitre-", "capec")
_BY_ID: Final = frozenset({"report", "grouping", "note", "opinion", "malware-analysis", "incident"})
"""Titles of these are no names: two of them may have the same."""
_MAKERS: Final = ("created_by_ref", "x_mitre_modified_by_ref", "object_marking_refs", "granular_markings")
_FACTS: Final[Mapping[str, Sequence[str]]] = {
    "relationship": ("source_ref", "target_ref"),
    "sighting": ("sighting_of_ref",),
    "observed-data": ("object_refs", "objects"),
}
"""Types of what is no entity, and the properties that the fact says."""
_RELATIONS: Final = {
    "object": "refers-to",
    "resolves-to": "resolves-to",
    "belongs-to": "belongs-to",
    "src": "source",
    "dst": "destination",
}
_FIRST: Final = ("first_observed", "first_seen", "start_time", "valid_from", "published", "created")
_LAST: Final = ("last_observed", "last_seen", "stop_time", "modified", "published", "created")


class StixReader:
    """Reads objects in the order in which they come. For one thread at a time."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._markings = Markings()
        self._odd_markings: set[str] = set()
        self._unknown: set[str] = set()

    def waits(self, object_: Mapping[str, Any]) -> bool:
        """Whether a marking of an object may still be told of: it is read once all have come."""
        return bool(self._markings.unknown(object_))

    def learn(self, definition: Mapping[str, Any]) -> None:
        """Take in a marking definition."""
        if not self._markings.learn(definition):
            self._odd_markings.add(str(definition.get("id")))

    def read(self, object_: Mapping[str, Any], number: int) -> Iterator[Draft]:
        """What an object says. It has passed `stix_check`.

        Args:
            object_: As it came.
            number: Which of the import, from 1.
        """
        ref, type_ = str(object_["id"]), str(object_["type"])
        if type_ in CONTEXT_TYPES:
            yield Context(ref, number)
            return
        for marking in [one for one in self._markings.unknown(object_) if one not in self._unknown]:
            self._unknown.add(marking)
            yield Notice(f"{marking} isn't in the bundle: what it marks is taken for red")
        saying = self._saying(object_)
        try:
            yield from self._drafts(object_, ref, type_, number, saying)
        except ValueError as error:
            yield Refusal(ref, number, f"{type_}: {error}")
        except (KeyError, TypeError, AttributeError) as error:
            yield Refusal(
                ref, number, f"{type_}: a property isn't there or isn't what it must be ({type(error).__name__})"
            )

    def notices(self) -> list[str]:
        """Markings that were told of and not understood."""
        return [f"{one} is no marking of TLP: what it marks is taken for red" for one in sorted(self._odd_markings)]

    def _drafts(self, object_: Mapping[str, Any], ref: str, type_: str, number: int, saying: Saying) -> Iterator[Draft]:
        if type_ == "relationship":
            relation = str(object_["relationship_type"])
            kept = _waiting(_kept(object_, *_FACTS[type_]))
            yield LinkDraft(ref, number, relation, object_["source_ref"], object_["target_ref"], saying, kept=kept)
        elif type_ == "sighting":
            counted = _counted(saying, object_.get("count", 1))
            kept = _waiting(_kept(object_, *_FACTS[type_]))
            yield SightingDraft(ref, number, object_["sighting_of_ref"], counted, kept=kept)
        elif type_ == "observed-data":
            yield from self._observed(object_, ref, number, _counted(saying, object_["number_observed"]))
        elif type_ in OBSERVABLE_TYPES or (type_ == OURS) or "created" not in object_:
            yield ThingDraft(ref, number, things_of(object_), saying, _observable_names(object_))
        else:
            thing, names = _named(object_, type_, ref)
            yield ThingDraft(
                ref, number, (thing,), saying, names, kept=None if thing.hint == ACCOUNT_HINT else _kept(object_)
            )
        yield from _references(object_, ref, type_, number, saying)

    def _observed(self, object_: Mapping[str, Any], ref: str, number: int, saying: Saying) -> Iterator[Draft]:
        targets = list(object_.get("object_refs") or ())
        for key, within in (object_.get("objects") or {}).items():  # as in STIX 2.0
            if not isinstance(within, Mapping) or not isinstance(within.get("type"), str):
                raise ValueError("objects: each has a type")  # noqa: TRY004 - it is what was sent
            told = {"id": f"{ref}/{key}", **within}
            targets.append(told["id"])
            things = things_of(told)
            yield ThingDraft(told["id"], number, things, saying, _observable_names(told))
        if not targets:
            raise ValueError("observed-data needs object_refs or objects")
        if len(targets) > SIGHTED_MAX:
            raise ValueError(f"observed-data of more than {SIGHTED_MAX} objects")
        # One of several objects becomes one for each, which can't all have its id.
        kept = _waiting(_kept(object_, *_FACTS["observed-data"], *(["id"] if len(targets) > 1 else ())))
        for target in targets:
            yield SightingDraft(f"{ref}/{target}", number, target, saying, within=True, kept=kept)

    def _saying(self, object_: Mapping[str, Any]) -> Saying:
        tlp: Tlp = self._markings.of(object_, unmarked=self._defaults.tlp)
        confidence = self._defaults.confidence
        if isinstance(object_.get("confidence"), int):
            confidence = min(100, max(0, object_["confidence"]))
        if object_.get("revoked") is True:
            confidence = 0
        first = next((ns for key in _FIRST if (ns := time_ns(object_.get(key))) is not None), None)
        last = next((ns for key in _LAST if (ns := time_ns(object_.get(key))) is not None), None)
        if first is not None and last is not None and last < first:
            first, last = last, first
        return Saying(tlp, confidence, first, last)


def _counted(saying: Saying, count: Any) -> Saying:  # noqa: ANN401 - as it was sent
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 10**9:
        raise ValueError("a count is an integer from 0 to 999,999,999")
    return Saying(saying.tlp, saying.confidence, saying.first_ns, saying.last_ns, count)


def _named(object_: Mapping[str, Any], type_: str, ref: str) -> tuple[Thing, list[str]]:
    """What an object is known by, and its further names."""
    name = str(object_.get("name") or "")
    names = [name, *map(str, object_.get("aliases") or ()), *map(str, object_.get("x_mitre_aliases") or ())]
    ids = [
        str(one["external_id"])
        for one in object_.get("external_references") or ()
        if isinstance(one, Mapping)
        and isinstance(one.get("external_id"), str)
        and str(one.get("source_name", "")).lower().startswith((*_CATALOGUES, "cve"))
    ]
    states = [
        label for key, label in (("revoked", REVOKED), ("x_mitre_deprecated", DEPRECATED)) if object_.get(key) is True
    ]
    thing = Thing(type_, ref, opaque=True)
    if type_ == "indicator":
        pattern = str(object_["pattern"])
        if len(pattern) <= NAME_CHARACTERS_MAX:
            thing = Thing(type_, pattern)
    elif type_ == "vulnerability":
        cve = next((one for one in (name, *ids) if one.upper().startswith("CVE-")), "")
        thing = Thing("cve", cve, "cve") if cve else Thing(type_, name) if name else thing
    elif type_ == "identity" and object_.get("identity_class") == "individual":
        return Thing(type_, name, ACCOUNT_HINT), []
    elif type_ == "location":
        thing = _location(object_, name) or thing
    elif (type_ in _CATALOGUED or type_.startswith("x-mitre-")) and ids:
        thing = Thing(type_, ids[0])
    elif name and type_ not in _BY_ID:
        thing = Thing(type_, name)
    further = dict.fromkeys(one for one in (*states, *names, *ids) if one and one != thing.value)
    return thing, list(further)[:NAMES_MAX]


def _location(object_: Mapping[str, Any], name: str) -> Thing | None:
    if name:
        return Thing("location", name)
    exact = [
        key for key in ("city", "street_address", "administrative_area", "latitude") if object_.get(key) is not None
    ]
    if object_.get("country") and not exact:
        return Thing("country", str(object_["country"]), "country")
    return Thing("location", str(object_["region"])) if object_.get("region") and not exact else None


def _observable_names(object_: Mapping[str, Any]) -> list[str]:
    """A file's name beside its hashes, an autonomous system's name."""
    name = object_.get("name")
    named_by = "hashes" if object_["type"] == "file" else "number"
    return [name] if isinstance(name, str) and name and object_.get(named_by) else []


def _references(object_: Mapping[str, Any], ref: str, type_: str, number: int, saying: Saying) -> Iterator[Draft]:
    if type_ in _FACTS:
        return  # what is related or sighted is no vertex, so neither are its references edges
    for key, target in refs_within(object_, _MAKERS):
        name = key.removesuffix("_refs").removesuffix("_ref").replace("_", "-").lower()
        relation = _RELATIONS.get(name, name)
        if relation == "belongs-to" and target.startswith("autonomous-system--"):
            relation = "belongs-to-asn"
        if target != ref:
            yield LinkDraft(f"{ref}/{key}/{target}", number, relation, ref, target, saying, within=True)


def _kept(object_: Mapping[str, Any], *but: str) -> dict[str, Any]:
    """The object without ids that may be hashes of personal values, and without what markings say, which is the fact's TLP.

    Args:
        object_: As it came.
        but: Further properties to leave out: what the fact says.
    """
    dropped = {"object_marking_refs", "granular_markings", *but}
    kept: dict[str, Any] = without_refs(
        {key: value for key, value in object_.items() if key not in dropped}, _is_observable
    )
    return kept


def _waiting(kept: Mapping[str, Any]) -> bytes:
    """An object that waits until all have come: a fraction of what it takes as a mapping."""
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _is_observable(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, str) and value.partition("--")[0] in OBSERVABLE_TYPES and is_ref(value)
