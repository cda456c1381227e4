"""Reads a shard of the journal while what was read before is being applied, within a bound."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Frame, Journal


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is taken at once and held at most."""

    batch_rows: int = 262_144
    """A full batch: taken at once. Small inserts cost twice as much a row, and what is inserted small is merged once
    more."""
    linger_s: float = 0.4
    """A batch that isn't full is taken this long after its oldest frame was read."""
    linger_max_s: float = 2.0
    """Nor is it longer than this where the consumer is slow: what it takes long for costs less in fewer, larger batches, so a batch is
    waited for as long as the one before took."""
    busy_rows: int = 16_384
    """With as many rows by then, so much comes in that cores are what is scarce: a batch is waited for up to `busy_linger_s` instead."""
    busy_linger_s: float = 1.0
    """Fewer, larger inserts: a twentieth of what a record costs at 100,000 a second."""
    held_rows_max: int = 786_432
    """Reading pauses while more rows than this wait."""
    held_bytes_max: int = 256 << 20
    """Reading pauses while frames of more bytes than this, as at rest, wait."""


class ReadAhead:
    """A bounded queue between a shard of the journal and one consumer."""

    def __init__(self, journal: Journal, shard: int, clock: Clock, limits: ReadLimits) -> None:
        self._journal = journal
        self._shard = shard
        self._clock = clock
        self._limits = limits
        self._held: deque[tuple[Frame, float]] = deque()
        self._rows = 0
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._failure: BaseException | None = None
        self._taken_s: float | None = None
        """When the last batch was taken; None: none yet."""

    @property
    def held_rows(self) -> int:
        """Rows that were read and not taken."""
        return self._rows

    @property
    def oldest_time_ns(self) -> int:
        """When the oldest frame that wasn't taken was appended to the journal; 0: none waits."""
        return self._held[0][0].time_ns if self._held else 0

    @contextlib.asynccontextmanager
    async def running(self, after: int) -> AsyncIterator[None]:
        """Let it read while the block lasts."""
        task = asyncio.create_task(self.run(after), name="read-ahead")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def run(self, after: int) -> None:
        """Read until cancelled. An error of the journal reaches the consumer behind the frames before it."""
        try:
            async for frame in self._journal.read(self._shard, after=after):
                async with self._changed:
                    await self._changed.wait_for(self._has_room)
                    self._held.append((frame, self._clock.monotonic_s()))
                    self._rows += rows_of(frame)
                    self._bytes += frame.size_bytes
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - raised again by `take`, where somebody awaits it
            async with self._changed:
                self._failure = error
                self._changed.notify_all()

    async def take(self) -> list[Frame]:
        """Wait for a full batch, or for what there is when its oldest frame has waited long enough.

        Returns:
            Consecutive frames, at least one. More rows than a full batch only if one frame has them.

        Raises:
            CorruptionError: The journal is damaged right behind what was taken last.
            NotFoundError: The frames behind what was taken last are gone.
        """
        linger_s = self._linger_s()
        async with self._changed:
            await self._changed.wait_for(lambda: self._held or self._failure)
            if not self._held and self._failure:
                raise self._failure
            await self._wait_full(linger_s)
            if self._rows >= self._limits.busy_rows:
                await self._wait_full(self._limits.busy_linger_s)
            taken = self._take_batch()
            self._taken_s = self._clock.monotonic_s()
            self._changed.notify_all()
            return taken

    async def _wait_full(self, age_s: float) -> None:
        """Wait for a full batch, or until the oldest frame has waited so long."""
        wait_s = self._held[0][1] + age_s - self._clock.monotonic_s()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait_for(self._is_full)

    def _linger_s(self) -> float:
        took_s = 0.0 if self._taken_s is None else self._clock.monotonic_s() - self._taken_s
        return max(self._limits.linger_s, min(took_s, self._limits.linger_max_s))

    def _has_room(self) -> bool:
        return not self._held or (self._rows < self._limits.held_rows_max and self._bytes < self._limits.held_bytes_max)

    def _is_full(self) -> bool:
        return (
            self._rows >= self._limits.batch_rows
            or self._bytes >= self._limits.held_bytes_max
            or self._failure is not None
        )

    def _take_batch(self) -> list[Frame]:
        taken: list[Frame] = []
        rows = 0
        while self._held:
            frame = self._held[0][0]
            count = rows_of(frame)
            if taken and rows + count > self._limits.batch_rows:
                break
            self._held.popleft()
            taken.append(frame)
            rows += count
            self._rows -= count
            self._bytes -= frame.size_bytes
        return taken


def rows_of(frame: Frame) -> int:
    """Records of a frame."""
    return int(frame.entry.batch.num_rows) if frame.entry.batch is not None else 0
