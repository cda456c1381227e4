"""Which calls may begin: bounds on how many are served at once, and none but a few while the server drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from heimdall_server.domain.errors import BudgetExceededError, DrainingError
from heimdall_server.rpc.limits import BUDGET_RETRY_S, RpcLimits


class Drain:
    """Says that the server is going away. Streams wait for `event`, finish what they accepted, and end.

    A stream ends itself with `DrainingError`, or with a message of its own and a resume token.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether it has begun."""
        return self.event.is_set()

    def begin(self) -> None:
        """Begin. There is no way back."""
        self.event.set()


class Admission:
    """Counts the calls being served. For one event loop."""

    def __init__(self, limits: RpcLimits, drain: Drain) -> None:
        self._limits = limits
        self._drain = drain
        self._calls = 0
        self._awaited = 0
        self._calls_by_peer: Counter[str] = Counter()
        self._streams_by_peer: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def call_count(self) -> int:
        """Calls being served."""
        return self._calls

    @contextmanager
    def admit(self, uri: str, *, streaming: bool, uninterrupted: bool) -> Iterator[None]:
        """Count a call while it is served.

        Args:
            uri: Whose it is.
            streaming: Whether it is a stream.
            uninterrupted: Whether it may begin while the server drains, and isn't waited for. Such a stream, a health
                watch that each client's channel holds open, takes no place among the principal's streams.

        Raises:
            DrainingError: The server drains.
            BudgetExceededError: Too many calls, of all or of this principal.
        """
        if self._drain.draining and not uninterrupted:
            raise DrainingError
        streaming = streaming and not uninterrupted
        self._check(uri, streaming=streaming)
        self._calls += 1
        self._calls_by_peer[uri] += 1
        self._streams_by_peer[uri] += streaming
        if not uninterrupted:
            self._awaited += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            _decrease(self._calls_by_peer, uri, 1)
            _decrease(self._streams_by_peer, uri, int(streaming))
            if not uninterrupted:
                self._awaited -= 1
                if not self._awaited:
                    self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no call is served but those that no one waits for.

        Returns:
            Whether that came before the time was over.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _check(self, uri: str, *, streaming: bool) -> None:
        limits = self._limits
        if self._calls >= limits.calls_max:
            raise BudgetExceededError(BUDGET_RETRY_S, "calls at once", limits.calls_max)
        if self._calls_by_peer[uri] >= limits.calls_per_peer_max:
            raise BudgetExceededError(BUDGET_RETRY_S, "calls of one identity at once", limits.calls_per_peer_max)
        if streaming and self._streams_by_peer[uri] >= limits.streams_per_peer_max:
            raise BudgetExceededError(BUDGET_RETRY_S, "streams of one identity at once", limits.streams_per_peer_max)


def _decrease(counts: Counter[str], key: str, amount: int) -> None:
    counts[key] -= amount
    if counts[key] <= 0:
        del counts[key]
