"""The embedded journal: the `Journal` port over a directory of encrypted segments. ADR 0002 has the format.

Group commit is natural: while one group is being encrypted, written and synced in the writer's thread, the
calls that arrive form the next. So a quiet journal answers after one fsync and a busy one shares each fsync
among all that wait. Everything but the work on bytes happens on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.domain.errors import (
    DrainingError,
    HeimdallError,
    InvalidArgumentError,
    JournalFullError,
    NotFoundError,
    StoreError,
)
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import ControlState, Entry, Frame, JournalState, Positions, Snapshot
from heimdall_server.storage.journal.config import FRAME_BYTES_MAX, JournalConfig
from heimdall_server.storage.journal.disk import OS_DISK, Disk
from heimdall_server.storage.journal.files import STORE, disk_errors
from heimdall_server.storage.journal.frame_source import FrameSource
from heimdall_server.storage.journal.reading import SHARD
from heimdall_server.storage.journal.recovery import Recovered, discard_empty, recover
from heimdall_server.storage.journal.segment import Segment
from heimdall_server.storage.journal.shelf import Shelf
from heimdall_server.storage.journal.writer import Commit, JournalWriter

_log = logging.getLogger(__name__)
_FRAME_OVERHEAD_BYTES: Final = 1024
"""What an entry weighs beside its columns and large values, for the bound."""
_SEGMENT_OVERHEAD_BYTES: Final = 16 * 1024
"""Heads of segments that an entry may need, for the bound."""
_SNAPSHOT_RETRY_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Call:
    entries: Sequence[Entry]
    size_bytes: int
    roll: bool
    outcome: asyncio.Future[Sequence[int]]


class EmbeddedJournal:
    """A `Journal` with one shard (0) in a directory. Belongs to the event loop it was opened on."""

    def __init__(
        self, config: JournalConfig, clock: Clock, recovered: Recovered, writer: JournalWriter, first: Segment
    ) -> None:
        self._config = config
        self._clock = clock
        self._meta = recovered.meta
        self._lock = recovered.lock
        self.copied_from = recovered.lock.copied_from
        """See `DirectoryLock`."""
        self._writer = writer
        self._shelf = Shelf(recovered.segments, head=recovered.head, cache_bytes=config.cache_bytes)
        self._source = FrameSource(self._shelf, read_bytes=config.read_bytes, threads=config.reader_threads)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal-write")
        self._waiting: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._group: Sequence[_Call] = ()
        self._wake = asyncio.Event()
        self._doomed: list[Segment] = []
        self._through = 0
        self._state: ControlState | None = None
        self._snapshot = recovered.snapshot
        self._snapshot_under_way = False
        self._snapshot_after_s = float("-inf")
        self._failure: StoreError | None = None
        self._closing = False
        self._refusing = ""
        self._closed: asyncio.Task[None] | None = None
        self._shelf.begin(first)
        self._task = asyncio.create_task(self._run(), name="journal-commit")
        self._task.add_done_callback(self._ended)

    @classmethod
    async def open(cls, config: JournalConfig, *, key: RootKey, clock: Clock, disk: Disk = OS_DISK) -> EmbeddedJournal:
        """Open a directory, made if missing; a torn tail is cut.

        Args:
            config: Where, and the limits.
            key: The key its segments are wrapped under.
            clock: Stamps frames and ages segments.
            disk: What the directory is on.

        Raises:
            ConfigurationError: Another process has the directory, or a newer version wrote it.
            KeyMismatchError: It was written under another key.
            CorruptionError: Something that was durable is damaged or gone; the place is named.
            StoreError: The disk failed, or is full.
        """
        return cls(config, clock, *await asyncio.to_thread(_open, config, key, clock, disk))

    @property
    def journal_id(self) -> str:
        """As the port says: 32 hexadecimal digits."""
        return self._meta.journal_id

    async def append(self, entries: Sequence[Entry]) -> Sequence[int]:
        """As the port says."""
        self._check_open()
        if not entries:
            return []
        size_bytes = sum(_weigh(entry) for entry in entries)
        try:
            self._check_bound(size_bytes)
            self._snapshot_if_due()
            positions = await self._submit(entries, size_bytes=size_bytes)
        except JournalFullError as error:
            self._note_refusal(error.bound)
            raise
        except StoreError:
            self._note_refusal("a failing disk")
            raise
        self._note_refusal("")
        return positions

    def head(self) -> Positions:
        """As the port says."""
        return {SHARD: self._shelf.head}

    def tail(self) -> Positions:
        """As the port says."""
        return {SHARD: self._shelf.tail}

    async def read(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """As the port says."""
        _check_shard(shard)
        async for frame in self._source.frames(after, through, with_batch=True):
            yield frame

    async def read_control(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """As the port says."""
        _check_shard(shard)
        last = self._shelf.head if through is None else min(through, self._shelf.head)
        async for frame in self._source.frames(after, last, with_batch=False):
            yield frame

    async def maintain(self, state: ControlState, *, shard: int = SHARD) -> None:
        """As the port says."""
        _check_shard(shard)
        if self._state is not None:
            msg = "the journal maintains a control state already"
            raise RuntimeError(msg)
        after = self._shelf.tail - 1
        if self._snapshot is not None:
            state.restore(self._snapshot.data)
            after = self._snapshot.through
        # Frames may be appended meanwhile; the state is taken on in the step that finds none left.
        while after < self._shelf.head:
            async for frame in self.read_control(shard, after=after):
                state.apply(frame)
                after = frame.position
        self._state = state

    async def wait(self, shard: int, *, after: int, timeout_s: float) -> bool:
        """As the port says."""
        _check_shard(shard)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._shelf.passed(after)
        except TimeoutError:
            return False

    async def trim(self, through: Positions) -> None:
        """As the port says. Age and bytes: `JournalConfig`."""
        for shard, position in through.items():
            _check_shard(shard)
            self._through = max(self._through, min(position, self._shelf.head))
        if self._closing or self._failure is not None:
            return
        active = self._shelf.active
        roll = bool(active.frame_count) and active.last_position <= self._through and self._is_old(active)
        if roll:
            await self._submit((), roll=True)
            self._snapshot_if_due()
        self._let_go()
        if self._doomed:
            await self._submit(())

    def state(self) -> JournalState:
        """As the port says."""
        shelf = self._shelf
        return JournalState(
            journal_id=self.journal_id,
            head=self.head(),
            tail=self.tail(),
            size_bytes=shelf.size_bytes,
            segment_count=len(shelf.segments),
            frame_count=shelf.frame_count,
            record_count=shelf.record_count,
            refusing=self._refusing,
        )

    async def close(self) -> None:
        """As the port says. What was handed in before is written; readers end."""
        if self._closed is None:
            self._closing = True
            self._wake.set()
            self._closed = asyncio.create_task(self._close(), name="journal-close")
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        await asyncio.wait({self._task})
        self._shelf.close()
        self._source.close()
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._pool.shutdown(wait=True)
        try:
            self._writer.stop(seal=self._failure is None)
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise StoreError(STORE, f"{self._failure.detail}; open the journal again to find out what is durable")
        if self._closing:
            raise DrainingError

    def _note_refusal(self, bound: str) -> None:
        """Tell the operator when appends begin to be refused, and when they no longer are; not each time."""
        if bool(bound) != bool(self._refusing):
            if bound:
                _log.warning("journal refuses appends", extra={"bound": bound, "size_bytes": self._shelf.size_bytes})
            else:
                _log.info("journal accepts appends again", extra={"size_bytes": self._shelf.size_bytes})
        self._refusing = bound

    def _check_bound(self, size_bytes: int) -> None:
        limit = self._config.bytes_max - _SEGMENT_OVERHEAD_BYTES
        if self._shelf.size_bytes + self._waiting_bytes + size_bytes <= limit:
            return
        self._let_go(down_to_bytes=limit - self._waiting_bytes - size_bytes)
        if self._shelf.size_bytes + self._waiting_bytes + size_bytes > limit:
            raise JournalFullError(self._config.retry_after_s, "journal_bytes_max")

    def _submit(
        self, entries: Sequence[Entry], *, size_bytes: int = 0, roll: bool = False
    ) -> asyncio.Future[Sequence[int]]:
        call = _Call(entries, size_bytes, roll, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._waiting_bytes += size_bytes
        self._wake.set()
        return call.outcome

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or not self._closing:
            if not self._waiting and not self._doomed:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._group = self._take_group()
            doomed, self._doomed = self._doomed, []
            self._settle(await loop.run_in_executor(self._pool, self._work, self._group, doomed))

    def _take_group(self) -> list[_Call]:
        calls: list[_Call] = []
        size_bytes = 0
        while self._waiting and (not calls or size_bytes + self._waiting[0].size_bytes <= self._config.group_bytes_max):
            call = self._waiting.popleft()
            size_bytes += call.size_bytes
            calls.append(call)
        return calls

    def _work(self, calls: Sequence[_Call], doomed: Sequence[Segment]) -> Commit:
        try:
            self._writer.take_away(doomed, reusable=[segment.pin_count == 0 for segment in doomed])
        except StoreError as error:
            # They are tried again with the next group; it is said once.
            if doomed:
                _log.warning("journal segments not deleted", extra={"detail": error.detail})
        return self._writer.commit([call.entries for call in calls], roll=any(call.roll for call in calls))

    def _settle(self, commit: Commit) -> None:
        opened = deque(commit.opened)
        for written in commit.written:
            while written.segment is not self._shelf.active:
                self._shelf.begin(opened.popleft())
            self._shelf.add(written)
            if self._state is not None:
                self._state.apply(written.frame)
            if written.frame.entry.snapshot is not None:
                self._snapshot = Snapshot(written.frame.entry.snapshot.through, b"")
        for segment in opened:
            self._shelf.begin(segment)
        if commit.written:
            self._shelf.publish(commit.written[-1].header.position)
        refused = False
        for call, outcome in zip(self._group, commit.outcomes, strict=True):
            self._waiting_bytes -= call.size_bytes
            refused = refused or isinstance(outcome, JournalFullError)
            if call.outcome.done():
                continue
            if isinstance(outcome, HeimdallError):
                call.outcome.set_exception(outcome)
            else:
                call.outcome.set_result(outcome)
        self._let_go(down_to_bytes=0 if refused else None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The commits are over: closed, or after a failure, whatever it was, that nothing may be appended behind."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        detail = str(error) if isinstance(error, HeimdallError) else type(error).__name__
        self._failure = error if isinstance(error, StoreError) else StoreError(STORE, detail)
        _log.error("journal refuses appends", extra={"detail": self._failure.detail}, exc_info=error)
        for call in (*self._group, *self._waiting):
            if not call.outcome.done():
                call.outcome.set_exception(StoreError(STORE, self._failure.detail))
        self._waiting.clear()
        self._waiting_bytes = 0

    def _is_old(self, segment: Segment) -> bool:
        return self._clock.now_ns() - segment.first_time_ns > self._config.age_max_s * 1e9

    def _let_go(self, *, down_to_bytes: int | None = None) -> None:
        """Doom old segments that every reader passed: by age, by bytes kept, or down to a size."""
        limit = self._config.retain_bytes if down_to_bytes is None else min(down_to_bytes, self._config.retain_bytes)
        floor = self._through
        if self._snapshot is not None:
            floor = min(floor, self._snapshot.through)
        elif self._state is not None:
            return
        shelf = self._shelf
        while len(shelf.segments) > 1 and shelf.segments[0].last_position <= floor:
            if shelf.size_bytes <= limit and not self._is_old(shelf.segments[0]):
                break
            self._doomed.append(shelf.drop_first())
        if self._doomed:
            self._wake.set()

    def _snapshot_if_due(self) -> None:
        state = self._state
        if state is None or self._shelf.active.snapshot_position or self._snapshot_under_way:
            return
        if self._clock.monotonic_s() < self._snapshot_after_s:
            return
        self._snapshot_under_way = True
        snapshot = Snapshot(self._shelf.head, state.snapshot())
        entry = Entry(batch=None, snapshot=snapshot)
        self._submit((entry,), size_bytes=_weigh(entry)).add_done_callback(self._snapshot_done)

    def _snapshot_done(self, outcome: asyncio.Future[Sequence[int]]) -> None:
        self._snapshot_under_way = False
        if outcome.exception() is not None:
            self._snapshot_after_s = self._clock.monotonic_s() + _SNAPSHOT_RETRY_S


def _open(config: JournalConfig, key: RootKey, clock: Clock, disk: Disk) -> tuple[Recovered, JournalWriter, Segment]:
    with disk_errors("open"):
        recovered = recover(config, key, clock, disk)
        try:
            writer = JournalWriter(config, key, clock, recovered)
            first = writer.start()
            discard_empty(recovered)
        except BaseException:
            recovered.lock.release()
            raise
    return recovered, writer, first


def _check_shard(shard: int) -> None:
    if shard != SHARD:
        raise NotFoundError("journal shard", str(shard))


def _weigh(entry: Entry) -> int:
    size_bytes = _FRAME_OVERHEAD_BYTES + sum(len(letter.raw) for letter in entry.dead_letters)
    size_bytes += sum(len(value) for value in entry.sidecars.values())
    if entry.snapshot is not None:
        size_bytes += len(entry.snapshot.data)
    if entry.batch is not None:
        if not entry.batch.schema.equals(RECORD_SCHEMA):
            raise InvalidArgumentError("entry.batch", "must follow the record schema")
        size_bytes += int(pa.ipc.get_record_batch_size(entry.batch))
    if size_bytes > FRAME_BYTES_MAX:
        raise InvalidArgumentError("entry", f"at most {FRAME_BYTES_MAX} bytes; this is {size_bytes}")
    return size_bytes
