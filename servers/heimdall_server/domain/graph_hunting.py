"""What dumps hold, found in logs: hunts, matches, and the events that watches are told.

A *hunt* looks for what a dump holds in what was logged before: in the graph first, then in the records that the graph knows nothing of. What is logged
later is compared as it comes. Either way a *match* is an entity of a dump that a source of logs saw on a day. A match is marked by the
stricter of both sightings, and its counts are of what everybody sees who sees the match.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from heimdall_server.domain.graph import Tlp


class HuntState(enum.Enum):
    """How far a hunt is. Values are as they are stored."""

    QUEUED = 0
    """It has entities to look for, and waits for its turn."""
    GRAPH = 1
    """It looks in the graph."""
    HISTORY = 2
    """It looks in the records that the graph doesn't know."""
    DONE = 3
    """It has looked for everything; more of the dump starts it again."""
    CANCELLED = 4
    """A person ended it; only a person starts it again."""


class Found(enum.Enum):
    """How a match was found. Values are as they are stored."""

    GRAPH = 1
    """The dump came after the log, and the graph knew the log's sighting."""
    HISTORY = 2
    """The dump came after the log, and the log's records were searched."""
    LOG = 3
    """The log came after the dump."""


class EventKind(enum.Enum):
    """What a watch is told. Values are as they are stored."""

    MATCH = 1
    SIGHTING = 2
    """A watched entity, one that has a label or that a watch names, was seen by a source on a day for the first time."""
    HUNT = 3
    """A hunt went on."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """A hunt as a reader sees it."""

    dump: bytes
    """The dump's id."""
    name: str
    tlp: Tlp
    """Of the dump."""
    state: HuntState
    entity_count: int
    """Entities that are looked for, and whose sightings in the dump the reader may see."""
    match_count: int
    """Matches found so far that the reader may see; what was erased since is still counted."""
    truncated: bool
    """There were more entities, or matches, than may be kept."""
    record_count: int = 0
    """Records that were searched."""
    since_ns: int = 0
    """Where its search of records begins; 0: as the server's settings say."""
    by_hand: bool = False
    actor: str = ""
    """Who asked for it; empty: nobody, the dump came in."""
    problem: str = ""
    create_time_ns: int = 0
    update_time_ns: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """An entity of a dump that a source of logs saw on a day."""

    match_id: int
    """In the order in which they were found; 0: an event's."""
    id: bytes
    """The entity's."""
    type: str
    value: str = field(repr=False)
    """Empty: the graph doesn't know it (yet)."""
    dump: bytes
    dump_name: str
    source: str
    day: int
    """Days since 1970."""
    found: Found
    tlp: Tlp
    count: int
    first_ns: int
    last_ns: int
    time_ns: int
    """When it was found."""


@dataclass(frozen=True, slots=True)
class SightingEvent:
    """A watched entity was seen."""

    id: bytes
    type: str
    value: str = field(repr=False)
    source: str
    """Of logs, or the dump's name."""
    in_dump: bool
    day: int
    tlp: Tlp
    count: int
    first_ns: int
    last_ns: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a watch is told."""

    seq: int
    """Its place in the order of all events, from 1."""
    what: Match | SightingEvent | Hunt


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a watch wants. Nothing named in a field: all."""

    tlp_max: Tlp
    kinds: frozenset[EventKind] = frozenset(EventKind)
    entities: frozenset[bytes] = frozenset()
    dumps: frozenset[bytes] = frozenset()
    types: frozenset[str] = frozenset()
    """Of entities."""
    labels: frozenset[str] = frozenset()
    """That entities have now, and that the reader may see."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events behind a place."""

    events: Sequence[Event]
    through: int
    """Everything up to here was looked at."""


@dataclass(frozen=True, slots=True)
class EventHead:
    """Where the events are."""

    log_id: bytes
    """Of this log of events; another database has another."""
    last: int
    gone: int
    """Everything up to here was let go."""
    create_time_ns: int
    """Since when there are any: the graph follows what comes in at least since then."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entity that records are searched for."""

    id: bytes
    type: str
    value: str = field(repr=False)
    """Canonical, or a token."""


@dataclass(frozen=True, slots=True)
class LogSighting:
    """What records say of an entity: a source, a day."""

    id: bytes
    source: str
    day: int
    tlp: Tlp
    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class HuntStep:
    """What one step of a hunt did."""

    entity_count: int
    match_count: int
    """New ones."""
    is_last: bool
    """There is nothing left to do of its kind."""


@dataclass(frozen=True, slots=True)
class HuntSums:
    """All hunts together, for operators."""

    open_count: int
    done_count: int
    match_count: int
    oldest_open_ns: int
    """Since when the one that waits longest has work; 0: none has."""
