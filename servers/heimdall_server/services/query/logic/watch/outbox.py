"""The queue between a stream's watches and its reader: bounded, so that a slow reader costs nobody else.

Whoever waits for room waits in turn, so that a busy watch doesn't keep the others of its stream out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from heimdall_server.domain.errors import StreamLaggedError
from heimdall_server.services.query.logic.metrics import WATCH_OUTBOX_BYTES
from heimdall_server.services.query.watch_model import Event, size_of


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
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def waiting_bytes(self) -> int:
        """Rows that wait for the reader."""
        return self._bytes

    async def put(self, event: Event) -> None:
        """Queue what a watch has to say, waiting for room.

        Raises:
            StreamLaggedError: The reader was too slow for too long; nothing was queued.
        """
        limits = self._limits
        try:
            async with asyncio.timeout(limits.lag_s):
                await self.put_patiently(event)
        except TimeoutError as error:
            bound = f"{limits.bytes_max} bytes or {limits.events_max} messages waited for {limits.lag_s:g} s"
            raise StreamLaggedError(bound) from error

    async def put_patiently(self, event: Event) -> None:
        """Queue an answer to a request, waiting for room as long as it takes: the next request waits, too."""
        size = size_of(event)
        if self._turn.locked() or not self._has_room(size):
            async with self._turn:
                while not self._has_room(size):
                    self._emptied.clear()
                    await self._emptied.wait()
                self._append(event, size)
        else:
            self._append(event, size)

    def offer(self, event: Event) -> bool:
        """Queue an event if there is room and nobody waits for it.

        Returns:
            Whether it was queued.
        """
        size = size_of(event)
        if self._turn.locked() or not self._has_room(size):
            return False
        self._append(event, size)
        return True

    def put_last(self, event: Event) -> None:
        """Queue the event that ends a watch: it needs no room, there is one of them a watch."""
        self._append(event, 0)

    def close(self, error: BaseException | None = None) -> None:
        """Take nothing more; the reader ends once it has what is queued. Only the first call counts."""
        if not self._closed:
            self._closed, self._error = True, error
        self._filled.set()
        self._emptied.set()

    def drop(self) -> None:
        """Close, and let go what is queued: there is no reader any more."""
        self.close()
        self._events.clear()
        self._weigh(-self._bytes)

    async def get(self) -> Event | None:
        """The oldest event, waiting for one; None once closed and empty.

        Raises:
            BaseException: What it was closed with.
        """
        while not self._events:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._filled.clear()
            await self._filled.wait()
        event, size = self._events.popleft()
        self._weigh(-size)
        self._emptied.set()
        return event

    def _has_room(self, size: int) -> bool:
        if self._closed:
            return True  # What comes now goes nowhere, and nobody shall wait for that.
        # One event larger than the bound must still get through, alone.
        fits = not size or not self._bytes or self._bytes + size <= self._limits.bytes_max
        return fits and len(self._events) < self._limits.events_max

    def _append(self, event: Event, size: int) -> None:
        if self._closed:
            return
        self._events.append((event, size))
        self._weigh(size)
        self._filled.set()

    def _weigh(self, size: int) -> None:
        self._bytes += size
        WATCH_OUTBOX_BYTES.inc(size)
