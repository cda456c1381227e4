"""What other programs told us: facts of the graph that no record of ours holds, as they are kept.

An import is truth of its own, like what people decide. It is kept as a log of rows, one for each object, relation or sighting that was told; the
facts in the graph are made of the log and can be made again. Personal values are tokens here, as everywhere; who they are is in the entity's id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heimdall_server.domain.graph import EdgeKind, Tlp
from heimdall_server.domain.graph_ids import edge_id, sighting_id
from heimdall_server.domain.personal import TOKEN

STREAM: Final = "imports"
"""Of the origins that the log's rows have in the graph."""
SIGHTING_TYPE: Final = "feed"
"""Of sightings that somebody else told us of."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Told:
    """When, how often and how surely something is said to be, and how far that may go."""

    first_ns: int
    last_ns: int
    count: int
    confidence: int
    tlp: Tlp


@dataclass(frozen=True, slots=True)
class ImportedEntity:
    """An entity that somebody told us of."""

    id: bytes
    type: str
    value: str = field(repr=False)
    """Canonical; the token of a personal value; the name of what is known by a name."""
    told: Told

    @property
    def restated(self) -> ImportedEntity:
        """The same, where it is named only because something else is said of it."""
        told = self.told
        return ImportedEntity(
            self.id, self.type, self.value, Told(told.first_ns, told.last_ns, 0, told.confidence, told.tlp)
        )


@dataclass(frozen=True, slots=True)
class ImportedRelation:
    """An edge between entities of the same row."""

    start: int
    """Index of the row's entities."""
    end: int
    relation: str
    told: Told


@dataclass(frozen=True, slots=True)
class ImportedSighting:
    """An entity as the source saw it, on one day."""

    entity: int
    """Index of the row's entities."""
    day: int
    """Days since 1970."""
    told: Told


@dataclass(frozen=True, slots=True)
class ImportedFacts:
    """The facts of a row, and who says so."""

    instance: str
    source: str
    method: str
    method_version: str
    actor: str
    entities: Sequence[ImportedEntity]
    relations: Sequence[ImportedRelation] = ()
    sightings: Sequence[ImportedSighting] = ()

    @property
    def people(self) -> list[tuple[str, bytes]]:
        """Token and id of each entity that is personal: what an erasure finds the row by."""
        return sorted({(one.value, one.id) for one in self.entities if TOKEN.fullmatch(one.value)})

    def sighting_id(self, seen: ImportedSighting) -> bytes:
        """Id of the vertex that one of the sightings adds to; in a domain of its own, since a source of logs may have the same name."""
        return sighting_id(self.entities[seen.entity].id, f"{SIGHTING_TYPE}:{self.source}", seen.day)

    def to_json(self) -> str:
        """As it is kept."""
        said: dict[str, Any] = {
            "version": _VERSION,
            "who": [self.instance, self.source, self.method, self.method_version, self.actor],
            "entities": [[one.id.hex(), one.type, one.value, *_told(one.told)] for one in self.entities],
            "relations": [[one.start, one.end, one.relation, *_told(one.told)] for one in self.relations],
            "sightings": [[one.entity, one.day, *_told(one.told)] for one in self.sightings],
        }
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ImportedFacts:
        """Read what `to_json` wrote.

        Raises:
            ValueError: A newer program wrote it.
        """
        said = json.loads(text)
        if said["version"] != _VERSION:
            raise ValueError(f"an imported row of version {said['version']}; this program knows {_VERSION}")
        instance, source, method, method_version, actor = said["who"]
        return cls(
            instance,
            source,
            method,
            method_version,
            actor,
            [
                ImportedEntity(bytes.fromhex(id_), type_, value, _read(told))
                for id_, type_, value, *told in said["entities"]
            ],
            [ImportedRelation(start, end, name, _read(told)) for start, end, name, *told in said["relations"]],
            [ImportedSighting(entity, day, _read(told)) for entity, day, *told in said["sightings"]],
        )


@dataclass(frozen=True, slots=True)
class ImportLabel:
    """A further name of an entity, put on it as a label."""

    id: bytes
    label: str
    tlp: Tlp


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A row of the log."""

    digest: bytes
    """Of what is said, keyed, 16 bytes: who says the same again adds nothing."""
    ref: bytes
    """The sender's id of it, keyed, 16 bytes: ids of STIX may be hashes of personal values."""
    facts: ImportedFacts
    tlp: Tlp
    """Of the object as a whole."""
    entity: bytes = b""
    """The entity that the object is; empty: it is a relation or a sighting."""
    counted: int = 0
    """What a sighting adds to what earlier versions of it counted."""
    labels: Sequence[ImportLabel] = ()
    kept: str = field(default="", repr=False)
    """The object as it can be given out again, JSON, protected; empty: all of it is in the facts."""

    @property
    def fact(self) -> bytes:
        """Id of the relation or the sighting that the row is; empty: it is an entity."""
        facts = self.facts
        if self.entity:
            return b""
        if facts.relations:
            one = facts.relations[0]
            ends = facts.entities[one.start].id, facts.entities[one.end].id
            return edge_id(EdgeKind.RELATED_TO, *ends, one.relation)
        return facts.sighting_id(facts.sightings[0]) if facts.sightings else b""


@dataclass(frozen=True, slots=True)
class KeptObject:
    """An object that a relation or a sighting was told of as: its newest version that somebody may see."""

    ref: bytes
    """The sender's id of it, keyed, 16 bytes."""
    number: int
    """Of the row: the newer, the greater."""
    text: str = field(repr=False)
    """JSON, protected, without the ends or what was seen."""
    tlp: Tlp
    counted: int
    """What all versions of it have added to the sighting."""


def _told(told: Told) -> list[int]:
    return [told.first_ns, told.last_ns, told.count, told.confidence, int(told.tlp)]


def _read(numbers: Sequence[int]) -> Told:
    first_ns, last_ns, count, confidence, tlp = numbers
    return Told(first_ns, last_ns, count, confidence, Tlp(tlp))
