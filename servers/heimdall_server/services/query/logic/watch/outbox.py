"""The queue between a stream's watches and its reader: bounded, so that a slow reader costs nobody else."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from heimdall_server.domain.errors import StreamLaggedError
from heimdall_server.services.query.watch_model import AggregateRows, Event, Rows


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Bounds of one stream's outbox."""

    bytes_max: int = 8 * 1024 * 1024
    """Rows that wait for the reader."""
    events_max: int = 256
    """Messages that wait for the reader."""
    lag_s: float = 30.0
    """A watch that can't put for so long is ended: its reader is too slow."""


class Outbox:
    """One stream's outbox. Belongs to one event loop."""

    def __init__(self, limits: OutboxLimits) -> None:
        self._limits = limits
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = asyncio.Condition()

    async def put(self, event: Event) -> None:
        """Queue an event, waiting for room.

        Raises:
            StreamLaggedError: The reader was too slow for too long; nothing was queued.
        """
        size = int(event.batch.nbytes) if isinstance(event, Rows | AggregateRows) else 0
        try:
            async with asyncio.timeout(self._limits.lag_s), self._changed:
                await self._changed.wait_for(lambda: self._has_room(size))
                self._append(event, size)
        except TimeoutError as error:
            bound = f"{self._limits.bytes_max} bytes or {self._limits.events_max} messages for {self._limits.lag_s:g} s"
            raise StreamLaggedError(bound) from error

    async def put_last(self, event: Event) -> None:
        """Queue the event that ends a watch: it needs no room, there is one of them a watch."""
        async with self._changed:
            self._append(event, 0)

    async def close(self, error: BaseException | None = None) -> None:
        """Let the reader end once it has what is queued. Only the first call counts."""
        async with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
            self._changed.notify_all()

    async def get(self) -> Event | None:
        """The oldest event, waiting for one; None once closed and empty.

        Raises:
            BaseException: What it was closed with.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._events) or self._closed)
            if not self._events:
                if self._error is not None:
                    raise self._error
                return None
            event, size = self._events.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return event

    def _has_room(self, size: int) -> bool:
        # One event larger than the bound must still get through, alone.
        fits = self._bytes + size <= self._limits.bytes_max or not self._bytes
        return fits and len(self._events) < self._limits.events_max

    def _append(self, event: Event, size: int) -> None:
        self._events.append((event, size))
        self._bytes += size
        self._changed.notify_all()
