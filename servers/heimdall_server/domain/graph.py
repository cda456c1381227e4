"""The graph's vocabulary: what its vertices and edges are, who says so, and the columns in which facts come in.

    Dump ──HAS_FIELD──► Field ──HAS_VALUE──► FieldValue ──OF_ENTITY──► Entity ◄──OF_ENTITY── Sighting ──OBSERVED_IN──► Dump, Field
                                                                      Entity ──RELATED_TO, ENRICHED_BY──► Entity

A fact is a vertex or an edge. Its id follows from what it is (`graph_ids.py`), so whoever sees the same thing names it alike. Who says so
is its provenance; several provenances of one fact stand side by side. Facts of this kind are *observed*: a projection makes
them, and they can be dropped and made again. What people decide (`graph_authored.py`) isn't among them.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

ID_BYTES: Final = 16
VALUE_BYTES_MAX: Final = 32 * 1024
"""Of a vertex's value; what is longer is cut by whoever makes the fact, or refused."""
NAME_LENGTH_MAX: Final = 128
"""Characters of a type, of a relation."""
HOURS: Final = 24


class VertexKind(enum.StrEnum):
    """What a vertex is."""

    DUMP = "Dump"
    FIELD = "Field"
    FIELD_VALUE = "FieldValue"
    SIGHTING = "Sighting"
    ENTITY = "Entity"


class EdgeKind(enum.StrEnum):
    """What an edge says."""

    HAS_FIELD = "HAS_FIELD"
    HAS_VALUE = "HAS_VALUE"
    OBSERVED_IN = "OBSERVED_IN"
    OF_ENTITY = "OF_ENTITY"
    RELATED_TO = "RELATED_TO"
    """Typed by its relation: `resolves-to`, `belongs-to-asn`, `same-as`, `member-of`, …"""
    ENRICHED_BY = "ENRICHED_BY"
    """What a provider added; typed by its relation, too."""


VERTEX_KINDS: Final = tuple(VertexKind)
EDGE_KINDS: Final = tuple(EdgeKind)
ENDS: Final[Mapping[EdgeKind, frozenset[tuple[VertexKind, VertexKind]]]] = {
    EdgeKind.HAS_FIELD: frozenset({(VertexKind.DUMP, VertexKind.FIELD)}),
    EdgeKind.HAS_VALUE: frozenset({(VertexKind.FIELD, VertexKind.FIELD_VALUE)}),
    EdgeKind.OBSERVED_IN: frozenset({(VertexKind.SIGHTING, VertexKind.DUMP), (VertexKind.SIGHTING, VertexKind.FIELD)}),
    EdgeKind.OF_ENTITY: frozenset(
        {(VertexKind.FIELD_VALUE, VertexKind.ENTITY), (VertexKind.SIGHTING, VertexKind.ENTITY)}
    ),
    EdgeKind.RELATED_TO: frozenset({(VertexKind.ENTITY, VertexKind.ENTITY)}),
    EdgeKind.ENRICHED_BY: frozenset({(VertexKind.ENTITY, VertexKind.ENTITY)}),
}
"""Which kinds an edge may join: (start, end)."""


class Tlp(enum.IntEnum):
    """Traffic Light Protocol 2.0, in the order of how far something may go; more is stricter."""

    CLEAR = 0
    GREEN = 1
    AMBER = 2
    AMBER_STRICT = 3
    RED = 4

    @property
    def label(self) -> str:
        """As it is written: `amber+strict`."""
        return self.name.lower().replace("_", "+")

    @classmethod
    def of(cls, label: str, *, unlabelled: Tlp) -> Tlp:
        """Read a label.

        Args:
            label: `clear`, `green`, `amber`, `amber+strict`, `red`; empty: none was given.
            unlabelled: What none means.

        Raises:
            ValueError: It is none of them.
        """
        if not label:
            return unlabelled
        found = _LABELS.get(label)
        if found is None:
            raise ValueError(f"{label!r} is no TLP label; it is one of {', '.join(_LABELS)}")
        return found


_LABELS: Final = {tlp.label: tlp for tlp in Tlp}
_TEXT_MAX: Final = 2048
"""Of a provenance; the URI of an identity may have as many."""
UNLABELLED: Final = Tlp.AMBER
"""What records without a marking count as."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who says so and how: what the facts of a batch have in common. Equal ones are one provenance."""

    instance: str
    """Which Heimdall took it in."""
    source: str
    """Which source of records, feed or provider."""
    method: str
    """What made the fact of it: `csv-column`, `log-observable`, `stix-import`, …"""
    method_version: str = ""
    dump: str = ""
    """The dump's name; empty: not from a dump. Places of its facts are record numbers then, and journal positions elsewhere."""
    actor: str = ""
    """Who brought it in: the URI of an identity; empty: none was proved."""
    confidence: int = 50
    """0 to 100."""
    tlp: Tlp = Tlp.AMBER

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 100:
            raise ValueError("confidence: from 0 to 100")
        texts = (self.instance, self.source, self.method, self.method_version, self.dump, self.actor)
        if any(len(text) > _TEXT_MAX or "\0" in text for text in texts):
            raise ValueError(f"provenance: texts of at most {_TEXT_MAX} characters without NUL")

    @property
    def digest(self) -> bytes:
        """What it is known by, 16 bytes."""
        texts = (self.instance, self.source, self.method, self.method_version, self.dump, self.actor)
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        numbers = bytes((self.confidence, int(self.tlp)))
        return hashlib.blake2b(framed + numbers, digest_size=16, person=b"heimdall prov v1").digest()


def _fact_fields() -> list[pa.Field]:
    return [
        pa.field("provenance", pa.uint16(), nullable=False),
        pa.field("first_ns", pa.int64(), nullable=False),
        pa.field("last_ns", pa.int64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("first_place", pa.int64(), nullable=False),
        pa.field("last_place", pa.int64(), nullable=False),
    ]


_ID: Final = pa.binary(ID_BYTES)
VERTEX_SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.uint8(), nullable=False),
        pa.field("id", _ID, nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("day", pa.int32(), nullable=False),
        pa.field("hours", pa.list_(pa.int32(), HOURS), nullable=True),
        *_fact_fields(),
    ]
)
"""A row says that a vertex is there, by one provenance; a vertex may have several rows.

`kind` indexes `VERTEX_KINDS`. `type`: an entity's type, a field's detected class, a value's class, what kind of source a sighting is of.
`value`: canonical, or the token of a personal value; a dump's and a field's name; a sighting's source. It follows from the id, but for tokens of
several epochs: then the greatest is kept. `day`: of a sighting, days since 1970; else 0. `hours`: a sighting's count by hour of the day; else null.

`provenance` indexes the batch's. `first_ns` and `last_ns`: when it was seen, nanoseconds since 1970. `count`: how often, in addition to what was
counted before. `first_place` and `last_place`: record numbers of the dump, or journal positions; 0: none.
"""

EDGE_SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.uint8(), nullable=False),
        pa.field("start", _ID, nullable=False),
        pa.field("end", _ID, nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        *_fact_fields(),
    ]
)
"""A row says that an edge is there, by one provenance. `kind` indexes `EDGE_KINDS`; `start` and `end` are ids of vertices of the same
batch; `relation` types `RELATED_TO` and `ENRICHED_BY` and is empty elsewhere. The rest as in `VERTEX_SCHEMA`.
"""
