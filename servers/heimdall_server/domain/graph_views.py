"""Views of the graph that aren't walks: lists of entities, sums of sightings."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import Vertex


@dataclass(frozen=True, slots=True)
class EntityFilter:
    """Which entities are listed."""

    tlp_max: Tlp
    """The reader's ceiling."""
    types: frozenset[str] = frozenset()
    """Empty: all."""
    label: str = ""
    """Only those with this one; empty: any."""
    confidence_min: int = 0
    since_ns: int = 0
    """Seen last at or after it."""
    until_ns: int = 2**63 - 1
    """Seen first before it."""


@dataclass(frozen=True, slots=True)
class ListedEntity:
    """An entity of a list."""

    vertex: Vertex
    mark: bytes
    """Behind which the list goes on; only the engine knows what is in it."""
    into: bytes = b""
    """The one that stands for it, where it was merged and the reader sees that one; empty: itself."""


@dataclass(frozen=True, slots=True)
class EntityPage:
    """Some entities, the latest first."""

    entities: Sequence[ListedEntity]
    next_after: bytes = b""
    """The list goes on behind this mark; empty: it is over."""


class SightingsBy(enum.StrEnum):
    """What sightings are added up by."""

    DAY = "day"
    HOUR = "hour"
    SOURCE = "source"
    DUMP = "dump"


@dataclass(frozen=True, slots=True)
class SightingSum:
    """A sum of sightings."""

    key: int | str
    """Days or hours since 1970, or the name of a source or dump; of the total 0."""
    count: int
    sighting_count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class SightingSums:
    """Sums of an entity's sightings."""

    groups: Sequence[SightingSum]
    """Newest first by time, else by count."""
    total: SightingSum
    """Of all groups, also of those that are left out."""
    truncated: bool = False
    """There are more groups."""
    partial: bool = False
    """There are more sightings than are added up at once; the surest and newest were."""


@dataclass(frozen=True, slots=True)
class DumpsOf:
    """Dumps that an entity was sighted in."""

    names: Sequence[str]
    more: bool = False
    """There may be others."""
