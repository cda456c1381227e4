"""What a sender said, before it is known which entities are meant: the same for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from heimdall_server.domain.graph import Tlp

LABEL_BYTES_MAX: Final = 128
"""Of a further name; the rest of it is cut."""
THINGS_MAX: Final = 64
"""Values that one object is: digests of a file."""
NAMES_MAX: Final = 32
"""Further names of one thing."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An entity as a sender names it."""

    type: str
    """A name of the catalogue of types, a class of personal data, or the type of something that is known by a name."""
    value: str = field(repr=False)
    hint: str = ""
    """The name of a field that would hold such a value, where the privacy policy must know that it is personal."""
    opaque: bool = False
    """The value is the sender's id of it, since nothing else names it."""
    keyed: bool = False
    """Of an opaque one: its id may be a hash of personal values, so a keyed one takes its place."""


@dataclass(frozen=True, slots=True)
class Saying:
    """How surely something is said, how far it may go, and when it was so."""

    tlp: Tlp
    confidence: int
    first_ns: int | None = None
    """None: not said."""
    last_ns: int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class ThingDraft:
    """An object that is an entity, or several that are one and the same."""

    ref: str
    """The sender's id of it."""
    number: int
    """Which object of the import, from 1."""
    things: Sequence[Thing]
    """The first is what others mean by `ref`."""
    saying: Saying
    names: Sequence[str] = ()
    """Further names."""
    also: Sequence[str] = ()
    """Further ids of the sender that mean the same."""
    kept: Mapping[str, Any] | None = field(default=None, repr=False)
    """The object, where it says more than the entity does."""


@dataclass(frozen=True, slots=True)
class LinkDraft:
    """An object that is related to another, both by the sender's ids."""

    ref: str
    number: int
    relation: str
    source_ref: str
    target_ref: str
    saying: Saying
    within: bool = False
    """Said by an object besides what it is, not by an object of its own."""
    kept: bytes = field(default=b"", repr=False)
    """The object without its ends, JSON, where it is one of its own."""


@dataclass(frozen=True, slots=True)
class SightingDraft:
    """An object that was seen."""

    ref: str
    number: int
    of_ref: str
    saying: Saying
    within: bool = False
    kept: bytes = field(default=b"", repr=False)
    """The object without what was seen, JSON, where it says more than that."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that isn't kept."""

    ref: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """An object that says nothing that the graph keeps."""

    ref: str
    number: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was read otherwise than it may be meant."""

    text: str


Draft: TypeAlias = ThingDraft | LinkDraft | SightingDraft | Refusal | Context | Notice


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for all that doesn't say otherwise."""

    tlp: Tlp
    confidence: int


def label_of(name: str) -> str:
    """A further name as a label: one line, at most `LABEL_BYTES_MAX` bytes; empty: it is none."""
    line = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    return line.encode()[:LABEL_BYTES_MAX].decode(errors="ignore").strip()
