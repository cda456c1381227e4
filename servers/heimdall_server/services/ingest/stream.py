"""The reading half of one Append stream: within the window that was promised and the process's memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from heimdall_server.domain.errors import StreamProtocolError
from heimdall_server.rpc.limits import InflightBytes, Reservation, RpcLimits
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.model import BatchIn, FinishIn, FlushIn, RequestIn

IDLE_FLUSH_S: Final = 1.0
"""Held whole lines are decoded when nothing came for so long: the last line of a log must not wait for the next."""
BUDGET_WAIT_S: Final = 60.0
"""How long a stream waits for a part of the budget of bytes in flight before it is refused."""


RECHECK_S: Final = 0.05
"""How often a stream that waits looks again at what the whole process holds."""


class Hold:
    """A payload's part of a window and of the process's memory."""

    __slots__ = ("_reservation", "_window", "size_bytes")

    def __init__(self, window: StreamWindow, reservation: Reservation, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._window: StreamWindow | None = window
        self._reservation = reservation

    def release(self) -> None:
        """Give it back. Idempotent."""
        window, self._window = self._window, None
        if window is not None:
            self._reservation.release()
            window.leave(self)


class StreamWindow:
    """What one stream has in flight.

    Bounded by count and bytes, as the client was told, and by time: while what the process holds would take longer than
    `append_wait_s_max` to become durable, a stream with something in flight isn't read, so that an acknowledgement
    never waits behind more than that, however many streams there are. One batch of each stream always goes in.
    """

    def __init__(self, limits: RpcLimits, budget: InflightBytes, wait_estimate_s: Callable[[int], float]) -> None:
        """Prepare an empty window.

        Args:
            limits: What was promised.
            budget: Of the process.
            wait_estimate_s: How long so many bytes that came now would take to be durable.
        """
        self._limits = limits
        self._budget = budget
        self._wait_estimate_s = wait_estimate_s
        self._batch_count = 0
        self._size_bytes = 0
        self._room = asyncio.Event()

    @property
    def size_bytes(self) -> int:
        """Payload bytes in flight."""
        return self._size_bytes

    async def enter(self, size: int) -> Hold:
        """Wait until the stream and the process have room for a payload; one larger than the window goes alone.

        Raises:
            BudgetExceededError: The process had none for a minute.
        """
        while self._batch_count and (self._is_full(size) or self._is_slow(size)):
            self._room.clear()
            # What others have in the process counts for the time as well, and their progress isn't told here.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._room.wait()
        reservation = await self._budget.acquire(size, timeout_s=BUDGET_WAIT_S)
        self._batch_count += 1
        self._size_bytes += size
        return Hold(self, reservation, size)

    def _is_full(self, size: int) -> bool:
        limits = self._limits
        return (
            self._batch_count >= limits.append_batches_in_flight_max
            or self._size_bytes + size > limits.append_bytes_in_flight_max
        )

    def _is_slow(self, size: int) -> bool:
        return self._wait_estimate_s(size) > self._limits.append_wait_s_max

    def leave(self, hold: Hold) -> None:
        """A payload is no longer held."""
        self._batch_count -= 1
        self._size_bytes -= hold.size_bytes
        self._room.set()


async def read_stream(session: AppendSession, window: StreamWindow, requests: AsyncIterator[RequestIn]) -> None:
    """Take messages until the client's half ends; what goes wrong ends the stream.

    Args:
        session: Takes them.
        window: Of the stream.
        requests: What comes behind `open`.
    """
    loop = asyncio.get_running_loop()
    idle: asyncio.TimerHandle | None = None
    try:
        async for request in requests:
            if idle is not None:
                idle.cancel()
            idle = loop.call_later(IDLE_FLUSH_S, session.flush_if_held)
            match request:
                case BatchIn():
                    _receive(session, request, await window.enter(len(request.payload)))
                case FlushIn():
                    session.flush()
                case FinishIn():
                    session.finish()
                case _:
                    session.end(StreamProtocolError("open may come only once, as the first message"))
                    return
    except Exception as error:  # noqa: BLE001 - whatever it is, the stream must end with it
        session.end(error)
    finally:
        if idle is not None:
            idle.cancel()
        session.no_more()


def _receive(session: AppendSession, batch: BatchIn, hold: Hold) -> None:
    try:
        session.receive(batch, hold.release)
    except BaseException:
        hold.release()
        raise
