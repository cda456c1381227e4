"""The way from payloads to acknowledgements: decode, protect, journal, with natural batching.

While one group is being decoded and protected (one worker thread; the libraries release the GIL), what arrives
is coalesced into the next, up to `group_bytes_max`. So a quiet server answers in milliseconds, and a busy one
works in the large pieces that are cheap. A second task commits: group n is written to the journal while group
n + 1 is decoded. One source's payloads keep their order throughout.

Rules:
* A `Job` is settled exactly once: `committed`, `refused` or dropped because its lane died.
* When a job of a lane is refused, its lane is dead: later jobs of the lane, queued or decoded, are dropped.
* Nothing is acknowledged before `Journal.append` returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.domain.errors import HeimdallError, OverloadedError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.services.ingest.logic import metrics

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What the pipeline holds and how much it works on at once."""

    group_bytes_max: int = 16 * 1024 * 1024
    """Payload bytes decoded together, and so about the size of a journal frame."""
    queue_bytes_max: int = 256 * 1024 * 1024
    """Payload bytes waiting; who offers more is refused (the budget in front of it makes that rare)."""


class Job(Protocol):
    """A piece of work: some payload bytes that become records of one frame."""

    size_bytes: int

    @property
    def key(self) -> object:
        """Jobs of one key that wait together become one (`absorb`): larger pieces are cheaper a record."""
        ...

    def absorb(self, later: Job) -> bool:
        """Take over a later job of the same key; False: it must stay on its own."""
        ...

    def stale(self) -> bool:
        """Whether the stream went back since: then the job is dropped."""
        ...

    def decode(self, observed_time_ns: int) -> Sequence[pa.RecordBatch]:
        """Worker thread: payload to `RECORD_SCHEMA` batches.

        Raises:
            HeimdallError: Nothing of the job is kept.
        """
        ...

    def describe(self, entry: Entry, first_row: int, observed_time_ns: int) -> Entry:
        """Event loop: add what the frame must say about the job (marks, dead letters)."""
        ...

    def begin_commit(self) -> None:
        """Event loop: from here on the job may become durable at any moment."""
        ...

    def committed(self, position: int) -> None:
        """Event loop: it is durable. `position` is 0 if the job had nothing to write."""
        ...

    def refused(self, error: BaseException) -> None:
        """Event loop: nothing of it was kept."""
        ...

    def dropped(self) -> None:
        """Event loop: it was stale, and is gone."""
        ...


@dataclass(slots=True)
class _Run:
    """Some jobs of one key, decoded."""

    job: Job
    first_row: int
    row_count: int
    failure: BaseException | None = None


@dataclass(slots=True)
class _Group:
    """What is written as one frame."""

    runs: list[_Run]
    protected: Protected | None
    observed_time_ns: int
    size_bytes: int
    elapsed_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)


class Pipeline:
    """See the module. `start` and `close` belong to the event loop that uses it."""

    def __init__(self, *, journal: Journal, protector: Protector, clock: Clock, limits: PipelineLimits) -> None:
        self._journal = journal
        self._protector = protector
        self._clock = clock
        self._limits = limits
        self._queue: deque[Job] = deque()
        self._queued_bytes = 0
        self._working_bytes = 0
        self._arrived = asyncio.Event()
        self._commits: asyncio.Queue[_Group | None] = asyncio.Queue(maxsize=1)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ingest-decode")
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._bytes_per_s = 0.0

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [
            asyncio.create_task(self._decode_loop(), name="ingest-decode"),
            asyncio.create_task(self._commit_loop(), name="ingest-commit"),
        ]

    async def close(self) -> None:
        """Finish what was submitted, then stop. Idempotent."""
        self._closing = True
        self._arrived.set()
        if self._tasks:
            await asyncio.gather(*self._tasks)
            self._tasks = []
        self._worker.shutdown(wait=True)

    def submit(self, job: Job) -> None:
        """Queue a job; it is settled through its callbacks.

        Raises:
            OverloadedError: The queue is full, or the pipeline is closing.
        """
        if self._closing or self._queued_bytes + job.size_bytes > self._limits.queue_bytes_max:
            raise OverloadedError(retry_after_s=max(0.5, self.wait_estimate_s()))
        self._queue.append(job)
        self._queued_bytes += job.size_bytes
        metrics.QUEUED_BYTES.set(self._queued_bytes + self._working_bytes)
        self._arrived.set()

    def wait_estimate_s(self) -> float:
        """How long a job that came now would wait for its acknowledgement, by the rate of late."""
        if not self._bytes_per_s:
            return 0.0
        return (self._queued_bytes + self._working_bytes) / self._bytes_per_s

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        newest: dict[object, Job] = {}
        size = 0
        while self._queue and (not jobs or size + self._queue[0].size_bytes <= self._limits.group_bytes_max):
            job = self._queue.popleft()
            size += job.size_bytes
            self._queued_bytes -= job.size_bytes
            if job.stale():
                job.dropped()
                continue
            before = newest.get(job.key)
            if before is None or not before.absorb(job):
                jobs.append(job)
                newest[job.key] = job
        self._working_bytes += size
        return jobs

    async def _decode_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if not self._queue:
                if self._closing:
                    await self._commits.put(None)
                    return
                self._arrived.clear()
                continue
            before = self._working_bytes
            jobs = self._take()
            size = self._working_bytes - before
            now_ns = self._clock.now_ns()
            try:
                group = await loop.run_in_executor(self._worker, self._process, jobs, now_ns, size)
            except Exception as error:
                # Protect failed: nothing may pass unprotected, so the whole group is refused (in its turn).
                LOG.exception("ingest group failed", extra={"event": "ingest.group_failed"})
                group = _Group([_Run(job, 0, 0, error) for job in jobs], None, now_ns, size)
            await self._commits.put(group)

    def _process(self, jobs: list[Job], now_ns: int, size_bytes: int) -> _Group:
        started = time.monotonic()
        runs: list[_Run] = []
        batches: list[pa.RecordBatch] = []
        row = 0
        for job in jobs:
            try:
                made = [] if job.stale() else job.decode(now_ns)
            except HeimdallError as error:
                runs.append(_Run(job, row, 0, error))
                continue
            except Exception as error:
                # A bug in a decoder must cost its own batch only.
                LOG.exception("decoder failed", extra={"event": "ingest.decoder_failed"})
                runs.append(_Run(job, row, 0, error))
                continue
            count = sum(int(batch.num_rows) for batch in made)
            batches.extend(batch for batch in made if batch.num_rows)
            runs.append(_Run(job, row, count))
            row += count
        decoded_s = time.monotonic()
        metrics.STAGE_SECONDS.labels("decode").observe(decoded_s - started)
        protected = None
        if batches:
            protected = self._protector.protect(_concat(batches))
            metrics.STAGE_SECONDS.labels("protect").observe(time.monotonic() - decoded_s)
            metrics.GROUP_RECORDS.observe(row)
            for name, count in protected.hits.items():
                metrics.PROTECTED.labels(name).inc(count)
        return _Group(runs, protected, now_ns, size_bytes, time.monotonic() - started)

    async def _commit_loop(self) -> None:
        while (group := await self._commits.get()) is not None:
            try:
                await self._commit(group)
            finally:
                self._working_bytes -= group.size_bytes
                metrics.QUEUED_BYTES.set(self._queued_bytes + self._working_bytes)

    async def _commit(self, group: _Group) -> None:
        batch = group.protected.batch if group.protected else None
        live: list[_Run] = []
        parts: list[pa.RecordBatch] = []
        row = 0
        dropped = False
        for run in group.runs:
            if run.job.stale():
                run.job.dropped()
            elif run.failure is not None:
                run.job.refused(run.failure)
            if run.failure is not None or run.job.stale():
                dropped = dropped or run.row_count > 0
                continue
            if batch is not None and run.row_count:
                parts.append(batch.slice(run.first_row, run.row_count))
            live.append(_Run(run.job, row, run.row_count))
            row += run.row_count
        if dropped:
            batch = _concat(parts) if parts else None
        entry = Entry(batch=batch, sidecars=group.protected.sidecars if group.protected else {})
        for run in live:
            entry = run.job.describe(entry, run.first_row, group.observed_time_ns)
        if not live:
            return
        if batch is None and not (entry.sources or entry.requests or entry.dead_letters or entry.resolved_letters):
            for run in live:
                run.job.committed(0)
            return
        for run in live:
            run.job.begin_commit()
        started = time.monotonic()
        try:
            (position,) = await self._journal.append([entry])
        except Exception as error:
            if not isinstance(error, HeimdallError):
                LOG.exception("journal append failed", extra={"event": "ingest.append_failed"})
            for run in live:
                run.job.refused(error)
            return
        metrics.STAGE_SECONDS.labels("journal").observe(time.monotonic() - started)
        self._note_rate(group)
        for run in live:
            run.job.committed(position)

    def _note_rate(self, group: _Group) -> None:
        elapsed = max(time.monotonic() - group.started_s + group.elapsed_s, 1e-3)
        rate = group.size_bytes / elapsed
        # Small groups say little about what the pipeline can do: their fixed costs dominate.
        if group.size_bytes > self._limits.group_bytes_max // 16 or not self._bytes_per_s:
            self._bytes_per_s = 0.8 * self._bytes_per_s + 0.2 * rate if self._bytes_per_s else rate


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches)
