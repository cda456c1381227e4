"""The outbound half of a server stream: a bounded queue between who has something to say and a reader of any speed.

Two kinds of producer use it. One that can wait (`put`: an answer to a search) is slowed down to the reader's pace. One
that can't (`put_nowait`: live records) ends the stream when the queue is full, and the reader gets the token to go on
from what it has had.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from heimdall_server.domain.errors import StreamLaggedError
from heimdall_server.rpc.metrics import LAGGED

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class OutboundBounds:
    """How much may wait for the reader, and how long it may hear nothing."""

    messages_max: int
    bytes_max: int
    heartbeat_s: float | None = None
    """None: no heartbeats."""


class Outbound(Generic[_T]):
    """The queue. Iterate it once; one event loop."""

    def __init__(
        self,
        bounds: OutboundBounds,
        *,
        size_of: Callable[[_T], int],
        token_of: Callable[[_T], bytes] = lambda _: b"",
        heartbeat: Callable[[], _T | None] = lambda: None,
    ) -> None:
        """Make a queue.

        Args:
            bounds: See there.
            size_of: Bytes of a message, `ByteSize` for example.
            token_of: The resume token that a message carries; empty: none.
            heartbeat: Makes what is sent after a silence; None: nothing this time.
        """
        self._bounds = bounds
        self._size_of = size_of
        self._token_of = token_of
        self._heartbeat = heartbeat
        self._queue: deque[tuple[_T, int]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._error: BaseException | None = None
        self._token = b""

    @property
    def waiting_count(self) -> int:
        """Messages that wait for the reader."""
        return len(self._queue)

    @property
    def last_token(self) -> bytes:
        """Token of the newest message that the reader was given; empty: none yet."""
        return self._token

    def offer(self, item: _T) -> bool:
        """Put if there is room. For a stream that carries several things, of which one may be dropped.

        Returns:
            Whether it was put.
        """
        size = self._size_of(item)
        if self._closed or not self._fits(size):
            return False
        self._append(item, size)
        return True

    def put_nowait(self, item: _T) -> None:
        """Put, or end the stream: what waits is thrown away and the reader gets STREAM_LAGGED with its last token.

        Raises:
            StreamLaggedError: There was no room.
        """
        if self.offer(item) or self._closed:
            return
        self._queue.clear()
        self._bytes = 0
        LAGGED.inc()
        bounds = self._bounds
        error = StreamLaggedError(f"more than {bounds.messages_max} messages or {bounds.bytes_max} bytes waited")
        self.fail(error)
        raise error

    async def put(self, item: _T) -> None:
        """Put as soon as there is room. After the end of the stream it has no effect."""
        size = self._size_of(item)
        while not self._closed and not self._fits(size):
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._append(item, size)

    def close(self) -> None:
        """End the stream once the reader has had what waits. Idempotent."""
        self._closed = True
        self._changed.set()
        self._room.set()

    def fail(self, error: BaseException) -> None:
        """End the stream with an error once the reader has had what waits. The first error counts."""
        if self._error is None and not self._closed:
            self._error = error
        self.close()

    def __aiter__(self) -> AsyncIterator[_T]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[_T]:
        try:
            while True:
                while self._queue:
                    item, size = self._queue.popleft()
                    self._bytes -= size
                    self._room.set()
                    token = self._token_of(item)
                    yield item
                    # Asked for more, so this one was written: a reader that goes on behind it misses nothing.
                    self._token = token or self._token
                if self._closed:
                    break
                beat = await self._wait()
                if beat is not None:
                    yield beat
            if isinstance(self._error, StreamLaggedError):
                self._error.resume_token = self._token
            if self._error is not None:
                raise self._error
        finally:
            self._closed = True
            self._room.set()

    async def _wait(self) -> _T | None:
        """Wait for a message or the end; returns a heartbeat if it was silent for too long."""
        self._changed.clear()
        if self._queue or self._closed:
            return None
        try:
            async with asyncio.timeout(self._bounds.heartbeat_s):
                await self._changed.wait()
        except TimeoutError:
            return self._heartbeat()
        return None

    def _fits(self, size: int) -> bool:
        # One message always fits into an empty queue, however large.
        if not self._queue:
            return True
        return len(self._queue) < self._bounds.messages_max and self._bytes + size <= self._bounds.bytes_max

    def _append(self, item: _T, size: int) -> None:
        self._queue.append((item, size))
        self._bytes += size
        self._changed.set()


async def produced(outbound: Outbound[_T], producer: Coroutine[Any, Any, None]) -> AsyncIterator[_T]:
    """Iterate a queue while a task of the same call fills it.

    The stream ends when the producer does: with its error, if it raises. When the reader hangs up (the iteration is
    closed or cancelled), the producer is cancelled and waited for; nothing outlives the call.

    Args:
        outbound: The queue.
        producer: What puts into it.
    """

    async def run() -> None:
        try:
            await producer
        except asyncio.CancelledError:
            outbound.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it goes to the reader
            outbound.fail(error)
        else:
            outbound.close()

    task = asyncio.create_task(run())
    try:
        async for item in outbound:
            yield item
    finally:
        outbound.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
