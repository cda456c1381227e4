"""The reading half of one Append stream: within the window that was promised and the process's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from heimdall_server.domain.errors import StreamProtocolError
from heimdall_server.rpc.limits import InflightBytes, Reservation, RpcLimits
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.model import BatchIn, FinishIn, FlushIn, RequestIn

IDLE_FLUSH_S: Final = 1.0
"""Held whole lines are decoded when nothing came for so long: the last line of a log must not wait for the next."""
BUDGET_WAIT_S: Final = 60.0
"""How long a stream waits for a part of the budget of bytes in flight before it is refused."""


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
    """What one stream has in flight. A client that keeps to the limits it was told never waits here."""

    def __init__(self, limits: RpcLimits, budget: InflightBytes) -> None:
        self._limits = limits
        self._budget = budget
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
        limits = self._limits
        while self._batch_count and (
            self._batch_count >= limits.append_batches_in_flight_max
            or self._size_bytes + size > limits.append_bytes_in_flight_max
        ):
            self._room.clear()
            await self._room.wait()
        reservation = await self._budget.acquire(size, timeout_s=BUDGET_WAIT_S)
        self._batch_count += 1
        self._size_bytes += size
        return Hold(self, reservation, size)

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
