"""Batches of one Append stream on their way through the pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import pyarrow as pa

from heimdall_server.domain.decoding import Format
from heimdall_server.ports.journal import DeadLetter, SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.dead_letters import letters_of
from heimdall_server.services.ingest.logic.jobs import Job, Notes, OwnProtection, Room
from heimdall_server.services.ingest.logic.lane import Chunk, Fed, Lane
from heimdall_server.services.ingest.model import Skip


@dataclass(frozen=True, slots=True)
class Received:
    """A batch that the server holds."""

    chunk: Chunk
    size_bytes: int
    """Of the payload as it came; the chunk may be what was new of it."""
    release: Callable[[], None]
    """Gives back what it takes of the stream's window and the process's memory."""
    received_s: float = field(default_factory=time.monotonic)


class Feeder(Protocol):
    """Whose jobs they are: the session, as they see it."""

    key: SourceKey
    keep_raw: bool

    def submitted(self) -> None:
        """A job is under way."""

    def absorbed(self) -> None:
        """A job is part of the one before."""

    def begun(self, job: AppendJob) -> None:
        """It is being written."""

    def describe(self, job: AppendJob, notes: Notes, first_row: int) -> None:
        """See `Job`."""

    def committed(self, job: AppendJob, position: int) -> None:
        """See `Job`."""

    def refused(self, job: AppendJob, error: BaseException) -> None:
        """See `Job`."""

    def dropped(self, job: AppendJob) -> None:
        """See `Job`."""


@dataclass(slots=True, eq=False)
class AppendJob:
    """See the module and `Job`."""

    feeder: Feeder
    lane: Lane
    chunks: list[Chunk] = field(default_factory=list)
    """What is to be fed."""
    held: list[Received] = field(default_factory=list)
    """What is released when the job is settled."""
    finish: bool = False
    flush: bool = False
    fed: Fed | None = None
    letters: list[DeadLetter] = field(default_factory=list)
    told: tuple[Format | None, Skip | None] | None = None
    """What its mark says of the format; None: it has no mark."""
    committing: bool = False

    @property
    def size_bytes(self) -> int:
        """See `Job`."""
        return sum(one.size_bytes for one in self.held)

    @property
    def turn(self) -> Hashable:
        """See `Job`: one lane's jobs keep their order."""
        return id(self.lane)

    @property
    def own_protection(self) -> OwnProtection | None:
        """See `Job`."""
        return None

    def absorb(self, later: Job) -> bool:
        """See `Job`. A flush takes effect where it was sent, so nothing is merged behind one."""
        if not isinstance(later, AppendJob) or self.finish or self.flush:
            return False
        self.chunks += later.chunks
        self.held += later.held
        self.finish, self.flush = later.finish, later.flush
        self.feeder.absorbed()
        return True

    def stale(self) -> bool:
        """See `Job`."""
        return self.lane.dead

    def taken(self) -> None:
        """See `Job`."""

    def decode(self, observed_time_ns: int, room: Room) -> Sequence[pa.RecordBatch]:
        """See `Job`. Doesn't raise for what the payloads hold: that is in `fed`, and what came before it is kept."""
        lane = self.lane
        if lane.dead or lane.failed:
            return []
        context = replace(lane.context, observed_time_ns=observed_time_ns)
        fed = lane.feed(self.chunks, observed_time_ns=observed_time_ns, final=self.finish, flush=self.flush, room=room)
        errors = fed.errors
        if errors:
            # A letter is listed by its source, whichever of its dumps it is of; its context names that.
            key = replace(self.feeder.key, dump_sha256="")
            self.letters = letters_of(
                errors, key=key, format_=lane.format, context=context, keep_raw=self.feeder.keep_raw
            )
        self.fed = fed
        return [piece.batch for piece in fed.pieces]

    def split(self) -> Job | None:
        """See `Job`."""
        fed = self.fed
        if fed is None or not fed.more or fed.failure is not None:
            return None
        rest = AppendJob(self.feeder, self.lane, fed.unfed, finish=self.finish, flush=self.flush)
        rest.held = [one for one in self.held if one.chunk.next_offset > fed.next_offset]
        self.held = [one for one in self.held if one.chunk.next_offset <= fed.next_offset]
        self.finish = self.flush = False
        self.feeder.submitted()
        return rest

    def describe(self, notes: Notes, first_row: int, observed_time_ns: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        self.feeder.describe(self, notes, first_row)

    def begin_commit(self) -> None:
        """See `Job`."""
        self.feeder.begun(self)

    def observe(self, accepted_count: int, rejected_count: int) -> None:
        """For the metrics: it is durable."""
        kind = self.lane.format.kind.value if self.lane.format else "unknown"
        metrics.count_records(kind, accepted_count, rejected_count)
        now_s = time.monotonic()
        for one in self.held:
            metrics.ACK_APPEND.observe(now_s - one.received_s)

    def committed(self, position: int) -> None:
        """See `Job`."""
        self.feeder.committed(self, position)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        self.feeder.refused(self, error)

    def dropped(self) -> None:
        """See `Job`."""
        self.feeder.dropped(self)
