"""Follows the journal into the warm store, exactly once, and says how far it has come.

A batch of frames is *intended* (durably), inserted, then checkpointed. After a crash, or a failure of the
store, `LogStore.recover` decides what became of the intended range (`adr/0003`). Content that the store
refuses is halved until the bad records are found: they become dead letters, and the projection goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from heimdall_server.domain.errors import InvalidInputError, StoreError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.records import with_position
from heimdall_server.language.parser import parse
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Deletion, Frame, Journal, Positions
from heimdall_server.ports.log_store import FrameRange, LogStore
from heimdall_server.projections.checkpoint import Checkpoint, CheckpointFile, Intent
from heimdall_server.projections.read_ahead import ReadAhead, ReadLimits, rows_of
from heimdall_server.projections.resume import Resumed, resume


class ProjectionState(enum.StrEnum):
    """What a projection is doing."""

    STARTING = "starting"
    """Recovering what a crash left."""
    RUNNING = "running"
    RETRYING = "retrying"
    """The store fails; the same range is tried again."""
    FAILED = "failed"
    """It can't go on without a person: the journal is damaged or has lost what is needed."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for a store that fails: doubled each time, with jitter."""

    first_wait_s: float = 0.2
    wait_s_max: float = 15.0


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that the store will never take. The same one may be told again after a crash."""

    shard: int
    position: int
    row: int
    reason: str
    """Without values of the record."""
    record: pa.RecordBatch
    """One row of `POSITIONED_SCHEMA`."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One batch that is in the store, for metrics."""

    range: FrameRange
    row_count: int
    elapsed_s: float
    """From intent to checkpoint, retries included."""


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """How far the projection has come."""

    state: ProjectionState
    visible_through: dict[int, int]
    """Shard → position: everything up to it is in the store, and queries see it."""
    lag_positions: int
    """Durable frames that are not in the store."""
    lag_rows: int
    """Their records, of those that were read already."""
    lag_s: float
    """Age of the oldest of them; 0: none."""
    row_count: int
    """Records inserted since the start."""
    refused_count: int
    """Records refused since the start."""
    retry_count: int
    """Failures of the store since the start."""
    problem: str = ""
    """The last failure, while RETRYING or FAILED."""
    notice: str = ""
    """What was found and done at the start, if anything was unusual."""
    records_gone: bool = False
    """Whether the store lacks records that it once had and that the journal no longer has."""


@dataclass(frozen=True, slots=True)
class WarmHooks:
    """Who hears what."""

    on_applied: Callable[[Applied], None] = lambda _: None
    """After a batch is visible: metrics."""
    on_deleted: Callable[[str, int], None] = lambda _, __: None
    """After a deletion (its id) was applied, with the records that went; again after a crash or in a replay."""
    on_refused: Callable[[Sequence[RefusedRecord]], Awaitable[None]] | None = None
    """Before the batch is checkpointed: keeps the dead letters."""
    on_advanced: Callable[[Positions], Awaitable[None]] | None = None
    """After the checkpoint is durable: lets the journal be trimmed."""
    step: Callable[[str], None] = lambda _: None
    """Told each step before it is taken; a test kills the process there."""


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    refused: int = 0
    retries: int = 0
    problem: str = ""
    state: ProjectionState = ProjectionState.STOPPED
    applying_since_ns: int = 0
    readers: dict[int, ReadAhead] = field(default_factory=dict)


class WarmProjection:
    """The projection into the warm store. One `run` at a time."""

    def __init__(
        self,
        journal: Journal,
        store: LogStore,
        checkpoints: CheckpointFile,
        clock: Clock,
        *,
        limits: ReadLimits | None = None,
        retry: RetryPolicy | None = None,
        hooks: WarmHooks | None = None,
    ) -> None:
        self._journal = journal
        self._store = store
        self._checkpoints = checkpoints
        self._clock = clock
        self._limits = limits or ReadLimits()
        self._retry = retry or RetryPolicy()
        self._hooks = hooks or WarmHooks()
        self._checkpoint = Checkpoint(journal.journal_id)
        self._resumed = Resumed(self._checkpoint)
        self._counts = _Counts()
        self._inserting = asyncio.Lock()
        self._advanced = asyncio.Condition()

    @property
    def visible_through(self) -> dict[int, int]:
        """Shard → position up to which queries see everything."""
        return dict(self._checkpoint.positions)

    @property
    def lag_s(self) -> float:
        """Age of the oldest durable record that queries don't see yet; 0: none."""
        return self.progress.lag_s

    @property
    def progress(self) -> WarmProgress:
        """State and lag, now. Cheap."""
        counts = self._counts
        lag = sum(max(0, last - self._checkpoint.position(shard)) for shard, last in self._journal.head().items())
        oldest = [reader.oldest_time_ns for reader in counts.readers.values() if reader.oldest_time_ns]
        if counts.applying_since_ns:
            oldest.append(counts.applying_since_ns)
        return WarmProgress(
            state=counts.state,
            visible_through=self.visible_through,
            lag_positions=lag,
            lag_rows=sum(reader.held_rows for reader in counts.readers.values()),
            lag_s=max(0, self._clock.now_ns() - min(oldest)) / 1e9 if oldest and lag else 0.0,
            row_count=counts.rows,
            refused_count=counts.refused,
            retry_count=counts.retries,
            problem=counts.problem,
            notice=self._resumed.notice,
            records_gone=self._resumed.lost,
        )

    async def wait_through(self, positions: Positions, timeout_s: float) -> bool:
        """Wait until everything up to some positions is visible.

        Returns:
            False if the time ran out first.
        """
        try:
            async with asyncio.timeout(timeout_s), self._advanced:
                await self._advanced.wait_for(
                    lambda: all(self._checkpoint.position(shard) >= last for shard, last in positions.items())
                )
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Recover, then follow the journal until cancelled.

        A cancelled insert leaves its intent, and the next `run` recovers it.

        Raises:
            ConfigurationError: The checkpoint or the store belongs to another journal.
            CorruptionError: The journal is damaged at the next position.
            NotFoundError: The next frames are gone from the journal: rebuild.
        """
        counts = self._counts
        counts.state = ProjectionState.STARTING
        try:
            await self._resume()
            await self._recover()
            await self._tell()
            counts.state = ProjectionState.RUNNING
            async with asyncio.TaskGroup() as tasks:
                for shard in self._journal.head():
                    reader = ReadAhead(self._journal, shard, self._clock, self._limits)
                    counts.readers[shard] = reader
                    tasks.create_task(reader.run(self._checkpoint.position(shard)))
                    tasks.create_task(self._follow(shard, reader))
        except asyncio.CancelledError:
            counts.state = ProjectionState.STOPPED
            raise
        except BaseExceptionGroup as group:
            counts.state, counts.problem = ProjectionState.FAILED, str(group.exceptions[0])
            raise group.exceptions[0] from group
        except Exception as error:
            counts.state, counts.problem = ProjectionState.FAILED, str(error)
            raise
        finally:
            counts.readers.clear()
            counts.applying_since_ns = 0

    async def _resume(self) -> None:
        failures = 0
        while True:
            try:
                self._resumed = await resume(self._journal, self._store, self._checkpoints)
                break
            except StoreError as error:
                await self._back_off(failures, error)
                failures += 1
        self._checkpoint = self._resumed.checkpoint

    async def _recover(self) -> None:
        intent = self._checkpoint.intent
        if intent is None:
            return
        if await self._find_out(FrameRange(intent.shard, intent.first, intent.last), intent.rows):
            # Its records are whole, so they won't come by again; what was to be deleted behind them isn't known to be.
            frames = self._journal.read_control(intent.shard, after=intent.first - 1, through=intent.last)
            async for frame in frames:
                for deletion in frame.entry.deletions:
                    await self._delete(intent.shard, deletion)
            await self._advance(intent.shard, intent.last)

    async def _follow(self, shard: int, reader: ReadAhead) -> None:
        while True:
            frames = await reader.take()
            async with self._inserting:
                await self._apply(shard, frames)

    async def _apply(self, shard: int, frames: Sequence[Frame]) -> None:
        started_s = self._clock.monotonic_s()
        self._counts.applying_since_ns = frames[0].time_ns
        range_ = FrameRange(shard, frames[0].position, frames[-1].position)
        batches = [
            with_position(frame.entry.batch, shard=shard, position=frame.position)
            for frame in frames
            if frame.entry.batch is not None and frame.entry.batch.num_rows
        ]
        row_count = sum(rows_of(frame) for frame in frames)
        if batches:
            refused = await self._insert_once(range_, batches, row_count)
            if refused:
                self._counts.refused += len(refused)
                if self._hooks.on_refused is not None:
                    await self._hooks.on_refused(refused)
            row_count -= len(refused)
        for deletion in (one for frame in frames for one in frame.entry.deletions):
            await self._delete(shard, deletion)
        await self._advance(shard, range_.last)
        self._counts.applying_since_ns = 0
        self._counts.rows += row_count
        self._hooks.on_applied(Applied(range_, row_count, self._clock.monotonic_s() - started_s))

    async def _delete(self, shard: int, deletion: Deletion) -> None:
        """Take out what a deletion means, however often the store fails.

        It is done before the checkpoint passes its frame, so a crash only makes it be done again; and what a replay
        of the journal brings back goes again when the replay comes by here.
        """
        filter_ = parse(deletion.filter, now_ns=0).filter
        time_range = TimeRange(deletion.start_time_ns, deletion.end_time_ns)
        failures = 0
        while True:
            self._hooks.step("delete")
            try:
                count = await self._store.delete(
                    filter_, time_range=time_range, datasets=deletion.datasets, through={shard: deletion.through}
                )
                break
            except StoreError as error:
                await self._back_off(failures, error)
                failures += 1
        self._counts.state, self._counts.problem = ProjectionState.RUNNING, ""
        self._hooks.on_deleted(deletion.deletion_id, count)

    async def _insert_once(
        self, range_: FrameRange, batches: Sequence[pa.RecordBatch], row_count: int
    ) -> list[RefusedRecord]:
        """Insert a range, however often the store fails."""
        failures = 0
        while True:
            token = f"{self._journal.journal_id}/{range_.shard}/{range_.first}-{range_.last}/{uuid.uuid4().hex}"
            try:
                intent = Intent(range_.shard, range_.first, range_.last, row_count, token)
                await self._store_checkpoint(self._checkpoint.intending(intent), "intent")
                self._hooks.step("insert")
                refused = await self._insert_good(range_, batches, token)
            except StoreError as error:
                await self._back_off(failures, error)
                failures += 1
                if await self._find_out(range_, row_count):
                    refused = []
                else:
                    continue
            self._counts.state, self._counts.problem = ProjectionState.RUNNING, ""
            return refused

    async def _insert_good(
        self, range_: FrameRange, batches: Sequence[pa.RecordBatch], token: str
    ) -> list[RefusedRecord]:
        """Insert what the store takes; halve what it refuses."""
        try:
            await self._store.insert(range_, batches, token=token)
        except InvalidInputError as error:
            count = sum(batch.num_rows for batch in batches)
            if count == 1:
                return [_refused(batches[0], str(error))]
            left, right = _halved(batches, count // 2)
            bad = await self._insert_good(_covered(left), left, f"{token}0")
            return bad + await self._insert_good(_covered(right), right, f"{token}1")
        return []

    async def _find_out(self, range_: FrameRange, row_count: int) -> bool:
        failures = 0
        while True:
            self._hooks.step("recover")
            try:
                return await self._store.recover(range_, row_count)
            except StoreError as error:
                await self._back_off(failures, error)
                failures += 1

    async def _back_off(self, failures: int, error: StoreError) -> None:
        counts = self._counts
        counts.retries += 1
        counts.state, counts.problem = ProjectionState.RETRYING, str(error)
        wait_s = min(self._retry.wait_s_max, self._retry.first_wait_s * 2 ** min(failures, 16))
        # Jitter, not secrecy: many projections must not knock at once when a store comes back.
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def _advance(self, shard: int, position: int) -> None:
        failures = 0
        while True:
            try:
                await self._store_checkpoint(self._checkpoint.advanced(shard, position), "checkpoint")
                break
            except StoreError as error:
                await self._back_off(failures, error)
                failures += 1
        if self._counts.state is ProjectionState.RETRYING:
            self._counts.state, self._counts.problem = ProjectionState.RUNNING, ""
        await self._tell()
        self._hooks.step("advanced")
        if self._hooks.on_advanced is not None:
            with contextlib.suppress(StoreError):
                # Trimming is tried again with the next batch.
                await self._hooks.on_advanced(self.visible_through)

    async def _tell(self) -> None:
        """Let the store and whoever waits know where the projection stands."""
        self._store.settled(self.visible_through)
        async with self._advanced:
            self._advanced.notify_all()

    async def _store_checkpoint(self, checkpoint: Checkpoint, step: str) -> None:
        self._hooks.step(step)
        await asyncio.to_thread(self._checkpoints.store, checkpoint)
        self._checkpoint = checkpoint


def _halved(batches: Sequence[pa.RecordBatch], count: int) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """The first `count` rows, and the others."""
    left: list[pa.RecordBatch] = []
    right: list[pa.RecordBatch] = []
    for batch in batches:
        taken = min(count, batch.num_rows)
        if taken:
            left.append(batch.slice(0, taken))
        if taken < batch.num_rows:
            right.append(batch.slice(taken))
        count -= taken
    return left, right


def _covered(batches: Sequence[pa.RecordBatch]) -> FrameRange:
    """The frames that some records are of."""
    first, last = batches[0], batches[-1]
    return FrameRange(
        int(first.column("shard")[0].as_py()),
        int(first.column("position")[0].as_py()),
        int(last.column("position")[last.num_rows - 1].as_py()),
    )


def _refused(batch: pa.RecordBatch, reason: str) -> RefusedRecord:
    shard, position, row = (int(batch.column(name)[0].as_py()) for name in ("shard", "position", "row"))
    return RefusedRecord(shard, position, row, reason, batch)
