"""The journal: durable, ordered, replayable. The one truth that every projection is made from.

A position is (journal id, shard → offset); an embedded journal has one shard, Kafka one per partition.
Frames of a shard have dense offsets from 1. Order is promised within a shard, and a source always goes
to one shard.

The writer's side must know, when it starts, what the control of all frames so far amounts to (where each
source stands, which requests were answered). Reading every frame for that would take minutes, so the journal
keeps a `ControlState` for it: it applies each frame's control in order and puts a snapshot of the state into
each new segment; on start it restores the newest snapshot and applies only what came after.
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
    dump_sha256: str = ""
    """Of a dump's content, as hexadecimals: the dumps of a source are fed apart. Empty: no dump, or one that was begun before this was kept."""


@dataclass(frozen=True, slots=True)
class SourceMark:
    """What one frame says about one source: control state rides with the records it accounts for."""

    key: SourceKey
    epoch: int
    offset: int
    """Where these bytes (records) began, in the client's unit."""
    next_offset: int
    """Everything before it is decided: stored or a dead letter."""
    accepted_count: int
    rejected_count: int
    format: str = ""
    """JSON of the resolved `Format`, in the frame that opens the source or changes it."""
    dump: str = ""
    """JSON of the dump's facts, in the frame that opens or finishes it."""
    finished: bool = False
    first_row: int = 0
    """First row of this mark's records in the frame's batch."""
    batches: Sequence[tuple[int, int, int]] = ()
    """(offset, next_offset, CRC-32C) of the client's batches that this mark settles: what a repeat is compared with."""


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
    """As it came until it is protected; empty where it isn't kept. The frame is encrypted, so it is sealed at rest."""
    format: str = ""
    context: str = ""
    """JSON of the decode context, so that a retry decodes alike."""
    field: str = ""
    protected: bool = False
    """Whether personal values in `raw` were replaced by the policy of that time; tokens in it are then our own."""
    part_sizes: Sequence[int] = ()
    """Bytes of each record, where `raw` is several, with as many bytes between any two; for whoever protects them. Not stored."""


@dataclass(frozen=True, slots=True)
class DeletedSlice:
    """Records of a source that a deletion means some of."""

    source: str
    dump: str
    """Empty: they are logs."""
    days: tuple[int, ...] = ()
    """Of their time, since 1970 UTC, ascending; none for a dump."""
    whole: bool = False
    """It means all records of the dump that the source still has."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """Records that are to go from every store: a projection applies it in order, each time it comes by."""

    deletion_id: str
    filter: str
    """Text of the query language without pipes; personal values in it are tokens."""
    start_time_ns: int | None
    """Of the records meant, inclusive; None: from the start."""
    end_time_ns: int | None
    """Exclusive; None: to the end."""
    datasets: tuple[str, ...]
    """Empty: all."""
    through: int
    """Last position of the records meant, of the frame's shard; before the frame's own."""
    slices: tuple[DeletedSlice, ...] | None = None
    """Where the store had records that it means, before it deleted them; None: nobody looked, so anywhere."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A `ControlState` as bytes, and what it contains."""

    through: int
    """Last position whose control is in `data`; 0: none."""
    data: bytes
    """What `ControlState.snapshot` made; the journal doesn't look into it."""


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
    deletions: Sequence[Deletion] = ()
    snapshot: Snapshot | None = None
    """Written by the journal itself, in a frame of its own without records. Callers of `append` leave it None."""


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
    row_count: int = 0
    """Records of the frame, also where `read_control` left `entry.batch` out."""


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
    refusing: str = ""
    """The bound for which the last append was refused; empty: it was accepted."""


class ControlState(Protocol):
    """The writer's side of what all control so far amounts to; the journal keeps it up to date.

    All methods run on the event loop, none at the same time as another. They must be quick (well under a
    millisecond a frame, a few for a snapshot) and must not raise: a journal whose control state failed
    refuses further appends. Keep it small: bound it by time and by the tail, and name a dead letter by its
    position rather than keep its bytes.
    """

    def restore(self, snapshot: bytes) -> None:
        """Replace the state by one that `snapshot` made, also of an older version of the program."""
        ...

    def apply(self, frame: Frame) -> None:
        """Take in one frame's control. Each durable frame once, in order, before its `append` returns.

        Args:
            frame: Its `entry.batch` may be None although `row_count` isn't 0.
        """
        ...

    def snapshot(self) -> bytes:
        """The state as bytes, at most a few MiB."""
        ...


class JournalReader(Protocol):
    """The part of a journal that those need who only follow it; see `Journal` for the methods."""

    def head(self) -> Positions:
        """See `Journal`."""
        ...

    def tail(self) -> Positions:
        """See `Journal`."""
        ...

    def read(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """See `Journal`."""
        ...


class Journal(JournalReader, Protocol):
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

        A call that is cancelled may still become durable.

        Returns:
            The position of each entry.

        Raises:
            InvalidArgumentError: A batch isn't of `RECORD_SCHEMA`, or is too large; nothing was written.
            JournalFullError: A bound or the disk reserve is reached; nothing was written.
            StoreError: The disk failed: the entries aren't acknowledged, and no reader of this journal sees them.
                Later calls are served again once the disk works. Only a journal that is opened anew before that
                may turn out to have made them durable.
            DrainingError: The journal was closed.
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
            through: Last position wanted; None: go on and wait for what comes, for ever (until `close`).

        Raises:
            CorruptionError: A frame is damaged; frames before it were delivered.
            NotFoundError: `after` lies before the tail (the frames are gone) or beyond the head (a checkpoint
                that is newer than this journal).
        """
        ...

    def read_control(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """Frames in order without their records: `entry.batch` is None, `row_count` says how many there are.

        Costs what the control weighs, since records are neither read nor decrypted. Also the way to fetch one
        dead letter by its position (`after=position - 1, through=position`).

        Args:
            shard: The shard.
            after: Position before the first frame wanted; 0 from the start.
            through: Last position wanted; None: the head as it is now. It never waits.

        Raises:
            CorruptionError, NotFoundError: As `read`.
        """
        ...

    async def maintain(self, state: ControlState, *, shard: int = 0) -> None:
        """Bring a state up to the head and keep it there, with a snapshot in each new segment.

        Restores the newest snapshot, if any, and applies the control of every frame after it. From then on each
        durable frame is applied before its `append` returns. Once for a shard, before the first append. Frames
        that the newest snapshot needs are never trimmed.

        Raises:
            CorruptionError: A frame that is needed is damaged.
        """
        ...

    async def wait(self, shard: int, *, after: int, timeout_s: float) -> bool:
        """Wait until the head passes a position.

        Returns:
            False if the time ran out first, or the journal was closed.
        """
        ...

    async def trim(self, through: Positions) -> None:
        """Allow everything up to a position to go: no reader will ask for it again unless it rebuilds.

        Space comes back by whole segments, and only when it must: what may go is kept for rebuilds until it
        reaches its age, or until too many bytes are kept (both by configuration). Not remembered across a
        restart; call it again then, and every few seconds, since age takes effect here. Never goes back.
        """
        ...

    def state(self) -> JournalState:
        """Sizes and bounds."""
        ...

    async def close(self) -> None:
        """Flush and stop. Idempotent."""
        ...
