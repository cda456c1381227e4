"""What projections share that nothing waits for: they are patient with their store, and tell how far they are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from heimdall_server.domain.errors import StoreError
from heimdall_server.projections.warm import ProjectionState, RetryPolicy

_T = TypeVar("_T")


class OptionalProjection:
    """State of a projection that may be left behind. For one event loop."""

    def __init__(self, retry: RetryPolicy | None) -> None:
        """Begin at nothing.

        Args:
            retry: How long it waits for a store that fails; None: as `RetryPolicy` says.
        """
        self._retry = retry or RetryPolicy()
        self._state = ProjectionState.STOPPED
        self._problem = ""
        self._applied = 0
        self._retries = 0
        self._advanced = asyncio.Condition()

    async def wait_applied(self, position: int, timeout_s: float) -> bool:
        """Wait until what frames up to a position hold can be read.

        Returns:
            False if the time ran out first.
        """
        try:
            async with asyncio.timeout(timeout_s), self._advanced:
                await self._advanced.wait_for(lambda: self._applied >= position)
        except TimeoutError:
            return False
        return True

    async def _patiently(self, act: Callable[[], Awaitable[_T]]) -> _T:
        """Do it until the store doesn't fail, waiting longer each time."""
        failures = 0
        while True:
            try:
                done = await act()
            except StoreError as error:
                self._retries += 1
                self._state, self._problem = ProjectionState.RETRYING, str(error)
                wait_s = min(self._retry.wait_s_max, self._retry.first_wait_s * 2 ** min(failures, 16))
                failures += 1
                # Jitter, not secrecy: many projections must not knock at once when a store comes back.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            else:
                self._state, self._problem = ProjectionState.RUNNING, ""
                return done

    async def _tell(self) -> None:
        async with self._advanced:
            self._advanced.notify_all()
