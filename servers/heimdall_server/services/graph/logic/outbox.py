"""What waits for the reader of one watch: bounded, and given up when the reader takes nothing for too long."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from heimdall_server.domain.errors import StreamLaggedError
from heimdall_server.services.graph.model_hunting import Told

WAITING_MAX: Final = 512
"""Messages that wait for one reader; a kilobyte each."""


class WatchOutbox:
    """See the module. Belongs to one event loop."""

    def __init__(self, *, lag_s: float, waiting_max: int = WAITING_MAX) -> None:
        """Begin empty.

        Args:
            lag_s: How long it waits for room.
            waiting_max: Messages it holds.
        """
        self._lag_s = lag_s
        self._waiting_max = waiting_max
        self._waiting: deque[Told] = deque()
        self._closed = False
        self._error: BaseException | None = None
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    async def put(self, told: Told) -> None:
        """Add a message, waiting for room.

        Raises:
            StreamLaggedError: There was none for too long; the message wasn't added.
        """
        try:
            async with asyncio.timeout(self._lag_s):
                while len(self._waiting) >= self._waiting_max:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            # Behind the last message that the reader will get.
            token = self._waiting[-1].resume_token
            raise StreamLaggedError(f"{self._waiting_max} messages waited for {self._lag_s:g} s", token) from None
        self._waiting.append(told)
        self._filled.set()

    @property
    def has_room(self) -> bool:
        """Whether a message can be added at once."""
        return len(self._waiting) < self._waiting_max

    def close(self, error: BaseException | None = None) -> None:
        """Take nothing more. Who reads gets what waits, and then the error."""
        self._closed, self._error = True, error
        self._filled.set()

    async def get(self) -> Told | None:
        """The oldest message, waiting for one; None: it is closed, and all were taken.

        Raises:
            BaseException: What it was closed with.
        """
        while not self._waiting:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._filled.clear()
            await self._filled.wait()
        told = self._waiting.popleft()
        self._emptied.set()
        return told
