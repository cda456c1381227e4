"""One Append stream: offsets, repeats, fencing, acknowledgements.

Theory. A source is a sequence of bytes (or records). `state.next_offset` is how far it is *decided*: durable, or
a dead letter. `received` is how far this stream has it in memory. A batch relative to the two is

    offset > received                    a gap: refused, the client resends from `received`
    next_offset <= state.next_offset     a repeat: acknowledged again, nothing stored
    otherwise                            its part beyond `received` is new; the rest is dropped

and wherever it overlaps a remembered batch, its bytes must have that batch's CRC (OFFSET_CONFLICT otherwise).

A refusal makes the stream *go back*: `received` returns to what is decided (or stays, where a batch was refused before
it reached the lane), and until the client resends from there, what lies beyond was sent before it knew, and is dropped
without a word. `frontier` is how far that can reach. A finish that comes while bytes before the frontier are missing
was sent before the client knew, too.

    says            when
    Acked           a job is durable; a repeat
    Nacked          the client can go on here: it resends, at once or later, or gives up one whole payload
    Ended           nothing more can come of this stream: fenced, the bytes aren't the format, the journal failed
    Finished        the job that carried the finish is durable

After a `StoreError` whether the job is durable is unknown, so the stream ends: what `state` says then isn't true until
the journal was opened again, and the journal refuses everything until it is. A newer stream of the source fences this
one. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from heimdall_server.domain.decoding import DecodeContext, Format
from heimdall_server.domain.errors import (
    DrainingError,
    HeimdallError,
    InvalidInputError,
    OffsetGapError,
    OverloadedError,
    SourceFencedError,
    StreamProtocolError,
)
from heimdall_server.ports.journal import SourceKey, SourceMark
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.append_job import AppendJob, Received
from heimdall_server.services.ingest.logic.batches import check_batch
from heimdall_server.services.ingest.logic.format_text import format_to_json
from heimdall_server.services.ingest.logic.jobs import Notes
from heimdall_server.services.ingest.logic.lane import WHOLE_PAYLOAD_KINDS, Chunk, Lane
from heimdall_server.services.ingest.logic.outbox import Outbox
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import Counts
from heimdall_server.services.ingest.model import (
    ROW_ERRORS_MAX,
    Acked,
    BatchIn,
    Draining,
    Ended,
    Finished,
    Nacked,
    OpenIn,
    SourceState,
)

_PENDING_MAX: Final = 256
"""Batches in the lane whose CRC is remembered; only tiny ones, of which a record is made of many, can be more."""


class AppendSession:
    """See the module. One a stream; `outbox` is what the stream sends."""

    def __init__(
        self,
        *,
        state: SourceState,
        context: DecodeContext,
        request: OpenIn,
        pipeline: Pipeline,
        counts: Counts,
        keep_raw: bool,
        complete: bool = False,
    ) -> None:
        """Begin where the source stands.

        Args:
            state: What the journal says of the source; the journal moves it on.
            context: What the source says about its records.
            request: What the client opened.
            pipeline: Where its batches go.
            counts: Of the process.
            keep_raw: Whether the bytes of bad records are kept.
            complete: It is a dump that was taken in before: nothing is left to send.
        """
        self.state = state
        self.key: SourceKey = state.key
        self.keep_raw = keep_raw
        self.epoch = state.epoch
        self.outbox = Outbox()
        self.job_count = 0
        """Jobs under way."""
        self.committing_count = 0
        """Of them, those that may become durable at any moment."""
        self.settled = asyncio.Event()
        """Set when a job was settled."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called when no job is under way any more."""
        self.received = state.next_offset
        self.accepted_count = 0
        self.rejected_count = 0
        self._context = context
        self._request = request
        self._pipeline = pipeline
        self._counts = counts
        self._complete = complete
        self._pending: deque[tuple[int, int, int]] = deque(maxlen=_PENDING_MAX)
        self._told = (state.format, state.skip)
        """Format and place in an over-long record, as the journal has them once all that was described is durable."""
        self._dump_written = state.dump is not None
        self._started_s = time.monotonic()
        self._position = 0
        self._frontier = self.received
        self._going_back = self._over = self._no_more = self._finishing = False
        self._lane = self._new_lane()

    def _new_lane(self) -> Lane:
        context, state, request = self._context, self.state, self._request
        if request.dump is not None:
            context = replace(context, first_record_number=state.record_count + 1)
        return Lane(context, state.next_offset, state.format, request.format, request.file_name, state.skip)

    @property
    def format(self) -> Format | None:
        """The format as far as it is known."""
        return self.state.format or self._lane.format

    @property
    def whole_payloads(self) -> bool:
        """Whether offsets count records."""
        known = self.format or self._request.format
        return known is not None and known.kind in WHOLE_PAYLOAD_KINDS

    def receive(self, batch: BatchIn, release: Callable[[], None]) -> None:
        """Take a batch; what comes of it arrives in `outbox`.

        Args:
            batch: As it came.
            release: Gives back what was reserved for it; called once, when the batch is no longer held.
        """
        size = len(batch.payload)
        metrics.BYTES_APPEND.inc(size)
        if self._over or not self._may_send():
            release()
            return
        late = self._going_back and self.received < batch.offset <= self._frontier
        self._frontier = max(self._frontier, batch.next_offset)
        if late:
            release()
            return
        try:
            check_batch(
                batch,
                source=self.key.source,
                received=self.received,
                whole_payloads=self.whole_payloads,
                known=itertools.chain(self.state.batches, self._pending),
            )
        except HeimdallError as error:
            release()
            self._nack(error, self.received if isinstance(error, OffsetGapError) else batch.offset)
            return
        if batch.next_offset <= self.received:
            release()
            self._resumed()
            self._repeat(batch)
            return
        fresh = batch.payload if self.whole_payloads else batch.payload[self.received - batch.offset :]
        chunk = Chunk(self.received, batch.next_offset, fresh)
        job = AppendJob(self, self._lane, [chunk], [Received(chunk, size, release)])
        if self._submit(job):
            self._pending.append((batch.offset, batch.next_offset, batch.crc32c))
            self.received = batch.next_offset
            self._resumed()
        else:
            release()

    def _may_send(self) -> bool:
        if self._complete:
            self.end(StreamProtocolError("the dump was taken in before, whole; nothing is left to send"))
        elif self._finishing:
            self.end(StreamProtocolError("nothing may come behind finish"))
        return not self._over

    def _resumed(self) -> None:
        """The client goes on from what is received: nothing that comes from now on was sent before it knew."""
        self._going_back = False
        self._frontier = self.received

    def _repeat(self, batch: BatchIn) -> None:
        stored = batch.next_offset <= self.state.next_offset
        if stored:
            metrics.REPEATED.labels("append").inc()
        # One that is in flight or held is told how far the stream is; its first copy will be acknowledged.
        position = self.state.position if stored else self._position
        self.outbox.put(Acked(self.state.next_offset, self.received, position, repeated=stored, format=self.format))

    def finish(self) -> None:
        """No more bytes: decode the tail as it is, then `Finished`."""
        if self._over or self._behind():
            return
        if self._complete:
            self._say_finished()
        elif self._may_send():
            self._finishing = self._submit(AppendJob(self, self._lane, finish=True))

    def flush(self) -> None:
        """Decode held whole lines."""
        if not (self._over or self._behind() or self._complete) and self._may_send():
            self._submit(AppendJob(self, self._lane, flush=True))

    def flush_if_held(self) -> None:
        """Nothing came for a while: decode held whole lines, if there are any."""
        if self._lane.tail and not self._finishing:
            self.flush()

    def _behind(self) -> bool:
        """Whether bytes are missing that the client had sent."""
        return self._going_back and self.received < self._frontier

    def end(self, error: BaseException) -> None:
        """The stream must end with an error, after what was said before. What is under way goes its way."""
        if not self._over:
            self._over = True
            self.outbox.put(Ended(error))
            self.outbox.close()

    def fence(self, epoch: int) -> None:
        """A newer stream took the source: drop what isn't being written yet, end this stream. Idempotent."""
        self._lane.dead = True
        self.end(SourceFencedError(self.key.source, epoch))

    def drain(self) -> None:
        """The server goes away: say so, and end when what was accepted is acknowledged."""
        self.outbox.put(Draining())
        self.no_more()

    def no_more(self) -> None:
        """Nothing more will come: the stream ends when what was accepted is acknowledged."""
        self._no_more = True
        if not self.job_count:
            self.outbox.close()

    def _submit(self, job: AppendJob) -> bool:
        try:
            self._pipeline.submit(job)
        except HeimdallError as error:
            self._nack(error, self.received)
            return False
        self.submitted()
        return True

    def submitted(self) -> None:
        """See `Feeder`."""
        self.job_count += 1

    def absorbed(self) -> None:
        """See `Feeder`."""
        self.job_count -= 1

    def begun(self, job: AppendJob) -> None:
        """See `Feeder`."""
        job.committing = True
        self.committing_count += 1

    def describe(self, job: AppendJob, notes: Notes, first_row: int) -> None:
        """Add the job's mark and dead letters to the frame."""
        fed = job.fed
        if fed is None or (fed.failure is not None and fed.next_offset == fed.offset):
            return
        format_ = job.lane.format
        told = (format_, fed.skip)
        news = format_ is not None and told != self._told
        if fed.next_offset == fed.offset and not job.finish and not news:
            return
        job.told = told
        notes.sources.append(
            SourceMark(
                key=self.key,
                epoch=self.epoch,
                offset=fed.offset,
                next_offset=fed.next_offset,
                accepted_count=fed.accepted_count,
                rejected_count=len(fed.errors),
                format=format_to_json(format_, fed.skip) if format_ is not None and news else "",
                dump=self._request.dump.to_json() if self._request.dump and not self._dump_written else "",
                finished=job.finish and fed.failure is None,
                first_row=first_row,
                batches=tuple(batch for batch in self._pending if batch[1] <= fed.next_offset),
            )
        )
        notes.dead_letters += job.letters

    def committed(self, job: AppendJob, position: int) -> None:
        """The job is durable, and `state` has moved on: acknowledge."""
        fed = job.fed
        if fed is None:  # it came behind one whose lane failed
            self._settle(job)
            return
        errors, accepted_count = fed.errors, fed.accepted_count
        rejected_count = len(errors)
        job.observe(accepted_count, rejected_count)
        self.accepted_count += accepted_count
        self.rejected_count += rejected_count
        self._counts.accepted += accepted_count
        self._counts.rejected += rejected_count
        newly_told = None
        if job.told is not None:
            newly_told = job.told[0] if job.told[0] != self._told[0] else None
            self._told = job.told
            self._dump_written = True
            self._position = position
        while self._pending and self._pending[0][1] <= fed.next_offset:
            self._pending.popleft()
        if fed.failure is None or fed.next_offset > fed.offset:
            self.outbox.put(
                Acked(
                    next_offset=fed.next_offset,
                    received_offset=self.received,
                    position=self._position,
                    accepted_count=accepted_count,
                    rejected_count=rejected_count,
                    errors=errors[:ROW_ERRORS_MAX],
                    format=newly_told,
                )
            )
        if fed.failure is not None:
            self._go_back(fed.failure)
        elif job.finish:
            self._say_finished()
        self._settle(job)

    def refused(self, job: AppendJob, error: BaseException) -> None:
        """Nothing of the job was kept: the stream goes back to what is decided.

        The pipeline settles jobs in order, so everything before this one is in `state` already.
        """
        if job.lane is self._lane and not job.lane.dead:
            self._go_back(error)
        self._settle(job)

    def dropped(self, job: AppendJob) -> None:
        """The job's lane had died."""
        self._settle(job)

    def _say_finished(self) -> None:
        elapsed_s = time.monotonic() - self._started_s
        position = self._position or self.state.position
        self.outbox.put(Finished(self.accepted_count, self.rejected_count, self.state.next_offset, position, elapsed_s))
        self._over = True
        self.outbox.close()

    def _go_back(self, error: BaseException) -> None:
        metrics.count_refusal(error)
        self._lane.dead = True
        self._lane = self._new_lane()
        self._told = (self.state.format, self.state.skip)
        self._pending.clear()
        self._frontier = max(self._frontier, self.received)
        self.received = self.state.next_offset
        self._going_back = True
        self._finishing = False
        one_payload = self.whole_payloads and isinstance(error, InvalidInputError)
        if isinstance(error, OverloadedError) or one_payload:
            self.outbox.put(Nacked(self.received, error))
        else:
            self.end(error)

    def _nack(self, error: HeimdallError, offset: int) -> None:
        """Refuse a message before it reached the lane: what came before it goes its way."""
        metrics.count_refusal(error)
        self._going_back = True
        if isinstance(error, DrainingError):
            self.end(error)
        else:
            self.outbox.put(Nacked(offset, error))

    def _settle(self, job: AppendJob) -> None:
        for one in job.held:
            one.release()
        self.job_count -= 1
        self.committing_count -= job.committing
        self.settled.set()
        if not self.job_count:
            if self._no_more:
                self.outbox.close()
            self.on_idle()
