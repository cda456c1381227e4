"""Every limit of the server's edge in one place, and the budget of bytes in flight that all calls share."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Final, Self

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

BUDGET_RETRY_S: Final = 0.5
"""What a caller is told to wait when a budget is used up."""


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """Limits of the server's edge. All are more than 0."""

    message_bytes_max: int = 4 * _MIB + 64 * _KIB
    """Largest message on the wire, before decompression: a payload of 4 MiB and what is around it."""
    message_inflated_bytes_max: int = 16 * _MIB
    """Largest message after decompression."""
    response_bytes_max: int = 1 * _MIB
    """Largest message that we send; clients that aren't ours refuse more than 4 MiB."""
    metadata_bytes_max: int = 16 * _KIB
    """Headers of a call."""
    inflight_bytes_max: int = 256 * _MIB
    """Bytes of requests that the whole process holds; beyond, streams wait and unary calls are refused."""
    connections_max: int = 8192
    """Connections to a port, those among them that haven't said anything yet; beyond, they are closed at once. Each needs a
    file descriptor: the server raises its own limit up to the hard one, and takes fewer where that isn't enough."""
    calls_max: int = 2048
    """Calls being served by the process."""
    calls_per_peer_max: int = 256
    """Calls of one principal being served, streams among them."""
    streams_per_peer_max: int = 64
    """Streams of one principal being served."""
    streams_per_connection_max: int = 256
    """HTTP/2 streams on one connection; a client waits beyond."""
    append_batches_in_flight_max: int = 64
    """Batches of one Append stream that are received and not yet acknowledged."""
    append_bytes_in_flight_max: int = 32 * _MIB
    """Payload bytes of one Append stream that are received and not yet acknowledged."""
    append_wait_s_max: float = 0.5
    """A stream with batches in flight isn't read while what the process holds would take longer to become durable."""
    watches_per_stream_max: int = 64
    """Watches on one stream."""
    query_time_s_max: float = 60.0
    """Time of one query."""
    query_memory_bytes_max: int = 1024 * _MIB
    """Memory of one query in the engine."""
    query_rows_max: int = 1_000_000
    """Rows of one answer."""
    query_scan_rows_max: int = 500_000_000
    """Rows that a query without an index may read."""
    outbound_messages_max: int = 256
    """Messages waiting for a slow reader of one stream."""
    outbound_bytes_max: int = 8 * _MIB
    """Bytes waiting for a slow reader of one stream."""
    heartbeat_s: float = 10.0
    """A live stream is never silent for longer."""
    handshake_s: float = 10.0
    """A TLS handshake takes no longer."""
    keepalive_s: float = 60.0
    """A silent connection is asked for a sign of life this often."""
    keepalive_timeout_s: float = 20.0
    """A connection that doesn't answer is closed after this."""
    client_ping_interval_s_min: float = 10.0
    """A client that pings an idle connection more often is disconnected."""
    drain_s: float = 5.0
    """Calls have this long to end when the server shuts down."""

    def __post_init__(self) -> None:
        """Check that all are positive.

        Raises:
            ConfigurationError: One isn't; all are named.
        """
        problems = [
            f"limits.{item.name}: must be more than 0" for item in fields(self) if not getattr(self, item.name) > 0
        ]
        if self.message_inflated_bytes_max < self.message_bytes_max:
            problems.append("limits.message_inflated_bytes_max: must not be less than limits.message_bytes_max")
        if self.inflight_bytes_max < self.message_inflated_bytes_max:
            problems.append("limits.inflight_bytes_max: must not be less than limits.message_inflated_bytes_max")
        if problems:
            raise ConfigurationError(tuple(problems))


class Reservation:
    """Bytes taken from the budget, given back when the block ends or `release` is called. Idempotent."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: InflightBytes, size: int) -> None:
        self._budget = budget
        self._size = size

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes, once it is known how many are needed."""
        if size < self._size:
            surplus, self._size = self._size - size, size
            self._budget._give_back(surplus)  # noqa: SLF001 - the two are one thing

    def release(self) -> None:
        """Give all of it back."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class InflightBytes:
    """The process-wide budget of request bytes in memory.

    Reserve before bytes are read or inflated. A stream waits (`acquire`), which lets the flow control of HTTP/2 hold
    the client back; a unary call is already here, so it is refused with a time to come back (`try_acquire`).
    Waiters are served in order, so a large one isn't starved by small ones. Use it on one event loop only.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def limit_bytes(self) -> int:
        """The whole budget."""
        return self._limit

    @property
    def used_bytes(self) -> int:
        """What is reserved now."""
        return self._used

    def try_acquire(self, size: int) -> Reservation:
        """Reserve at once.

        Raises:
            BudgetExceededError: Not enough is left, or others wait.
        """
        size = min(size, self._limit)
        if self._waiters or self._used + size > self._limit:
            raise self._exceeded()
        self._used += size
        return Reservation(self, size)

    async def acquire(self, size: int, *, timeout_s: float | None = None) -> Reservation:
        """Reserve, waiting for others to give back.

        Args:
            size: Bytes; what is more than the whole budget counts as the whole budget.
            timeout_s: Longest wait; none: as long as it takes.

        Raises:
            BudgetExceededError: The wait was over before there was enough.
        """
        size = min(size, self._limit)
        if not self._waiters and self._used + size <= self._limit:
            self._used += size
            return Reservation(self, size)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (size, granted)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self._give_back(size)
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
                self._wake()
            if isinstance(error, TimeoutError):
                raise self._exceeded() from error
            raise
        return Reservation(self, size)

    def _give_back(self, size: int) -> None:
        self._used -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self._used + self._waiters[0][0] <= self._limit:
            size, granted = self._waiters.popleft()
            if not granted.done():
                self._used += size
                granted.set_result(None)

    def _exceeded(self) -> BudgetExceededError:
        return BudgetExceededError(BUDGET_RETRY_S, "memory for requests in flight", self._limit)
