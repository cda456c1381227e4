"""One Append stream: offsets, repeats, fencing, acknowledgements.

Theory. A source is a sequence of bytes (or records). `state.next_offset` is how far it is *decided*: durable, or
a dead letter. `received` is how far this stream has it in memory. A batch relative to the two is

    offset > received                    a gap: refused, the client resends from `received`
    next_offset <= state.next_offset     a repeat: acknowledged again, nothing stored
    otherwise                            its part beyond `received` is new; the rest is dropped

and wherever it overlaps a remembered batch, its bytes must have that batch's CRC (OFFSET_CONFLICT otherwise). A
refused batch kills the lane: the stream goes back to `state.next_offset`, later batches in flight are dropped.
A newer stream of the source fences this one.

Everything here runs on the event loop, but for `AppendJob.decode`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import google_crc32c
import pyarrow as pa

from heimdall_server.domain.decoding import DecodeContext, Format
from heimdall_server.domain.errors import (
    HeimdallError,
    InvalidArgumentError,
    OffsetConflictError,
    OffsetGapError,
    SourceFencedError,
)
from heimdall_server.ports.journal import DeadLetter, Entry, SourceMark
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.dead_letters import context_to_json
from heimdall_server.services.ingest.logic.lane import WHOLE_PAYLOAD_KINDS, Chunk, Fed, Lane
from heimdall_server.services.ingest.logic.pipeline import Job, Pipeline
from heimdall_server.services.ingest.logic.sources import format_to_json
from heimdall_server.services.ingest.model import Acked, BatchIn, DumpFacts, Ended, Event, Finished, Nacked, SourceState


@dataclass(slots=True)
class AppendJob:
    """Batches of one stream on their way through the pipeline."""

    session: AppendSession
    lane: Lane
    chunks: list[Chunk]
    size_bytes: int
    finish: bool = False
    flush: bool = False
    received_s: float = field(default_factory=time.monotonic)
    fed: Fed | None = None
    mark: SourceMark | None = None
    """What the frame says of the job, once it is known."""
    committing: bool = False

    @property
    def key(self) -> object:
        """One lane's jobs merge."""
        return id(self.lane)

    def absorb(self, later: Job) -> bool:
        """See `Job`."""
        if not isinstance(later, AppendJob) or later.lane is not self.lane or self.finish:
            return False
        self.chunks.extend(later.chunks)
        self.size_bytes += later.size_bytes
        self.finish = later.finish
        self.flush = later.flush
        return True

    def stale(self) -> bool:
        """See `Job`."""
        return self.lane.dead

    def decode(self, observed_time_ns: int) -> Sequence[pa.RecordBatch]:
        """See `Job`."""
        self.fed = self.lane.feed(self.chunks, observed_time_ns=observed_time_ns, final=self.finish, flush=self.flush)
        return [decoded.batch for decoded in self.fed.decoded]

    def describe(self, entry: Entry, first_row: int, observed_time_ns: int) -> Entry:
        """See `Job`."""
        return self.session.describe(self, entry, first_row, observed_time_ns)

    def begin_commit(self) -> None:
        """See `Job`."""
        self.committing = True
        self.session.committing += 1

    def committed(self, position: int) -> None:
        """See `Job`."""
        self.session.committed(self, position)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        self.session.refused(self, error)

    def dropped(self) -> None:
        """See `Job`."""
        self.session.released_job(self)


class AppendSession:
    """See the module. One a stream; `events` is what the stream sends."""

    def __init__(
        self,
        *,
        state: SourceState,
        context: DecodeContext,
        hint: Format | None,
        file_name: str,
        dump: DumpFacts | None,
        pipeline: Pipeline,
        keep_raw: bool,
    ) -> None:
        self.state = state
        self.epoch = state.epoch
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.committing = 0
        """Jobs between `begin_commit` and their settlement."""
        self.settled = asyncio.Event()
        self.open_bytes = 0
        """Payload bytes received and not settled; the servicer bounds it."""
        self.released: Callable[[int], None] = lambda _: None
        """Told how many payload bytes were settled."""
        self._context = context
        self._hint = hint
        self._file_name = file_name
        self._dump = dump
        self._pipeline = pipeline
        self._keep_raw = keep_raw
        self._pending: deque[tuple[int, int, int]] = deque()
        self._format_written = state.format is not None
        self._dump_written = state.dump is not None
        self.accepted_count = 0
        self.rejected_count = 0
        self._started_s = time.monotonic()
        self._position = 0
        self._going_back = False
        self._ended = False
        self._finishing = False
        self.received = state.next_offset
        self._lane = self._new_lane()

    def _new_lane(self) -> Lane:
        context = self._context
        if self._dump is not None:
            context = replace(context, first_record_number=self.state.record_count + 1)
        return Lane(context, self.state.next_offset, self.state.format, self._hint, self._file_name)

    @property
    def format(self) -> Format | None:
        """The format as far as it is known."""
        return self.state.format or self._lane.format

    @property
    def whole_payloads(self) -> bool:
        """Whether offsets count records."""
        known = self.format or self._hint
        return known is not None and known.kind in WHOLE_PAYLOAD_KINDS

    def receive(self, batch: BatchIn) -> None:
        """Take a batch; what comes of it arrives in `events`."""
        metrics.BYTES.labels("append").inc(len(batch.payload))
        if self._going_back and batch.offset != self.received:
            self.released(len(batch.payload))  # sent before the client saw the refusal
            return
        try:
            self._check(batch)
        except HeimdallError as error:
            self._nack(batch, self.received if isinstance(error, OffsetGapError) else batch.offset, error)
            return
        if batch.next_offset <= self.state.next_offset:
            self.released(len(batch.payload))
            self.events.put_nowait(
                Acked(self.state.next_offset, self.received, self.state.position, repeated=True, format=self.format)
            )
            return
        if batch.next_offset <= self.received:
            self.released(len(batch.payload))  # in flight already; its first copy will be acknowledged
            return
        fresh = batch.payload if self.whole_payloads else batch.payload[self.received - batch.offset :]
        chunk = Chunk(self.received, batch.next_offset, fresh)
        try:
            self._pipeline.submit(AppendJob(self, self._lane, [chunk], len(batch.payload)))
        except HeimdallError as error:
            self._nack(batch, self.received, error)
            return
        self._going_back = False
        self._pending.append((batch.offset, batch.next_offset, batch.crc32c))
        self.received = batch.next_offset
        self.open_bytes += len(batch.payload)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing waits to be sent."""
        return not self.open_bytes and not self._finishing and self.events.empty()

    def end(self, error: HeimdallError) -> None:
        """The stream must end with an error, after what was said before."""
        self.events.put_nowait(Ended(error))

    def flush_if_held(self) -> None:
        """Nothing came for a while: decode held whole lines, if there are any."""
        if self._lane.tail and not self._finishing and not self._ended:
            self.flush()

    def finish(self) -> None:
        """No more bytes: decode the tail as it is, then `Finished`."""
        self._finishing = True
        self._control(AppendJob(self, self._lane, [], 0, finish=True))

    def flush(self) -> None:
        """Decode held whole lines."""
        self._control(AppendJob(self, self._lane, [], 0, flush=True))

    def _control(self, job: AppendJob) -> None:
        try:
            self._pipeline.submit(job)
        except HeimdallError as error:
            self._finishing = False
            self.events.put_nowait(Nacked(self.received, error))

    def fence(self, epoch: int) -> None:
        """A newer stream took the source: drop what is queued, end this stream."""
        self._lane.dead = True
        self._ended = True
        self.events.put_nowait(Ended(SourceFencedError(self.state.key.source, epoch)))

    def _check(self, batch: BatchIn) -> None:
        if batch.next_offset <= batch.offset:
            raise InvalidArgumentError("batch.next_offset", "must be greater than batch.offset")
        if not self.whole_payloads and batch.next_offset - batch.offset != len(batch.payload):
            raise InvalidArgumentError(
                "batch.next_offset", f"must be batch.offset + {len(batch.payload)}, the length of the payload"
            )
        if google_crc32c.value(batch.payload) != batch.crc32c:
            raise InvalidArgumentError("batch.crc32c", "must be the CRC-32C of the payload; was it damaged on the way?")
        if batch.offset > self.received:
            raise OffsetGapError(self.state.key.source, self.received, batch.offset)
        if self.whole_payloads and batch.offset < self.received < batch.next_offset:
            raise OffsetConflictError(self.state.key.source, batch.offset)
        if batch.offset < self.received:
            self._compare(batch)

    def _compare(self, batch: BatchIn) -> None:
        for offset, next_offset, crc in (*self.state.batches, *self._pending):
            if offset < batch.offset or next_offset > batch.next_offset:
                continue
            whole = offset == batch.offset and next_offset == batch.next_offset
            if self.whole_payloads and not whole:
                continue
            part = batch.payload if whole else batch.payload[offset - batch.offset : next_offset - batch.offset]
            if google_crc32c.value(part) != crc:
                raise OffsetConflictError(self.state.key.source, offset)

    def describe(self, job: AppendJob, entry: Entry, first_row: int, observed_time_ns: int) -> Entry:
        """Add the job's mark and dead letters to the frame."""
        fed = job.fed
        if fed is None:
            return entry
        if fed.next_offset == fed.offset and not job.finish and not fed.resolved:
            return entry
        state = self.state
        format_ = fed.resolved or job.lane.format
        settled = tuple(b for b in self._pending if b[1] <= fed.next_offset)
        errors = fed.errors
        mark = SourceMark(
            key=state.key,
            epoch=self.epoch,
            offset=fed.offset,
            next_offset=fed.next_offset,
            accepted_count=fed.accepted_count,
            rejected_count=len(errors),
            format=format_to_json(format_) if format_ and not self._format_written else "",
            dump=self._dump.to_json() if self._dump and not self._dump_written else "",
            finished=job.finish,
            first_row=first_row,
            batches=settled,
        )
        letters = [
            DeadLetter(
                key=state.key,
                offset=error.offset,
                row=error.row,
                reason=error.reason,
                time_ns=observed_time_ns,
                raw=error.raw if self._keep_raw else b"",
                format=format_to_json(format_) if format_ else "",
                context=context_to_json(job.lane.context),
                field=error.field,
            )
            for error in errors
        ]
        job.mark = mark
        return replace(entry, sources=[*entry.sources, mark], dead_letters=[*entry.dead_letters, *letters])

    def committed(self, job: AppendJob, position: int) -> None:
        """The job is durable, and `state` has moved on: acknowledge."""
        fed = job.fed
        if fed is None:
            return
        newly_told = None
        if position:
            self.committing -= 1
        if job.mark is not None:
            if job.mark.format:
                newly_told = job.lane.format
                self._format_written = True
            self._dump_written = True
            self._position = position
        while self._pending and self._pending[0][1] <= fed.next_offset:
            self._pending.popleft()
        self.released_job(job)
        errors = fed.errors
        self.accepted_count += fed.accepted_count
        self.rejected_count += len(errors)
        kind = job.lane.format.kind.value if job.lane.format else "unknown"
        metrics.RECORDS.labels("accepted", kind).inc(fed.accepted_count)
        metrics.RECORDS.labels("rejected", kind).inc(len(errors))
        metrics.ACK_SECONDS.observe(time.monotonic() - job.received_s)
        if self._ended:
            return
        self.events.put_nowait(
            Acked(
                next_offset=fed.next_offset,
                received_offset=fed.received_offset,
                position=self._position,
                accepted_count=fed.accepted_count,
                rejected_count=len(errors),
                errors=errors,
                format=newly_told,
            )
        )
        if job.finish:
            self._finishing = False
            self.events.put_nowait(
                Finished(
                    self.accepted_count,
                    self.rejected_count,
                    fed.next_offset,
                    self._position,
                    time.monotonic() - self._started_s,
                )
            )

    def refused(self, job: AppendJob, error: BaseException) -> None:
        """Nothing of the job was kept: the stream goes back to what is decided.

        The pipeline settles jobs in order, so everything before this one is in `state` already.
        """
        if job.committing:
            self.committing -= 1
        self.released_job(job)
        if job.lane is not self._lane or self._ended:
            return
        metrics.REFUSED.labels(type(error).__name__).inc()
        self._lane.dead = True
        self._pending.clear()
        self.received = self.state.next_offset
        self._lane = self._new_lane()
        self._going_back = True
        self._finishing = False
        self.events.put_nowait(Nacked(self.received, error))

    def _nack(self, batch: BatchIn, offset: int, error: HeimdallError) -> None:
        """Refuse one batch before it reached the lane: what came before it goes its way."""
        metrics.REFUSED.labels(type(error).__name__).inc()
        self.released(len(batch.payload))
        self._going_back = True
        self.events.put_nowait(Nacked(offset, error))

    def released_job(self, job: AppendJob) -> None:
        """The job's payload is no longer held."""
        self.open_bytes -= job.size_bytes
        self.released(job.size_bytes)
        self.settled.set()
