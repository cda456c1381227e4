"""The journal: durable, ordered, replayable. The one truth that every projection is made from.

A position is (journal id, shard → offset); an embedded journal has one shard, Kafka one per partition.
Frames of a shard have dense offsets from 1. Order is promised within a shard, and a source always goes
to one shard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SourceKey:
    """A source belongs to the identity that feeds it."""

    principal: str
    source: str


@dataclass(frozen=True, slots=True)
class SourceMark:
    """What one frame says about one source: control state rides with the records it accounts for."""

    key: SourceKey
    epoch: int
    offset: int
    """Where these bytes (records) began, in the client's unit."""
    next_offset: int
    """Everything before it is decided: stored or a dead letter."""
    crc: int
    """CRC-32C of the bytes [offset, next_offset), as taken for the repeat check."""
    accepted_count: int
    rejected_count: int
    format: str = ""
    """JSON of the resolved `Format`, in the frame that opens the source or changes it."""
    dump: str = ""
    """JSON of the dump's facts, in the frame that opens or finishes it."""
    finished: bool = False
    first_row: int = 0
    """First row of this mark's records in the frame's batch."""


@dataclass(frozen=True, slots=True)
class RequestMark:
    """An Export whose byte-identical repeat must get the first answer."""

    principal: str
    digest: bytes
    """SHA-256 of the request."""
    time_ns: int
    accepted_count: int
    rejected_count: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What couldn't be decoded, kept so that it can be listed and retried."""

    key: SourceKey
    offset: int
    row: int
    reason: str
    time_ns: int
    raw: bytes
    """As it came, or empty where the configuration says `drop`. The frame is encrypted, so it is sealed at rest."""
    format: str = ""
    context: str = ""
    """JSON of the decode context, so that a retry decodes alike."""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a writer hands in: becomes one frame."""

    batch: pa.RecordBatch | None
    """Protected columns of `RECORD_SCHEMA`, or None for pure control."""
    sources: Sequence[SourceMark] = ()
    requests: Sequence[RequestMark] = ()
    dead_letters: Sequence[DeadLetter] = ()
    resolved_letters: Sequence[str] = ()
    """Ids of dead letters that a retry has settled."""
    sidecars: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """A durable entry and where it stands."""

    shard: int
    position: int
    """From 1, dense."""
    time_ns: int
    """When it was appended."""
    entry: Entry
    size_bytes: int
    """At rest."""


Positions = Mapping[int, int]
"""Shard → last position (0: nothing yet). What is named "through" includes it."""


@dataclass(frozen=True, slots=True)
class JournalState:
    """What an operator wants to know."""

    journal_id: str
    head: Positions
    """Last durable position of each shard."""
    tail: Positions
    """First position still held, of each shard."""
    size_bytes: int
    segment_count: int
    frame_count: int
    record_count: int


class Journal(Protocol):
    """Append, read, trim.

    Guarantees:
        Durability: when `append` returns, the entries survive kill -9 and power loss.
        Atomicity: an entry is there whole or not at all.
        Order: entries of one call are consecutive; calls take effect in the order they were made.
        Isolation: readers see only durable frames.
        Fidelity: damage is reported with its position (`CorruptionError`), never skipped; a torn tail
        (never acknowledged) is cut on open.
    """

    @property
    def journal_id(self) -> str:
        """Random, made with the journal; positions of another journal mean nothing here."""
        ...

    async def append(self, entries: Sequence[Entry]) -> Sequence[int]:
        """Make entries durable (shard 0 of an embedded journal); one fsync serves all that wait.

        Returns:
            The position of each entry.

        Raises:
            JournalFullError: A bound or the disk reserve is reached; nothing was written.
            StoreError: The disk failed; whether the entries are durable is unknown until reopen.
        """
        ...

    def head(self) -> Positions:
        """Last durable position of each shard. Cheap, never blocks."""
        ...

    def tail(self) -> Positions:
        """First position still held, of each shard."""
        ...

    def read(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """Frames in order, after a position (exclusive).

        Args:
            shard: The shard.
            after: Position before the first frame wanted; 0 from the start.
            through: Last position wanted; None: go on and wait for what comes, for ever.

        Raises:
            CorruptionError: A frame is damaged; frames before it were delivered.
            NotFoundError: `after` lies before the tail: the frames are gone.
        """
        ...

    async def wait(self, shard: int, *, after: int, timeout_s: float) -> bool:
        """Wait until the head passes a position.

        Returns:
            False if the time ran out first.
        """
        ...

    async def trim(self, through: Positions) -> None:
        """Allow everything up to a position to go. Space comes back by whole segments."""
        ...

    def state(self) -> JournalState:
        """Sizes and bounds."""
        ...

    async def close(self) -> None:
        """Flush and stop. Idempotent."""
        ...
