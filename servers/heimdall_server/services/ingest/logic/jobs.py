"""What the pipeline works on: jobs, the room that a group of them has, and what a frame says of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from heimdall_server.ports.journal import DeadLetter, RequestMark, SourceMark
from heimdall_server.ports.protector import Protected, Protector


@dataclass(slots=True)
class Room:
    """What is left for a group: decoded records and their bytes.

    Payload bytes alone bound neither: two bytes can be a record of 300, and a compressed column a thousand times its
    size. Whoever decodes takes room piece by piece, and stops when it is full; the last piece may go beyond it.
    """

    row_count: int
    size_bytes: int
    piece_bytes_max: int | None = None
    """Payload bytes that are to be decoded at once; None: as many as there are."""

    def take(self, batch: pa.RecordBatch) -> None:
        """A piece was decoded."""
        self.row_count -= int(batch.num_rows)
        self.size_bytes -= int(batch.nbytes)

    @property
    def full(self) -> bool:
        """Whether the rest must wait for the next group."""
        return self.row_count <= 0 or self.size_bytes <= 0


@dataclass(slots=True)
class Notes:
    """What a frame says besides its records; each job of a group adds its part."""

    sources: list[SourceMark] = field(default_factory=list)
    requests: list[RequestMark] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    resolved_letters: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sources or self.requests or self.dead_letters or self.resolved_letters)


OwnProtection = Callable[[Protector, pa.RecordBatch], Protected]
"""Decoded records to what may be stored of them."""


def protected(protector: Protector, records: pa.RecordBatch) -> Protected:
    """As records are that come for the first time: an `OwnProtection`."""
    return protector.protect(records)


class Job(Protocol):
    """A piece of work: payload bytes that become records of one frame.

    It is settled exactly once, by `committed`, `refused` or `dropped`; one that was absorbed is settled with the job
    that took it over. All methods but `decode` are called on the event loop.
    """

    @property
    def size_bytes(self) -> int:
        """Payload bytes that it holds."""
        ...

    @property
    def turn(self) -> Hashable:
        """Whose it is: jobs of one turn keep their order, and turns share the pipeline fairly."""
        ...

    @property
    def own_protection(self) -> OwnProtection | None:
        """How its records are protected, and which are left, if not with those of other jobs. Worker thread."""
        ...

    def absorb(self, later: Job) -> bool:
        """Take over the next job of the same turn: larger pieces are cheaper a record. False: it stays on its own."""
        ...

    def stale(self) -> bool:
        """Whether nobody wants it any more: then it is dropped."""
        ...

    def taken(self) -> None:
        """It leaves the queue to be decoded."""
        ...

    def decode(self, observed_time_ns: int, room: Room) -> Sequence[pa.RecordBatch]:
        """Worker thread: payloads to `RECORD_SCHEMA` batches, until all is done or the room is full.

        Raises:
            HeimdallError: Nothing of the job is kept.
        """
        ...

    def split(self) -> Job | None:
        """After `decode`: what it left for the next group, as a job of its own; its bytes are no longer this one's."""
        ...

    def describe(self, notes: Notes, first_row: int, observed_time_ns: int) -> None:
        """Add what the frame must say about it. Its records begin at `first_row`."""
        ...

    def begin_commit(self) -> None:
        """From here on it may become durable at any moment."""
        ...

    def committed(self, position: int) -> None:
        """It is durable. `position` is 0 if there was nothing to write."""
        ...

    def refused(self, error: BaseException) -> None:
        """Nothing of it was kept (or, after a `StoreError`, nobody knows)."""
        ...

    def dropped(self) -> None:
        """It was stale, and is gone."""
        ...
