"""The client's half of `IngestService.Append` as a state machine: no sockets, no clock, no tasks.

Rules. A source is a sequence of units: bytes, or records for Arrow. Five places in it, in this order:

    durable  ≤  received  ≤  sent  ≤  cut  ≤  written

    durable    `ack.next_offset`: decided, never needed again
    received   `ack.received_offset`: the server has it in memory of *this stream*
    sent       handed to the stream
    cut        put into chunks. A chunk once sent keeps its borders, so that a repeat is the same bytes
    written    what the caller gave; what lies behind `cut` waits to become a chunk

Everything from `durable` on is kept, since a break can take the server back there. The window counts only what lies
between `received` and `sent`: a tail that the server holds as an incomplete record can't lock it.

| phase     | input               | goes to   | what changes                                                        |
|-----------|---------------------|-----------|---------------------------------------------------------------------|
| CLOSED    | connect()           | OPENING   | `open` is to be sent, with the format as far as it is known         |
| OPENING   | opened              | STREAMING | received = sent = its offset; the first one sets all five           |
| OPENING   | opened, complete    | FINISHED  | the dump is there already                                           |
| STREAMING | ack                 | STREAMING | durable and received go up; chunks before durable are released      |
| STREAMING | nack, may pass      | STREAMING | sent goes back to its offset; `Refused` asks the driver for a delay |
| STREAMING | nack, won't pass    | FAILED    | raises                                                              |
| STREAMING | draining            | STREAMING | nothing more is sent                                                |
| STREAMING | finished            | FINISHED  |                                                                     |
| any       | disconnect()        | CLOSED    | flush and finish, if wanted, are to be sent again                   |
| any       | what isn't allowed  | FAILED    | raises `AppendProtocolError`                                        |

`flush` and `finish` are sent when `received` has reached what they are about, so that a refused batch can't slip
behind them. New chunks wait until a flush is answered: the next acknowledgement is its answer.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Never

from heimdall.ingest.v1 import ingest_service_pb2, source_pb2
from heimdall_client import errors, status
from heimdall_client.append_buffer import AppendBuffer, Cut, cut_bytes
from heimdall_client.append_events import Acked, Draining, Event, Finished, Opened, Refused, Tally

ROW_ERROR_COUNT_MAX: Final = 100
"""Row errors that are kept as a sample."""
DAMAGED_BATCH_COUNT_MAX: Final = 3
"""A batch whose checksum is refused more often than that isn't damaged on the way."""


class Phase(enum.Enum):
    """Where the stream is; see the module's table."""

    CLOSED = "closed"
    OPENING = "opening"
    STREAMING = "streaming"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(eq=False)
class AppendProtocolError(errors.HeimdallError):
    """The other side said something that the contract doesn't allow."""

    problem: str

    def __str__(self) -> str:
        return f"the server broke the append protocol: {self.problem}"


class AppendProtocol:
    """See the module. One a source; it outlives streams. Not thread-safe.

    Args:
        open_: What names the source. Its format is replaced by what the server resolves.
        cut: How to cut a payload, for a server that goes on in the middle of one.
        splits: Whether payloads may be split and joined at any unit (bytes), or travel as they are (Arrow).
        chunk_bytes: Aim for payloads of this size.
        linger_s: How long written bytes wait for more while others are in flight.
        buffer_bytes_max: `has_room` is False from here on.
    """

    def __init__(
        self,
        open_: ingest_service_pb2.AppendRequest.Open,
        *,
        cut: Cut = cut_bytes,
        splits: bool = True,
        chunk_bytes: int = 1024 * 1024,
        linger_s: float = 0.1,
        buffer_bytes_max: int = 32 * 1024 * 1024,
    ) -> None:
        self.phase = Phase.CLOSED
        self.tally = Tally()
        self.limits = ingest_service_pb2.AppendResponse.Limits()
        self.draining = False
        self._open = open_
        self._chunk_bytes = chunk_bytes
        self._linger_s = linger_s
        self._buffer_bytes_max = buffer_bytes_max
        self._buffer = AppendBuffer(cut=cut, splits=splits)
        self._started = False
        self._received = self._sent = 0
        self._paused_until_s = 0.0
        self._damaged_count = 0
        self._flush_wanted = self._flush_sent = self._flush_done = self._flush_target = 0
        self._finish_wanted = self._finish_sent = False

    @property
    def source_id(self) -> str:
        """The source."""
        return self._open.source_id

    @property
    def dump_content_sha256(self) -> bytes:
        """Of the dump that it is; empty: it is none."""
        return self._open.dump.content_sha256

    @property
    def format(self) -> source_pb2.Format:
        """The format as far as it is known."""
        return self._open.format

    @property
    def durable_offset(self) -> int:
        """Everything before it is decided. 0 before the first `opened`."""
        return self._buffer.durable

    @property
    def received_offset(self) -> int:
        """Everything before it has reached the server on this stream."""
        return self._received

    @property
    def written_offset(self) -> int:
        """Where the next written unit goes."""
        return self._buffer.written

    @property
    def held_bytes(self) -> int:
        """Payload bytes in memory."""
        return self._buffer.held_bytes

    @property
    def has_room(self) -> bool:
        """Whether the caller may write now. One write may go beyond the bound."""
        return self._started and self.held_bytes < self._buffer_bytes_max

    @property
    def expects_answer(self) -> bool:
        """Whether the server owes a message."""
        if self.phase is Phase.OPENING or self.draining:
            return True
        waits = self._received < self._sent or self._finish_sent or self._flush_sent > self._flush_done
        return self.phase is Phase.STREAMING and waits

    def write(self, payload: bytes, *, count: int | None = None, now_s: float) -> None:
        """Take what comes next in the source.

        Args:
            payload: Bytes of it; for sources that count records, a whole payload.
            count: Records in the payload; None: it counts bytes.
            now_s: Any clock, the same in all calls.

        Raises:
            ClosedError: The source was finished or has failed, or was never opened.
        """
        if not self._started or self._finish_wanted or self.phase in (Phase.FINISHED, Phase.FAILED):
            raise errors.ClosedError("source")
        if payload:
            self._buffer.write(payload, len(payload) if count is None else count, now_s=now_s)

    def want_flush(self) -> int:
        """Ask for a flush of what is written so far.

        Returns:
            A ticket for `is_flushed`.
        """
        self._flush_wanted += 1
        self._flush_target = self._buffer.written
        return self._flush_wanted

    def is_flushed(self, ticket: int) -> bool:
        """Whether the flush was answered: what is still held is an incomplete record."""
        return self._flush_done >= ticket

    def want_finish(self) -> None:
        """The source ends with what is written so far."""
        self._finish_wanted = True

    def connect(self) -> ingest_service_pb2.AppendRequest:
        """Begin a stream.

        Returns:
            Its first message.

        Raises:
            ClosedError: The source is finished or has failed, or a stream runs.
        """
        if self.phase is not Phase.CLOSED:
            raise errors.ClosedError("source")
        self.phase = Phase.OPENING
        return ingest_service_pb2.AppendRequest(open=self._open)

    def disconnect(self) -> None:
        """The stream is gone, however it ended."""
        if self.phase in (Phase.OPENING, Phase.STREAMING):
            self.phase = Phase.CLOSED
        self.draining = False
        self._finish_sent = False
        self._flush_sent = self._flush_done
        self._paused_until_s = 0.0

    def pause_until(self, time_s: float) -> None:
        """Send nothing before this moment, on the clock of `next_request`."""
        self._paused_until_s = time_s

    def next_request(self, now_s: float) -> ingest_service_pb2.AppendRequest | None:
        """What to send now, if anything. It counts as sent."""
        if self.phase is not Phase.STREAMING or self.draining or self._finish_sent or now_s < self._paused_until_s:
            return None
        if self._sent == self._buffer.cut and self._may_cut(now_s):
            self._buffer.make_chunk(self._payload_bytes_max())
        if self._sent < self._buffer.cut:
            return self._next_batch()
        return self._next_control()

    def wake_after_s(self, now_s: float) -> float | None:
        """When `next_request` may have something although nothing happens; None: only after an event."""
        if self.phase is not Phase.STREAMING or self.draining:
            return None
        if now_s < self._paused_until_s:
            return self._paused_until_s - now_s
        if self._sent == self._buffer.cut and self._can_cut():
            return max(0.0, self._buffer.oldest_piece_s + self._linger_s - now_s)
        return None

    def receive(self, response: ingest_service_pb2.AppendResponse) -> Event:
        """Take a message of the server.

        Raises:
            RpcError: A batch was refused for good; the source has failed.
            SourceMovedError: The server goes on where this side has nothing; the source has failed.
            AppendProtocolError: The message isn't allowed; the source has failed.
        """
        kind = response.WhichOneof("message")
        try:
            if kind == "opened" and self.phase is Phase.OPENING:
                return self._on_opened(response.opened)
            if self.phase is Phase.STREAMING:
                if kind == "ack":
                    return self._on_ack(response.ack)
                if kind == "nack":
                    return self._on_nack(response.nack)
                if kind == "finished" and self._finish_sent:
                    return self._on_finished(response.finished)
                if kind == "draining":
                    self.draining = True
                    return Draining()
            self._violation(f"{kind} came while {self.phase.value}")
        except errors.HeimdallError:
            self.phase = Phase.FAILED
            raise

    def _on_opened(self, opened: ingest_service_pb2.AppendResponse.Opened) -> Event:
        offset = opened.next_offset
        if not self._started:
            self._buffer.start(offset)
            self._started = True
        elif not self.durable_offset <= offset <= self._buffer.cut:
            raise errors.SourceMovedError(self.source_id, offset, self.durable_offset, self._buffer.cut)
        self._received = self._sent = offset
        self._buffer.release(offset)
        self.limits.CopyFrom(opened.limits)
        self._take_format(opened.format)
        if opened.already_complete:
            self.phase = Phase.FINISHED
            return Finished(already_complete=True)
        self.phase = Phase.STREAMING
        return Opened(offset)

    def _on_ack(self, ack: ingest_service_pb2.AppendResponse.Ack) -> Event:
        received = max(ack.next_offset, ack.received_offset)
        if received > self._buffer.cut:
            self._violation(f"offset {received} was acknowledged, {self._buffer.cut} were sent")
        advanced = ack.next_offset > self.durable_offset or received > self._received
        self._received = max(self._received, received)
        self._sent = max(self._sent, self._received)
        self._buffer.release(ack.next_offset)
        self._take_format(ack.format)
        self._damaged_count = 0
        tally = self.tally
        tally.accepted_count += ack.accepted_count
        tally.rejected_count += ack.rejected_count
        tally.row_errors += ack.row_errors[: ROW_ERROR_COUNT_MAX - len(tally.row_errors)]
        if ack.HasField("position"):
            tally.position = ack.position
        self._flush_done = self._flush_sent
        return Acked(advanced)

    def _on_nack(self, nack: ingest_service_pb2.AppendResponse.Nack) -> Event:
        error = status.from_status(nack.status)
        if not self.durable_offset <= nack.offset <= self._buffer.cut:
            raise errors.SourceMovedError(self.source_id, nack.offset, self.durable_offset, self._buffer.cut)
        damaged = any(violation.field == "batch.crc32c" for violation in error.field_violations)
        self._damaged_count += damaged
        gap = isinstance(error, errors.OffsetGapError)
        if not (gap or error.retryable or (damaged and self._damaged_count <= DAMAGED_BATCH_COUNT_MAX)):
            raise error
        self._sent = min(self._sent, nack.offset)
        self._received = min(self._received, nack.offset)
        self._finish_sent = False
        self._flush_sent = self._flush_done
        return Refused(error)

    def _on_finished(self, finished: ingest_service_pb2.AppendResponse.Finished) -> Event:
        if finished.next_offset != self._buffer.written:
            self._violation(f"it finished at offset {finished.next_offset}, {self._buffer.written} were sent")
        self._buffer.release(finished.next_offset)
        if finished.HasField("position"):
            self.tally.position = finished.position
        self._flush_done = self._flush_wanted
        self.phase = Phase.FINISHED
        return Finished()

    def _take_format(self, format_: source_pb2.Format) -> None:
        if format_.kind:
            self._open.format.CopyFrom(format_)

    def _payload_bytes_max(self) -> int:
        limits = (self.limits.payload_bytes_max, self.limits.bytes_in_flight)
        return min([self._chunk_bytes, *(limit for limit in limits if limit)])

    def _window_open(self, next_bytes: int = 1) -> bool:
        count, size = self._buffer.in_flight(self._received, self._sent)
        if not count:
            return True  # a batch larger than the whole window must pass, too
        batches_max, bytes_max = self.limits.batches_in_flight, self.limits.bytes_in_flight
        return (not batches_max or count < batches_max) and (not bytes_max or size + next_bytes <= bytes_max)

    def _can_cut(self) -> bool:
        """Whether the window, and a flush that is under way, let a new chunk pass."""
        flushing = self._flush_wanted > self._flush_done
        if not self._buffer.piece_bytes or self._flush_sent > self._flush_done:
            return False
        if flushing and self._buffer.cut >= self._flush_target:
            return False
        return self._window_open(min(self._buffer.piece_bytes, self._payload_bytes_max()))

    def _may_cut(self, now_s: float) -> bool:
        if not self._can_cut():
            return False
        # Nagle's rule with a deadline: alone it goes at once, behind others it waits to become larger.
        ripe = self._buffer.piece_bytes >= self._chunk_bytes or now_s - self._buffer.oldest_piece_s >= self._linger_s
        hurry = self._flush_wanted > self._flush_done or self._finish_wanted
        return ripe or hurry or self._received == self._sent

    def _next_batch(self) -> ingest_service_pb2.AppendRequest | None:
        chunk = self._buffer.chunk_at(self._sent, self._payload_bytes_max())
        if not self._window_open(len(chunk.payload)):
            return None
        self._sent = chunk.next_offset
        batch = ingest_service_pb2.AppendRequest.Batch(
            offset=chunk.offset, next_offset=chunk.next_offset, crc32c=chunk.crc32c, payload=chunk.payload
        )
        return ingest_service_pb2.AppendRequest(batch=batch)

    def _next_control(self) -> ingest_service_pb2.AppendRequest | None:
        if self._received < self._sent:
            return None
        if self._flush_wanted > self._flush_done and self._buffer.cut >= self._flush_target:
            if self.durable_offset >= self._flush_target:
                self._flush_done = self._flush_sent = self._flush_wanted
            elif self._flush_sent == self._flush_done:
                self._flush_sent = self._flush_wanted
                return ingest_service_pb2.AppendRequest(flush=ingest_service_pb2.AppendRequest.Flush())
            else:
                return None
        if self._finish_wanted and not self._buffer.piece_bytes:
            self._finish_sent = True
            return ingest_service_pb2.AppendRequest(finish=ingest_service_pb2.AppendRequest.Finish())
        return None

    def _violation(self, problem: str) -> Never:
        raise AppendProtocolError(problem)
