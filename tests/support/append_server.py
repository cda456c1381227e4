"""A model of the server's half of `Append`, without I/O: what a source holds, and what a message is answered with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import google_crc32c
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall.ingest.v1 import ingest_service_pb2, source_pb2
from heimdall.types.v1 import position_pb2

Request = ingest_service_pb2.AppendRequest
Response = ingest_service_pb2.AppendResponse


def status_of(
    code: int, reason: str, *, message: str = "refused", retry_s: float | None = None, field_path: str = ""
) -> status_pb2.Status:
    """A status as a Heimdall server makes it."""
    status = status_pb2.Status(code=code, message=message)
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(domain="heimdall", reason=reason, metadata={"note": "x"}))
    status.details.append(info)
    if retry_s is not None:
        retry = any_pb2.Any()
        nanos = round(retry_s * 1e9)
        delay = duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(retry)
    if field_path:
        bad = any_pb2.Any()
        violation = error_details_pb2.BadRequest.FieldViolation(field=field_path, description="must be otherwise")
        bad.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        status.details.append(bad)
    return status


@dataclass
class SourceModel:
    """One source. A record is a line; what follows the last newline is held."""

    stored: bytearray = field(default_factory=bytearray)
    """Durable."""
    epoch: int = 0
    finished: bool = False
    opens: list[Request.Open] = field(default_factory=list)
    accepted_count: int = 0
    counts_records: bool = False
    record_count: int = 0
    payloads: list[bytes] = field(default_factory=list)
    limits: Response.Limits = field(
        default_factory=lambda: Response.Limits(
            batches_in_flight=4, bytes_in_flight=8 << 20, payload_bytes_max=4 << 20, record_bytes_max=1 << 20
        )
    )
    batch_count: int = 0
    most_in_flight_bytes: int = 0
    """Most payload bytes that were received and not answered at once."""

    @property
    def next_offset(self) -> int:
        """Where the source goes on."""
        return self.record_count if self.counts_records else len(self.stored)


class StreamModel:
    """One stream of a source. `handle` takes a message; what isn't answered at once waits for `commit`."""

    def __init__(self, source: SourceModel) -> None:
        self.source = source
        self.tail = b""
        self.received = 0
        self.going_back = False
        self.jobs: deque[Request.Batch | Request.Flush | Request.Finish] = deque()

    def handle(self, request: Request, *, nack: status_pb2.Status | None = None) -> list[Response]:
        """Take a message."""
        source = self.source
        kind = request.WhichOneof("message")
        if kind == "open":
            source.opens.append(request.open)
            source.epoch += 1
            source.counts_records = request.open.format.kind == source_pb2.Format.KIND_ARROW
            self.received = source.next_offset
            return [
                Response(opened=Response.Opened(next_offset=self.received, epoch=source.epoch, limits=source.limits))
            ]
        if kind == "batch":
            return self._batch(request.batch, nack)
        self.jobs.append(request.flush if kind == "flush" else request.finish)
        return []

    def _batch(self, batch: Request.Batch, nack: status_pb2.Status | None) -> list[Response]:
        self.source.batch_count += 1
        if self.going_back and batch.offset != self.received:
            return []
        if nack is not None:
            self.going_back = True
            return [Response(nack=Response.Nack(offset=batch.offset, status=nack))]
        assert google_crc32c.value(batch.payload) == batch.crc32c
        assert len(batch.payload) <= self.source.limits.payload_bytes_max
        assert batch.offset == self.received, "a gap, or sent twice on one stream"
        self.going_back = False
        self.received = batch.next_offset
        self.jobs.append(batch)
        waiting = sum(len(job.payload) for job in self.jobs if isinstance(job, Request.Batch))
        self.source.most_in_flight_bytes = max(self.source.most_in_flight_bytes, waiting)
        return []

    def refuse(self, status: status_pb2.Status) -> list[Response]:
        """The oldest job fails: the stream goes back to what is durable."""
        self.jobs.clear()
        self.tail = b""
        self.received = self.source.next_offset
        self.going_back = True
        return [Response(nack=Response.Nack(offset=self.received, status=status))]

    def commit(self) -> list[Response]:
        """The oldest job becomes durable."""
        if not self.jobs:
            return []
        job = self.jobs.popleft()
        source = self.source
        answers: list[Response] = []
        before = source.accepted_count
        if isinstance(job, Request.Batch) and source.counts_records:
            assert job.offset == source.record_count
            source.payloads.append(job.payload)
            source.record_count = job.next_offset
            source.accepted_count = job.next_offset
        elif isinstance(job, Request.Batch):
            self.tail += job.payload
            cut = self.tail.rfind(b"\n") + 1
            source.accepted_count += self.tail[:cut].count(b"\n")
            source.stored += self.tail[:cut]
            self.tail = self.tail[cut:]
        elif isinstance(job, Request.Finish):
            source.accepted_count += bool(self.tail)
            source.stored += self.tail
            self.tail = b""
            source.finished = True
        held = 0 if source.counts_records else len(self.tail)
        answers.append(
            Response(
                ack=Response.Ack(
                    next_offset=source.next_offset,
                    received_offset=source.next_offset + held,
                    accepted_count=source.accepted_count - before,
                    position=position_pb2.Position(journal_id="j", shards={0: source.accepted_count}),
                )
            )
        )
        if isinstance(job, Request.Finish):
            finished = Response.Finished(next_offset=source.next_offset, accepted_count=source.accepted_count)
            answers.append(Response(finished=finished))
        return answers


JOURNAL_FULL = status_of(code_pb2.RESOURCE_EXHAUSTED, "JOURNAL_FULL", retry_s=0.05)
