"""An OTLP Export: one request, one answer, a byte-identical repeat answered alike."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import otlp
from heimdall_server.domain.decoding import DecodeContext, Decoded, FormatKind
from heimdall_server.domain.errors import OverloadedError
from heimdall_server.domain.records import TimeFlag
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import DeadLetter, Entry, RequestMark, SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.dead_letters import context_to_json
from heimdall_server.services.ingest.logic.pipeline import Job, Pipeline
from heimdall_server.services.ingest.logic.state import IngestState


@dataclass(frozen=True, slots=True)
class Exported:
    """What an Export is answered."""

    accepted_count: int
    rejected_count: int
    message: str = ""
    repeated: bool = False


@dataclass(slots=True)
class ExportJob:
    """One request on its way through the pipeline."""

    owner: ExportUseCase
    principal: str
    payload: bytes
    digest: bytes
    context: DecodeContext
    answer: asyncio.Future[Exported]
    size_bytes: int
    received_s: float = field(default_factory=time.monotonic)
    decoded: Decoded | None = None
    all_timed: bool = False
    abandoned: bool = False
    """The caller is gone; if the job hasn't begun to commit, it needn't."""

    @property
    def key(self) -> object:
        """Requests never merge: each has its own answer."""
        return id(self)

    def absorb(self, later: Job) -> bool:  # noqa: ARG002 - the protocol's signature
        """See `Job`."""
        return False

    def stale(self) -> bool:
        """See `Job`."""
        return self.abandoned

    def decode(self, observed_time_ns: int) -> Sequence[pa.RecordBatch]:
        """See `Job`."""
        self.context = replace(self.context, observed_time_ns=observed_time_ns)
        self.decoded = otlp.decode([self.payload], self.context).decoded
        flags = self.decoded.batch.column("time_flags")
        self.all_timed = not pc.any(pc.not_equal(pc.bit_wise_and(flags, int(TimeFlag.MISSING)), 0)).as_py()
        return [self.decoded.batch]

    def result(self) -> Exported:
        """The answer, once decoded."""
        if self.decoded is None:
            return Exported(0, 0)
        errors = self.decoded.errors
        message = f"record {errors[0].row}: {errors[0].reason}" if errors else ""
        return Exported(int(self.decoded.batch.num_rows), len(errors), message)

    def describe(self, entry: Entry, first_row: int, observed_time_ns: int) -> Entry:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        if self.decoded is None or not self.decoded.record_count:
            return entry
        result = self.result()
        letters = [
            DeadLetter(
                key=SourceKey(self.principal, self.context.source),
                offset=error.offset,
                row=error.row,
                reason=error.reason,
                time_ns=observed_time_ns,
                raw=error.raw if self.owner.keep_raw else b"",
                format='{"kind":"otlp","options":{}}',
                context=context_to_json(self.context),
                field=error.field,
            )
            for error in self.decoded.errors
        ]
        marks = list(entry.requests)
        if self.all_timed:
            marks.append(
                RequestMark(
                    self.principal,
                    self.digest,
                    observed_time_ns,
                    result.accepted_count,
                    result.rejected_count,
                    result.message,
                )
            )
        return replace(entry, requests=marks, dead_letters=[*entry.dead_letters, *letters])

    def begin_commit(self) -> None:
        """See `Job`."""

    def committed(self, position: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        result = self.result()
        self.owner.committed(self, result)
        if not self.answer.done():
            self.answer.set_result(result)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def dropped(self) -> None:
        """See `Job`."""
        self.answer.cancel()


class ExportUseCase:
    """See the module."""

    def __init__(self, *, pipeline: Pipeline, state: IngestState, clock: Clock, dataset: str, keep_raw: bool) -> None:
        self._pipeline = pipeline
        self._state = state
        self._clock = clock
        self._dataset = dataset
        self._running: dict[tuple[str, bytes], asyncio.Future[Exported]] = {}
        self.keep_raw = keep_raw

    async def export(self, principal: str, name: str, payload: bytes, *, deadline_s: float | None) -> Exported:
        """Take in one `ExportLogsServiceRequest`.

        Args:
            principal: Who sends it.
            name: The principal's short name; the records' source is `otlp/<name>`.
            payload: The serialised request.
            deadline_s: Seconds that the caller will wait; None: as long as it takes.

        Raises:
            FormatError: It isn't such a request.
            OverloadedError: It couldn't be durable within the deadline, or the queue is full.
        """
        metrics.BYTES.labels("otlp").inc(len(payload))
        if not payload:
            return Exported(0, 0)
        digest = hashlib.sha256(payload).digest()
        now_ns = self._clock.now_ns()
        before = self._state.answer(principal, digest, now_ns)
        if before is not None:
            return Exported(before.accepted_count, before.rejected_count, before.message, repeated=True)
        running = self._running.get((principal, digest))
        if running is not None:
            # The same bytes are on their way: a retry of an impatient client. It gets the first one's answer, unless
            # records without a time make two equal requests two requests.
            await asyncio.wait([running])
            return await self.export(principal, name, payload, deadline_s=deadline_s)
        wait_s = self._pipeline.wait_estimate_s()
        if deadline_s is not None and wait_s > deadline_s:
            raise OverloadedError(retry_after_s=round(wait_s, 1))
        answer: asyncio.Future[Exported] = asyncio.get_running_loop().create_future()
        context = DecodeContext(source=f"otlp/{name}", dataset=self._dataset, observed_time_ns=now_ns)
        job = ExportJob(self, principal, payload, digest, context, answer, len(payload))
        self._pipeline.submit(job)
        self._running[(principal, digest)] = answer
        answer.add_done_callback(lambda _: self._running.pop((principal, digest), None))
        return await asyncio.shield(answer)

    def committed(self, job: ExportJob, result: Exported) -> None:
        """The job is durable."""
        metrics.RECORDS.labels("accepted", FormatKind.OTLP.value).inc(result.accepted_count)
        metrics.RECORDS.labels("rejected", FormatKind.OTLP.value).inc(result.rejected_count)
        metrics.ACK_SECONDS.observe(time.monotonic() - job.received_s)
        self._state.counts.accepted += result.accepted_count
        self._state.counts.rejected += result.rejected_count
