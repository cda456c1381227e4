"""Equal searches that wait for their turn share the answer of the one whose turn comes first.

Rules:
* Whoever waits has read nothing yet: its snapshot is taken when its turn comes. So the answer of an equal search that
  begins while it waits is as fresh as its own would be, and nothing needs to be kept, or to be told stale from fresh.
* Who comes after that search has begun waits for a turn as anybody does: what is being read may be older than it.
* Each is allowed, counted and refused for itself before it waits. Equal means: the same statement over the same datasets.
* Only answers that are complete are handed on. Where there is none, because the search failed, was given up by its
  caller or is too large to be held, those that waited for it wait for a turn again.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Plan, Result, ResultColumn, Statistics
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.iterators import closed_behind

_ALIKE: Final = frozenset({"", "result_rows"})
"""Limits that are equal for all who share; another's time may be longer."""
SHARED_BYTES_MAX: Final = 8 * 1024 * 1024
"""An answer that is larger isn't held for others."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer, as a `Result`."""

    schema: pa.Schema
    columns: Sequence[ResultColumn]
    key_indexes: tuple[int, int, int, int] | None
    plan: Plan
    through: Positions
    statistics: Statistics
    rows: Sequence[pa.RecordBatch]

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """See `Result.batches`."""
        for batch in self.rows:
            yield batch


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class Waiter:
    """A search that waits for its turn."""

    begun: asyncio.Future[None] = field(default_factory=_future)
    """Done: an equal one has begun, and no turn is needed before that has ended."""
    _ended: asyncio.Future[None] = field(default_factory=_future)
    _answer: Answered | None = None

    async def answer(self, timeout_s: float) -> Answered | None:
        """What the one that has begun was answered; None: nothing that could be handed on.

        Raises:
            TimeoutError: It takes longer.
        """
        async with asyncio.timeout(timeout_s):
            await self._ended
        return self._answer

    def end(self, answer: Answered | None) -> None:
        """Tell it; only the first call counts."""
        if not self._ended.done():
            self._answer = answer
            self._ended.set_result(None)


class Sharing:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Waiter]] = {}

    @contextmanager
    def waiting(self, key: Hashable | None) -> Iterator[Waiter]:
        """Wait for a turn for the length of a block.

        Args:
            key: Equal for searches that are answered alike; None: it shares with nobody.
        """
        waiter = Waiter()
        if key is not None:
            self._waiting.setdefault(key, []).append(waiter)
        try:
            yield waiter
        finally:
            others = self._waiting.get(key, [])
            if waiter in others:
                others.remove(waiter)
                if not others:
                    del self._waiting[key]

    @asynccontextmanager
    async def leading(self, key: Hashable | None) -> AsyncIterator[list[Waiter]]:
        """Take along who waits with the same key, for the length of a block. What is to be shared is read after its begin."""
        followers = self._waiting.pop(key, [])
        for follower in followers:
            follower.begun.set_result(None)
        try:
            yield followers
        finally:
            for follower in followers:
                follower.end(None)


@asynccontextmanager
async def shared(result: Result, followers: Sequence[Waiter]) -> AsyncIterator[Result]:
    """The same result, which is also gathered for others. It is read for them however slowly it is read here."""
    if not followers:
        yield result
        return
    gathered = _Gathered(result, followers)
    gathering = asyncio.create_task(gathered.run(), name="search-gather")
    try:
        yield gathered
    finally:
        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)


class _Gathered:
    """A result that is read ahead, up to a bound, and kept."""

    def __init__(self, result: Result, followers: Sequence[Waiter]) -> None:
        self._result = result
        self._followers = followers
        self._rows: list[pa.RecordBatch] = []
        self._size_bytes = 0
        self._taken = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = asyncio.Condition()

    @property
    def schema(self) -> pa.Schema:
        """See `Result.schema`."""
        return self._result.schema

    @property
    def columns(self) -> Sequence[ResultColumn]:
        """See `Result.columns`."""
        return self._result.columns

    @property
    def key_indexes(self) -> tuple[int, int, int, int] | None:
        """See `Result.key_indexes`."""
        return self._result.key_indexes

    @property
    def plan(self) -> Plan:
        """See `Result.plan`."""
        return self._result.plan

    @property
    def through(self) -> Positions:
        """See `Result.through`."""
        return self._result.through

    @property
    def statistics(self) -> Statistics:
        """See `Result.statistics`."""
        return self._result.statistics

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """See `Result.batches`."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._taken < len(self._rows) or self._ended)
                if self._taken == len(self._rows):
                    break
                batch = self._rows[self._taken]
                self._taken += 1
                self._changed.notify_all()
            yield batch
        if self._error is not None:
            raise self._error

    async def run(self) -> None:
        """Read to the end, then hand it on."""
        try:
            async with closed_behind(self._result.batches()) as batches:
                async for batch in batches:
                    await self._keep(batch)
            self._hand_on()
        except Exception as error:  # noqa: BLE001 # raised where the rows are read
            self._error = error
        finally:
            self._let_go()
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def _keep(self, batch: pa.RecordBatch) -> None:
        async with self._changed:
            self._rows.append(batch)
            self._size_bytes += int(batch.nbytes)
            self._changed.notify_all()
            if self._size_bytes > SHARED_BYTES_MAX:
                # Too much to be kept: from here on it is read only as fast as its own caller takes it.
                self._let_go()
                await self._changed.wait_for(lambda: self._taken == len(self._rows))
                self._rows.clear()
                self._taken = 0

    def _hand_on(self) -> None:
        result = self._result
        if not self._followers or result.statistics.truncated_by not in _ALIKE:
            return
        answer = Answered(
            result.schema,
            result.columns,
            result.key_indexes,
            result.plan,
            result.through,
            result.statistics,
            tuple(self._rows),
        )
        for follower in self._followers:
            follower.end(answer)
        metrics.SHARED.inc(len(self._followers))

    def _let_go(self) -> None:
        for follower in self._followers:
            follower.end(None)
        self._followers = ()
