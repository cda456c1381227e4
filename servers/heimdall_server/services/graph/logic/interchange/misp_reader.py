"""Events of MISP's core format → drafts of facts.

    event                        an entity `misp-event`, known by its UUID; its title is a label
    attribute                    the entity that its value is; the event is related to it by the attribute's category
    attributes of a file object  one and the same file; of other objects related to the first of them by the object's name
    references of objects        relations by their relationship_type
    tags of galaxies             the technique, actor, malware that they name, related to what is tagged
    sightings                    sightings, by the source of the import

How far something may go: the strictest of its `tlp:` tags, or else of the event's, or else what the import says; and never further than its
distribution level lets it go. What isn't meant for detection (`to_ids`) is at most as sure as a coin.

Source: MISP core format (draft-dulaunoy-misp-core-format).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from heimdall_server.domain.graph import Tlp
from heimdall_server.services.graph.logic.interchange.drafts import (
    Context,
    Defaults,
    Draft,
    LinkDraft,
    Refusal,
    Saying,
    SightingDraft,
    Thing,
    ThingDraft,
)
from heimdall_server.services.graph.logic.interchange.misp_types import cluster_of, is_text, things_of
from heimdall_server.services.graph.logic.interchange.stix_markings import tlp_label
from heimdall_server.services.graph.logic.interchange.stix_times import NS_MAX

ATTRIBUTES_MAX: Final = 200_000
"""Of one event."""
FALSE_POSITIVE: Final = "false-positive"
_DISTRIBUTION: Final[Mapping[str, Tlp]] = {
    "0": Tlp.AMBER_STRICT,  # this organisation
    "1": Tlp.AMBER,  # this community
    "2": Tlp.AMBER,  # connected communities
    "3": Tlp.CLEAR,  # all
    "4": Tlp.AMBER_STRICT,  # a sharing group, whose members nobody knows here
}
_UNSURE: Final = 50
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_Json = Mapping[str, Any]


class MispImport:
    """Implements `importing.Reader`."""

    method = "misp-import"
    version = "core"
    array = "response"

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults

    def type_of(self, part: _Json) -> str:
        """See `importing.Reader`."""
        return "event" if isinstance(part.get("Event", part), Mapping) else ""

    def read(self, part: _Json, number: int) -> Iterator[Draft]:
        """See `importing.Reader`."""
        event = part.get("Event", part)
        ref = str(event.get("uuid", ""))[:64] if isinstance(event, Mapping) else ""
        try:
            if not isinstance(event, Mapping):
                raise ValueError("it is no event")  # noqa: TRY004 - it is what was sent
            _surrogates(event)
            yield from _Event(event, number, self._defaults).drafts()
        except (ValueError, TypeError, AttributeError) as error:
            reason = (
                str(error) if isinstance(error, ValueError) else "something in it isn't of the kind that it must be"
            )
            yield Refusal(ref, number, f"event: {reason}")

    def finish(self) -> Iterator[Draft]:
        """See `importing.Reader`."""
        return iter(())


class _Event:
    """One event."""

    def __init__(self, event: _Json, number: int, defaults: Defaults) -> None:
        self._event = event
        self._number = number
        self._defaults = defaults
        self._uuid = _uuid(event)
        self._tlp = _marking(event, defaults.tlp)
        self._left = ATTRIBUTES_MAX

    def drafts(self) -> Iterator[Draft]:
        """All that it says."""
        event, saying = self._event, self._saying(self._event, self._tlp)
        thing = Thing("misp-event", self._uuid, opaque=True)
        yield ThingDraft(self._uuid, self._number, (thing,), saying, (str(event.get("info", "")),))
        yield from self._clusters(self._uuid, event, saying, "refers-to")
        for attribute in _each(event, "Attribute"):
            yield from self._attribute(attribute, self._tlp)
        for within in _each(event, "Object"):
            yield from self._object(within)

    def _object(self, within: _Json) -> Iterator[Draft]:
        if within.get("deleted") in (True, "1", 1):
            yield Context(str(within.get("uuid", ""))[:64], self._number)
            return
        name = str(within.get("name", "object"))
        tlp = max(self._tlp, _marking(within, self._tlp))
        things: list[ThingDraft] = []
        rest: list[Draft] = []
        for attribute in _each(within, "Attribute"):
            for draft in self._attribute(attribute, tlp):
                if isinstance(draft, ThingDraft) and not draft.ref.startswith("cluster/"):
                    things.append(draft)
                else:
                    rest.append(draft)
        uuid = _uuid(within)
        if things:
            hashes = [one for one in things if _is_digest(one.things[0])] if name == "file" else []
            if len(hashes) > 1:
                things = [_joined(hashes), *(one for one in things if one not in hashes)]
            main = things[0]
            yield _with_also(main, uuid)
            yield from things[1:]
            for other in things[1:]:
                relation = (
                    "resolves-to" if (main.things[0].type, other.things[0].type) == ("domain", "ip") else _slug(name)
                )
                yield LinkDraft(
                    f"{uuid}/{other.ref}", self._number, relation, main.ref, other.ref, other.saying, within=True
                )
        yield from rest
        for reference in _each(within, "ObjectReference"):
            yield self._reference(uuid, reference, tlp)

    def _reference(self, uuid: str, reference: _Json, tlp: Tlp) -> Draft:
        try:
            target = str(reference["referenced_uuid"])
            relation = _slug(str(reference.get("relationship_type") or "related-to"))
            return LinkDraft(_uuid(reference), self._number, relation, uuid, target, self._saying(reference, tlp))
        except (KeyError, ValueError):
            return Refusal(uuid, self._number, "a reference of an object has a uuid and a referenced_uuid")

    def _attribute(self, attribute: _Json, above: Tlp) -> Iterator[Draft]:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {ATTRIBUTES_MAX} attributes")
        ref = str(attribute.get("uuid", ""))[:64]
        try:
            yield from self._value(attribute, above)
        except ValueError as error:
            yield Refusal(ref, self._number, f"attribute: {error}")
        except (TypeError, AttributeError, KeyError):
            yield Refusal(ref, self._number, "attribute: something in it isn't of the kind that it must be")

    def _value(self, attribute: _Json, above: Tlp) -> Iterator[Draft]:
        uuid, type_ = _uuid(attribute), attribute.get("type")
        if not isinstance(type_, str) or not isinstance(attribute.get("value"), str):
            raise ValueError("it has a type and a value, both texts")  # noqa: TRY004 - it is what was sent
        if attribute.get("deleted") in (True, "1", 1) or is_text(type_):
            yield Context(uuid, self._number)
            return
        things, relation, names = things_of(type_, attribute["value"])
        saying = self._saying(attribute, _marking(attribute, above), is_meant=attribute.get("to_ids") in (True, "1", 1))
        sightings = list(_each(attribute, "Sighting"))
        if any(str(one.get("type")) == "1" for one in sightings):
            names = (*names, FALSE_POSITIVE)
        yield ThingDraft(uuid, self._number, things[:1], saying, names)
        category = _slug(str(attribute.get("category") or "refers-to"))
        yield LinkDraft(f"{uuid}/event", self._number, category, self._uuid, uuid, saying, within=True)
        for index, further in enumerate(things[1:], 1):
            yield ThingDraft(f"{uuid}/{index}", self._number, (further,), saying)
            yield LinkDraft(f"{uuid}/{index}/of", self._number, relation, uuid, f"{uuid}/{index}", saying, within=True)
        yield from self._clusters(uuid, attribute, saying, "indicates")
        for one in sightings:
            if str(one.get("type", "0")) == "0":
                time_ns = _unix_ns(one.get("date_sighting"))
                seen = Saying(saying.tlp, saying.confidence, time_ns, time_ns)
                yield SightingDraft(_uuid(one), self._number, uuid, seen, within=True)

    def _clusters(self, ref: str, tagged: _Json, saying: Saying, relation: str) -> Iterator[Draft]:
        for tag in _tags(tagged):
            found = cluster_of(tag)
            if found is not None:
                thing, names = found
                # The tag is public; that something has it is as far as that may go.
                yield ThingDraft(f"cluster/{tag}", self._number, (thing,), saying, names)
                yield LinkDraft(f"{ref}/{tag}", self._number, relation, ref, f"cluster/{tag}", saying, within=True)

    def _saying(self, said: _Json, tlp: Tlp, *, is_meant: bool = True) -> Saying:
        confidence = self._defaults.confidence if is_meant else min(_UNSURE, self._defaults.confidence)
        stamp = _unix_ns(said.get("timestamp")) or _unix_ns(self._event.get("timestamp"))
        first = _iso_ns(said.get("first_seen")) or _iso_ns(said.get("date")) or stamp
        last = _iso_ns(said.get("last_seen")) or stamp or first
        if first is not None and last is not None and last < first:
            first, last = last, first
        return Saying(tlp, confidence, first, last)


def _marking(said: _Json, inherited: Tlp) -> Tlp:
    """The marking of an event, an object or an attribute.

    Args:
        said: It.
        inherited: Of what it is in, or of the import.
    """
    told = [tlp for tag in _tags(said) if tag.lower().startswith("tlp:") and (tlp := tlp_label(tag)) is not None]
    unclear = any(tag.lower().startswith("tlp:") and tlp_label(tag) is None for tag in _tags(said))
    marking = Tlp.RED if unclear else max(told) if told else inherited
    return max(marking, _DISTRIBUTION.get(str(said.get("distribution", "5")), Tlp.CLEAR))


def _tags(said: _Json) -> list[str]:
    names = [tag.get("name") for tag in _each(said, "Tag")]
    for galaxy in _each(said, "Galaxy"):
        names += [cluster.get("tag_name") for cluster in _each(galaxy, "GalaxyCluster")]
    return [name for name in dict.fromkeys(names) if isinstance(name, str)]


def _each(said: _Json, key: str) -> Sequence[_Json]:
    found = said.get(key) or ()
    if not isinstance(found, list | tuple) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{key} is a list of objects")
    return found


def _uuid(said: _Json) -> str:
    uuid = said.get("uuid")
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        raise ValueError("it has no uuid")
    return uuid.lower()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:128] or "related-to"


def _is_digest(thing: Thing) -> bool:
    return thing.type.startswith(("md5", "sha")) or thing.type in ("ssdeep", "tlsh", "imphash")


def _joined(hashes: Sequence[ThingDraft]) -> ThingDraft:
    """Digests of one file as one object; the longest names it best."""
    things = sorted(
        (one.things[0] for one in hashes),
        key=lambda thing: (thing.type in ("ssdeep", "tlsh", "imphash"), -len(thing.value)),
    )
    main = hashes[0]
    names = tuple(dict.fromkeys(name for one in hashes for name in one.names))
    return ThingDraft(main.ref, main.number, things, main.saying, names, tuple(one.ref for one in hashes[1:]))


def _with_also(draft: ThingDraft, ref: str) -> ThingDraft:
    return ThingDraft(draft.ref, draft.number, draft.things, draft.saying, draft.names, (*draft.also, ref), draft.kept)


def _unix_ns(text: Any) -> int | None:  # noqa: ANN401 - as it was sent
    try:
        ns = int(text) * 10**9
    except (TypeError, ValueError):
        return None
    return ns if 0 < ns < NS_MAX else None


def _iso_ns(text: Any) -> int | None:  # noqa: ANN401 - as it was sent
    try:
        told = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    told = told if told.tzinfo else told.replace(tzinfo=dt.UTC)
    whole = told - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    ns = (whole.days * 86_400 + whole.seconds) * 10**9 + whole.microseconds * 1000
    return ns if 0 < ns < NS_MAX else None


def _surrogates(value: Any) -> None:  # noqa: ANN401 - any JSON
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None
