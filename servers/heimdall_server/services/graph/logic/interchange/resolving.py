"""Drafts → rows of the log: which entities are meant, under the privacy policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from heimdall_server.canonical.catalogue import TYPES, personal_form
from heimdall_server.canonical.column import Refused
from heimdall_server.canonical.identity import PERSONAL_TYPES, entity_ids, personal_entity_ids
from heimdall_server.canonical.named_things import is_named_type, read_name
from heimdall_server.domain import graph_ids
from heimdall_server.domain.graph import ID_BYTES, Tlp
from heimdall_server.domain.graph_imports import (
    ImportedEntity,
    ImportedFacts,
    ImportedRelation,
    ImportedSighting,
    ImportLabel,
    ImportRow,
    Told,
)
from heimdall_server.domain.personal import TOKEN, TokenName
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.services.graph.logic.interchange.drafts import (
    THINGS_MAX,
    LinkDraft,
    Refusal,
    Saying,
    SightingDraft,
    Thing,
    ThingDraft,
    label_of,
)
from heimdall_server.services.graph.logic.interchange.protecting import (
    TEXT,
    distinct,
    protect_all,
    texts_of,
    with_texts,
)
from heimdall_server.services.graph.logic.interchange.references import without_refs

SAME_AS: Final = "same-as"
DAY_NS: Final = 86_400 * 10**9
_DIGEST: Final = b"heimdall import digest v1\0"
_REF: Final = b"heimdall import ref v1\0"


@dataclass(frozen=True, slots=True)
class Who:
    """Who says all of an import."""

    instance: str
    source: str
    method: str
    method_version: str
    actor: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rows of some objects, and what must be durable before them."""

    rows: Sequence[ImportRow]
    entities: Mapping[str, ImportedEntity]
    """What is meant by the sender's ids."""
    refused: Sequence[Refusal]
    protected: Protected | None


@dataclass(frozen=True, slots=True)
class _Meant:
    """An entity that a thing is, or why it is none."""

    type: str = ""
    value: str = ""
    id: bytes = b""
    reason: str = ""


class Resolver:
    """See the module. `things` may run in any thread."""

    def __init__(
        self, protector: Protector, mac: Callable[[bytes], bytes], classes: frozenset[str], who: Who, ceiling: Tlp
    ) -> None:
        """Take what decides.

        Args:
            protector: By the policy in force.
            mac: Under the identity key.
            classes: Of personal data.
            who: Says it.
            ceiling: How strict a marking may be: nobody brings in what they couldn't see then.
        """
        self._protector = protector
        self._mac = mac
        self._classes = classes
        self._who = who
        self._ceiling = ceiling

    def ref(self, ref: str) -> bytes:
        """A sender's id as it is kept."""
        return self._mac(_REF + ref.encode())[:ID_BYTES]

    def things(self, drafts: Sequence[ThingDraft], now_ns: int) -> Resolved:
        """Objects that are entities."""
        refused: list[Refusal] = []
        allowed = [draft for draft in drafts if not self._is_refused(draft, refused)]
        plain = {thing: self._plain(thing) for draft in allowed for thing in draft.things}
        wanted = [(thing, read) for thing, read in plain.items() if not isinstance(read, Refused) and not thing.opaque]
        entries = [(thing.hint or TEXT, value) for thing, (_, value) in wanted]
        texts = distinct(text for draft in allowed for text in (*draft.names, *texts_of(draft.kept or {})))
        kept, protected = protect_all(self._protector, self._who.source, [*entries, *texts], now_ns)
        treated = {thing: text for (thing, _), text in zip(wanted, kept[: len(wanted)], strict=True)}
        spoken = {text: treated_text for (_, text), treated_text in zip(texts, kept[len(wanted) :], strict=True)}
        meant = self._identified(plain, treated)
        rows: list[ImportRow] = []
        entities: dict[str, ImportedEntity] = {}
        for draft in allowed:
            row = self._thing(draft, meant, spoken, now_ns, refused)
            if row is not None:
                rows.append(row)
                entities.update(dict.fromkeys((draft.ref, *draft.also), row.facts.entities[0]))
        return Resolved(rows, entities, refused, protected)

    def link(self, draft: LinkDraft, entities: Mapping[str, ImportedEntity], now_ns: int) -> ImportRow | Refusal:
        """An object that is a relation."""
        relation = draft.relation.strip()
        if not 0 < len(relation) <= 128 or not relation.isascii() or not relation.isprintable():
            return Refusal(draft.ref, draft.number, "a relation has a type of 1 to 128 printable ASCII characters")
        ends = [entities.get(ref) for ref in (draft.source_ref, draft.target_ref)]
        for ref, end in zip((draft.source_ref, draft.target_ref), ends, strict=True):
            if end is None:
                return Refusal(draft.ref, draft.number, f"it refers to {ref}, which is neither in the import nor known")
        start, end = (one.restated for one in ends if one is not None)
        told = _told(draft.saying, now_ns, start, end)
        if told.tlp > self._ceiling:
            return self._above(draft.ref, draft.number, told.tlp)
        if start.id == end.id:
            return Refusal(draft.ref, draft.number, "both of its ends are the same thing")
        said = [draft.ref, start.id.hex(), end.id.hex(), relation, *_objects_of(draft)]
        facts = self._facts([start, end], [ImportedRelation(0, 1, relation, told)])
        return ImportRow(self._digest("relation", said, draft.saying), self.ref(draft.ref), facts, told.tlp)

    def sighting(
        self, draft: SightingDraft, entities: Mapping[str, ImportedEntity], before: int, now_ns: int
    ) -> ImportRow | Refusal:
        """An object that is a sighting.

        Args:
            draft: It.
            entities: What is meant by ids.
            before: What earlier versions of it counted.
            now_ns: The time.
        """
        entity = entities.get(draft.of_ref)
        if entity is None:
            reason = f"it refers to {draft.of_ref}, which is neither in the import nor known"
            return Refusal(draft.ref, draft.number, reason)
        told = _told(draft.saying, now_ns, entity)
        if told.tlp > self._ceiling:
            return self._above(draft.ref, draft.number, told.tlp)
        counted = max(0, draft.saying.count - before)
        seen = ImportedSighting(0, told.last_ns // DAY_NS, replace(told, count=counted))
        facts = self._facts([entity.restated], (), [seen])
        digest = self._digest("sighting", [draft.ref, entity.id.hex(), *_objects_of(draft)], draft.saying)
        return ImportRow(digest, self.ref(draft.ref), facts, told.tlp, counted=counted)

    def with_objects(
        self, rows: Sequence[tuple[ImportRow, Mapping[str, Any]]], entities: Mapping[str, ImportedEntity], now_ns: int
    ) -> tuple[list[ImportRow], Protected | None]:
        """Relations and sightings with the objects that they were told of as, and what must be durable before them.

        Args:
            rows: Each with its object, empty where it has none of its own.
            entities: What is meant by ids.
            now_ns: The time.
        """
        objects = [_without_people(object_, row.facts, entities) for row, object_ in rows]
        texts = distinct(text for object_ in objects for text in texts_of(object_))
        treated, protected = protect_all(self._protector, self._who.source, texts, now_ns)
        spoken = {text: kept for (_, text), kept in zip(texts, treated, strict=True)}
        told = [
            replace(row, kept=_kept(object_, spoken)) if object_ else row
            for (row, _), object_ in zip(rows, objects, strict=True)
        ]
        return told, protected

    def _thing(
        self,
        draft: ThingDraft,
        meant: Mapping[Thing, _Meant],
        spoken: Mapping[str, str | None],
        now_ns: int,
        refused: list[Refusal],
    ) -> ImportRow | None:
        told = _told(draft.saying, now_ns)
        found: dict[bytes, ImportedEntity] = {}
        for thing in draft.things:
            one = meant[thing]
            if one.reason:
                refused.append(Refusal(draft.ref, draft.number, f"{thing.type}: {one.reason}"))
            else:
                found.setdefault(one.id, ImportedEntity(one.id, one.type, one.value, told))
        if not found:
            return None
        entities = list(found.values())
        same = [ImportedRelation(0, index, SAME_AS, told) for index in range(1, len(entities))]
        main = entities[0]
        is_personal = TokenName.parse(main.value) is not None and main.value.startswith("[")
        names = [] if is_personal else [label for name in draft.names if (label := label_of(spoken.get(name) or ""))]
        labels = [ImportLabel(main.id, name, draft.saying.tlp) for name in dict.fromkeys(names) if name != main.value]
        kept = "" if draft.kept is None else _kept(draft.kept, spoken)
        said: list[Any] = [draft.ref, [one.id.hex() for one in entities], list(draft.names), draft.kept]
        digest = self._digest("thing", said, draft.saying)
        facts = self._facts(entities, same)
        return ImportRow(digest, self.ref(draft.ref), facts, told.tlp, main.id, labels=labels, kept=kept)

    def _plain(self, thing: Thing) -> tuple[str, str] | Refused:
        """Type and canonical value of what isn't personal; of the rest type, or class, and the value as it came."""
        if thing.opaque:
            value = self._mac(_REF + thing.value.encode())[:ID_BYTES].hex() if thing.keyed else thing.value
            return (
                (thing.type, value)
                if is_named_type(thing.type)
                else Refused(f"there is no type {thing.type!r} of entities")
            )
        known = TYPES.get(thing.type)
        if known is not None:
            read = known.read(thing.value)
            if isinstance(read, Refused):
                return read
            if thing.type == "ip":
                return ("ipv6" if ":" in read.value else "ipv4", read.value)
            if thing.type == "hash":
                algorithm, _, digits = read.value.partition(":")
                return (algorithm, digits)
            return (thing.type, read.value)
        if is_named_type(thing.type):
            name = read_name(thing.value)
            return name if isinstance(name, Refused) else (thing.type, name.value)
        if thing.type in self._classes:
            return (thing.type, thing.value) if thing.value.strip() else Refused("it is empty")
        return Refused(f"there is no type {thing.type!r} of entities")

    def _identified(
        self, plain: Mapping[Thing, tuple[str, str] | Refused], treated: Mapping[Thing, str | None]
    ) -> dict[Thing, _Meant]:
        found: dict[Thing, _Meant] = {}
        named: dict[tuple[str, bool], list[tuple[Thing, str, str]]] = {}
        for thing, read in plain.items():
            if isinstance(read, Refused):
                found[thing] = _Meant(reason=read.reason)
                continue
            type_, value = read
            kept = value if thing.opaque else treated[thing]
            token = TokenName.parse(kept) if kept is not None and kept.startswith("[") and kept != value else None
            if token is not None:
                named.setdefault((token.data_class, True), []).append((thing, value, str(token)))
            elif kept == value and type_ not in PERSONAL_TYPES and (type_ in TYPES or is_named_type(type_)):
                named.setdefault((type_, False), []).append((thing, value, value))
            else:
                found[thing] = _Meant(
                    reason="the privacy policy lets no such value be kept, or no token take its place"
                )
        for (type_, is_personal), some in named.items():
            values = pa.array([value for _, value, _ in some], pa.string())
            if is_personal:
                identities = personal_entity_ids(type_, personal_form(type_, values), self._mac)
            else:
                identities = entity_ids(type_, values)
            for (thing, _, kept), id_ in zip(some, graph_ids.entity_ids(identities).to_pylist(), strict=True):
                found[thing] = _Meant(type_, kept, id_)
        return found

    def _is_refused(self, draft: ThingDraft, refused: list[Refusal]) -> bool:
        if len(draft.things) > THINGS_MAX:
            refused.append(Refusal(draft.ref, draft.number, f"it has more than {THINGS_MAX} values"))
            return True
        if draft.saying.tlp <= self._ceiling:
            return False
        refused.append(self._above(draft.ref, draft.number, draft.saying.tlp))
        return True

    def _above(self, ref: str, number: int, tlp: Tlp) -> Refusal:
        return Refusal(ref, number, f"it is marked {tlp.label}, and you may see no more than {self._ceiling.label}")

    def _digest(self, kind: str, said: Sequence[Any], saying: Saying) -> bytes:
        how = [saying.tlp.value, saying.confidence, saying.first_ns, saying.last_ns, saying.count]
        message = json.dumps([kind, self._who.source, self._who.method, *said, how], sort_keys=True)
        return self._mac(_DIGEST + message.encode())[:ID_BYTES]

    def _facts(
        self,
        entities: Sequence[ImportedEntity],
        relations: Sequence[ImportedRelation],
        sightings: Sequence[ImportedSighting] = (),
    ) -> ImportedFacts:
        who = self._who
        return ImportedFacts(
            who.instance, who.source, who.method, who.method_version, who.actor, entities, relations, sightings
        )


def _kept(object_: Mapping[str, Any], spoken: Mapping[str, str | None]) -> str:
    return json.dumps(with_texts(object_, spoken), ensure_ascii=False, sort_keys=True)


def _objects_of(draft: LinkDraft | SightingDraft) -> list[str]:
    return [draft.kept.decode()] if draft.kept else []


def _without_people(
    object_: Mapping[str, Any], facts: ImportedFacts, entities: Mapping[str, ImportedEntity]
) -> Mapping[str, Any]:
    """Without ids that may be hashes of what is personal: its own, where it speaks of somebody, and those of persons."""

    def is_person(value: object) -> bool:
        entity = entities.get(value) if isinstance(value, str) else None
        return entity is not None and TOKEN.fullmatch(entity.value) is not None

    kept: Mapping[str, Any] = without_refs(object_, is_person)
    return {key: value for key, value in kept.items() if key != "id" or not facts.people}


def _told(saying: Saying, now_ns: int, *about: ImportedEntity) -> Told:
    """What is said of things may go no further than these."""
    first = saying.first_ns if saying.first_ns is not None else saying.last_ns if saying.last_ns is not None else now_ns
    last = saying.last_ns if saying.last_ns is not None else first
    tlp = max([saying.tlp, *(one.told.tlp for one in about)])
    return Told(min(first, last), max(first, last), saying.count, saying.confidence, tlp)
