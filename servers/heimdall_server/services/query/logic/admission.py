"""How many queries run at once: a bound on the whole process and on each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from heimdall_server.domain.errors import BudgetExceededError


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on running queries."""

    concurrent_max: int = 8
    """Queries that run at once; more wait."""
    waiting_max: int = 64
    """Queries that wait; more are refused."""
    per_caller_max: int = 16
    """Queries of one identity, running or waiting; more are refused."""
    wait_s: float = 10.0
    """How long one waits before it is refused."""
    history_max: int = 2
    """Watches that read history from the store at once, besides these queries; others wait for as long as it takes."""


class Admission:
    """Lets queries in. Belongs to one event loop."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._running = asyncio.Semaphore(limits.concurrent_max)
        self._reading = asyncio.Semaphore(limits.history_max)
        self._waiting = 0
        self._callers: Counter[str] = Counter()

    @asynccontextmanager
    async def admit(self, caller: str) -> AsyncIterator[None]:
        """Run the body when there is room.

        Raises:
            BudgetExceededError: No room in time; nothing was run.
        """
        limits = self._limits
        if self._callers[caller] >= limits.per_caller_max:
            raise BudgetExceededError(retry_after_s=1.0, budget="queries of one caller", limit=limits.per_caller_max)
        if self._waiting >= limits.waiting_max:
            raise BudgetExceededError(retry_after_s=2.0, budget="waiting queries", limit=limits.waiting_max)
        self._callers[caller] += 1
        try:
            self._waiting += 1
            try:
                async with asyncio.timeout(limits.wait_s):
                    await self._running.acquire()
            except TimeoutError as error:
                raise BudgetExceededError(
                    retry_after_s=2.0, budget="concurrent queries", limit=limits.concurrent_max
                ) from error
            finally:
                self._waiting -= 1
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

    @asynccontextmanager
    async def admit_history(self) -> AsyncIterator[None]:
        """Read one page of a watch's history when there is room; a watch is never refused for others' sake."""
        async with self._reading:
            yield
