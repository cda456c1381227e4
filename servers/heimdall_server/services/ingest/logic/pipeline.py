"""The way from payloads to acknowledgements: decode, protect, journal, with natural batching.

While one group is being decoded and protected (one worker thread; the libraries release the GIL), what arrives
is coalesced into the next, up to `group_bytes_max`. So a quiet server answers in milliseconds, and a busy one
works in the large pieces that are cheap. A second task commits: group n is written to the journal while group
n + 1 is decoded. One source's payloads keep their order throughout; sources share a group fairly (`FairQueue`).

Rules:
* A `Job` is settled exactly once: `committed`, `refused` or `dropped`, and jobs of one turn in their order.
* When a job of a lane is refused, its lane is dead: later jobs of the lane, queued or decoded, are dropped.
* Nothing is acknowledged before `Journal.append` returned.
* A job that can't be decoded or protected costs nobody else anything: its group goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import DrainingError, HeimdallError, OverloadedError
from heimdall_server.domain.sealed_values import joined
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.fair_queue import FairQueue
from heimdall_server.services.ingest.logic.jobs import Job, Notes, Room, protected
from heimdall_server.services.ingest.logic.throughput import Throughput

LOG: Final = logging.getLogger(__name__)
RETRY_S_MIN: Final = 0.5
"""A caller who finds the queue full is told to wait at least this long."""


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What the pipeline holds and how much it works on at once."""

    group_bytes_max: int = 16 * 1024 * 1024
    """Payload bytes decoded together."""
    group_rows_max: int = 131_072
    """Records of a group, and so of a journal frame; the piece with which it is reached still goes in."""
    group_decoded_bytes_max: int = 128 * 1024 * 1024
    """Bytes that a group's records take in columns, likewise."""
    queue_bytes_max: int = 256 * 1024 * 1024
    """Payload bytes waiting; who offers more is refused (the budget in front of it makes that rare)."""


@dataclass(slots=True)
class _Run:
    """A job and its records in the group."""

    job: Job
    first_row: int
    row_count: int
    failure: BaseException | None = None
    dropped: bool = False


@dataclass(slots=True)
class _Group:
    """What is written as one frame."""

    runs: list[_Run]
    left: list[Job]
    """Jobs for which there was no room."""
    protected: Protected | None
    observed_time_ns: int
    taken_s: float
    size_bytes: int = 0


class Pipeline:
    """See the module. `start` and `close` belong to the event loop that uses it."""

    def __init__(
        self,
        *,
        journal: Journal,
        protector: Protector,
        clock: Clock,
        limits: PipelineLimits,
        worker: Executor | None = None,
        piece_bytes_max: int | None = None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a pipeline.

        Args:
            journal: Where groups become durable.
            protector: What stands before it.
            clock: Stamps the observed time of a group.
            limits: See there.
            worker: Where groups are decoded, one at a time, and their notes protected; None: a thread of its own for each.
            piece_bytes_max: Payload bytes decoded at once, where groups are to be small; None: all that came together.
            interrupt: Makes the protector end what it works on, when `close` can't wait for it any longer.
        """
        self._journal = journal
        self._protector = protector
        self._clock = clock
        self._limits = limits
        self._piece_bytes_max = piece_bytes_max
        self._interrupt = interrupt
        self._noted_bytes = 0
        self._queue = FairQueue()
        self._working_bytes = 0
        self._arrived = asyncio.Event()
        self._commits: asyncio.Queue[_Group | None] = asyncio.Queue(maxsize=1)
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="ingest-decode")
        # Of its own, since a frame that is ready mustn't wait for the next group to be decoded.
        self._control_worker = worker or ThreadPoolExecutor(1, thread_name_prefix="ingest-control")
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._throughput = Throughput()
        self._groups_taken = 0
        self._groups_settled = 0
        self._settled = asyncio.Condition()

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [
            asyncio.create_task(self._decode_loop(), name="ingest-decode"),
            asyncio.create_task(self._commit_loop(), name="ingest-commit"),
        ]

    async def close(self, timeout_s: float | None = None) -> bool:
        """Finish what was submitted, then stop. Idempotent.

        Args:
            timeout_s: What isn't durable by then is dropped, unacknowledged; None: wait for all.

        Returns:
            Whether everything was finished.
        """
        self._closing = True
        self._arrived.set()
        tasks, self._tasks = self._tasks, []
        late: set[asyncio.Task[None]] = set()
        if tasks:
            done, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            for task in done:
                task.result()
        if late:
            self._interrupt()
        self._worker.shutdown(wait=True)
        self._control_worker.shutdown(wait=True)
        return not late

    async def barrier(self) -> None:
        """Wait until every group that is being worked on now is durable or dropped.

        What comes later is protected by the policy and the keys of then.
        """
        taken = self._groups_taken
        async with self._settled:
            await self._settled.wait_for(lambda: self._groups_settled >= taken)

    @property
    def queue_bytes_max(self) -> int:
        """See `PipelineLimits`."""
        return self._limits.queue_bytes_max

    @property
    def held_bytes(self) -> int:
        """Payload bytes that were submitted and aren't settled."""
        return self._queue.size_bytes + self._working_bytes

    def submit(self, job: Job) -> None:
        """Queue a job; it is settled through its callbacks.

        Raises:
            OverloadedError: The queue is full.
            DrainingError: The pipeline is closing.
        """
        if self._closing:
            raise DrainingError
        if self._queue.size_bytes + job.size_bytes > self._limits.queue_bytes_max:
            raise OverloadedError(retry_after_s=round(max(RETRY_S_MIN, self.wait_estimate_s()), 1))
        self._queue.put(job)
        self._arrived.set()
        self._note_held()

    def wait_estimate_s(self, size_bytes: int = 0) -> float:
        """How long so many bytes that came now would wait to be durable, by the rate of late."""
        return self._throughput.wait_s(self.held_bytes + size_bytes)

    def _note_held(self) -> None:
        if change := self.held_bytes - self._noted_bytes:
            self._noted_bytes += change
            metrics.QUEUED_BYTES.inc(change)

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
            taken_s = time.monotonic()
            jobs = self._queue.take(self._limits.group_bytes_max)
            size_bytes = sum(job.size_bytes for job in jobs)
            self._working_bytes += size_bytes
            if jobs:
                self._groups_taken += 1
                group = await loop.run_in_executor(self._worker, self._process, jobs, self._clock.now_ns(), taken_s)
                left = [job for job in (run.job.split() for run in group.runs) if job is not None] + group.left
                self._queue.put_back(left)
                group.size_bytes = size_bytes - sum(job.size_bytes for job in left)
                self._working_bytes -= size_bytes - group.size_bytes
                await self._commits.put(group)
            self._note_held()

    def _process(self, jobs: list[Job], now_ns: int, taken_s: float) -> _Group:
        """Worker thread: decode and protect. Never raises."""
        room = Room(self._limits.group_rows_max, self._limits.group_decoded_bytes_max, self._piece_bytes_max)
        started_s = time.monotonic()
        runs: list[_Run] = []
        batches: list[pa.RecordBatch] = []
        row = 0
        while jobs and not room.full:
            job = jobs.pop(0)
            try:
                made = [batch for batch in job.decode(now_ns, room) if batch.num_rows]
            except BaseException as error:  # noqa: BLE001 - a native library's panic is no Exception, and costs its own job only
                _log_bug("decoder failed", error)
                runs.append(_Run(job, row, 0, error))
                continue
            count = sum(int(batch.num_rows) for batch in made)
            batches.extend(made)
            runs.append(_Run(job, row, count))
            row += count
        decoded_s = time.monotonic()
        metrics.STAGE_DECODE.observe(decoded_s - started_s)
        group = _Group(runs, jobs, None, now_ns, taken_s)
        if batches:
            self._protect(group, batches)
            metrics.STAGE_PROTECT.observe(time.monotonic() - decoded_s)
        return group

    def _protect(self, group: _Group, batches: list[pa.RecordBatch]) -> None:
        if any(run.job.own_protection for run in group.runs):
            self._protect_one_by_one(group, batches)
        else:
            try:
                group.protected = self._protector.protect(_concat(batches))
            except BaseException as error:  # noqa: BLE001 - as above; nothing may pass unprotected
                _log_bug("protection failed", error)
                self._protect_one_by_one(group, batches)
        if group.protected is not None:
            metrics.GROUP_RECORDS.observe(group.protected.batch.num_rows)
            for name, count in group.protected.hits.items():
                metrics.PROTECTED.labels(name).inc(count)

    def _protect_one_by_one(self, group: _Group, batches: list[pa.RecordBatch]) -> None:
        """Job by job, as each wants it; those whose records can't be protected are left out."""
        good: list[Protected] = []
        settlers: tuple[Callable[[], None], ...] = ()
        row = 0
        pending = iter(batches)
        for run in group.runs:
            if not run.row_count:
                continue
            own: list[pa.RecordBatch] = []
            while sum(int(batch.num_rows) for batch in own) < run.row_count:
                own.append(next(pending))
            try:
                one = (run.job.own_protection or protected)(self._protector, _concat(own))
            except BaseException as error:  # noqa: BLE001 - as above
                _log_bug("protection of a job failed", error)
                run.failure, run.row_count = error, 0
                continue
            run.first_row, run.row_count = row, one.batch.num_rows
            row += run.row_count
            if run.row_count:
                good.append(one)
                settlers += one.settlers
        if good:
            hits: dict[str, int] = {}
            sidecars: dict[str, bytes] = {}
            for one in good:
                sidecars = joined(sidecars, one.sidecars)
                for name, count in one.hits.items():
                    hits[name] = hits.get(name, 0) + count
            group.protected = Protected(_concat([one.batch for one in good]), hits, sidecars, settlers)

    async def _commit_loop(self) -> None:
        while (group := await self._commits.get()) is not None:
            try:
                await self._commit(group)
            finally:
                self._working_bytes -= group.size_bytes
                self._note_held()
                async with self._settled:
                    self._groups_settled += 1
                    self._settled.notify_all()

    async def _commit(self, group: _Group) -> None:
        entry, live = self._entry_of(group)
        position = 0
        if entry is not None:
            for run in live:
                _settle(run.job.begin_commit)
            started_s = time.monotonic()
            settlers: tuple[Callable[[], None], ...] = ()
            try:
                if _speaks(entry):
                    loop = asyncio.get_running_loop()
                    control = await loop.run_in_executor(self._control_worker, self._protector.protect_control, entry)
                    entry, settlers = control.entry, control.settlers
                    for name, count in control.hits.items():
                        metrics.PROTECTED.labels(name).inc(count)
                (position,) = await self._journal.append([entry])
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                _log_bug("journal append failed", error)
                for run in live:
                    run.failure = error
            else:
                if group.protected is not None and entry.batch is not None:
                    group.protected.on_durable()
                for settle in settlers:
                    settle()
                end_s = time.monotonic()
                metrics.STAGE_JOURNAL.observe(end_s - started_s)
                self._throughput.note(group.size_bytes, taken_s=group.taken_s, end_s=end_s)
        tried = {id(run) for run in live}
        for run in group.runs:
            job, failure = run.job, run.failure
            if run.dropped or (failure is not None and id(run) not in tried and job.stale()):
                _settle(job.dropped)
            elif failure is not None:
                _settle(job.refused, failure)
            else:
                _settle(job.committed, position)

    def _entry_of(self, group: _Group) -> tuple[Entry | None, list[_Run]]:
        """The frame of a group, without what became stale since or failed (None: nothing to write), and who is in it."""
        batch = group.protected.batch if group.protected else None
        live: list[_Run] = []
        notes = Notes()
        row = 0
        for run in group.runs:
            run.dropped = run.failure is None and run.job.stale()
            if run.dropped or run.failure is not None:
                continue
            try:
                run.job.describe(notes, row, group.observed_time_ns)
            except Exception as error:  # noqa: BLE001 - a bug that must cost its own job only
                _log_bug("describing a job failed", error)
                run.failure = error
                continue
            row += run.row_count
            live.append(run)
        if batch is not None and row < batch.num_rows:
            kept = [batch.slice(run.first_row, run.row_count) for run in live if run.row_count]
            batch = _concat(kept) if kept else None
        if batch is None and not notes:
            return None, live
        sidecars = group.protected.sidecars if group.protected is not None and batch is not None else {}
        entry = Entry(batch, notes.sources, notes.requests, notes.dead_letters, notes.resolved_letters, sidecars)
        return entry, live


def _speaks(entry: Entry) -> bool:
    """Whether anything beside the records has words that somebody else chose."""
    return bool(
        entry.dead_letters
        or any('"header"' in mark.format for mark in entry.sources)
        or any(request.message for request in entry.requests)
    )


def _settle(callback: Callable[..., None], *arguments: object) -> None:
    """A bug in a job's callback must not stop the others' acknowledgements."""
    try:
        callback(*arguments)
    except Exception:
        LOG.exception("ingest callback failed", extra={"event": "ingest.callback_failed"})


def _log_bug(what: str, error: BaseException) -> None:
    if not isinstance(error, HeimdallError):
        LOG.error(what, extra={"event": "ingest.failed"}, exc_info=error)


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches)
