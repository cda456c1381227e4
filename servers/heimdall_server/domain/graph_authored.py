"""What people decide about the graph: labels, notes, merges. Truth of its own, which no rebuild touches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.graph import Tlp

MERGE_DEPTH_MAX: Final = 16
"""Merges between an entity and the one that stands for it."""
GROUP_MAX: Final = 1_000
"""Entities that are one."""


@dataclass(frozen=True, slots=True)
class Label:
    """A word on a vertex."""

    id: bytes
    """The vertex's."""
    label: str
    actor: str
    create_time_ns: int
    reason: str = ""
    tlp: Tlp = Tlp.AMBER


@dataclass(frozen=True, slots=True)
class Note:
    """A text about a vertex."""

    note_id: bytes
    id: bytes
    """The vertex's."""
    body: str = field(repr=False)
    actor: str
    """Who wrote it, or changed it last."""
    create_time_ns: int
    update_time_ns: int
    tlp: Tlp = Tlp.AMBER
    version: int = 1
    """Goes up with each change; whoever changes it names the one that they saw."""

    @property
    def etag(self) -> str:
        """Of this version."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class Merge:
    """One entity is another: it is read as part of it from now on, until they are split again."""

    id: bytes
    into_id: bytes
    actor: str
    create_time_ns: int
    reason: str = ""

    @property
    def etag(self) -> str:
        """Of this merge; another one of the same entity has another."""
        told = self.id + self.into_id + self.create_time_ns.to_bytes(8, "big", signed=True)
        return hashlib.blake2b(told, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a vertex means, as a vector."""

    id: bytes
    vector: tuple[float, ...]
    """384 numbers, not all 0."""


@dataclass(frozen=True, slots=True)
class Similar:
    """A vertex that means about the same."""

    id: bytes
    distance: float
    """1 - cosine: 0 the same direction, 2 the opposite."""
