"""One piece of work behind the caller's back: while a batch is kept by the store, the next one is made."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class OneAhead:
    """Runs one thing at a time, in the order in which they come. For one event loop and one caller."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something as soon as what was begun before is done; don't wait for it.

        Raises:
            Exception: What was begun before failed; this one isn't begun then.
        """
        try:
            await self.settle()
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)

    async def settle(self) -> None:
        """Wait until nothing is under way.

        Raises:
            Exception: What was begun last failed.
        """
        task = self._task
        if task is not None:
            await asyncio.wait([task])
            self._task = None
            task.result()

    async def drop(self) -> None:
        """Cancel what is under way, and wait until it has ended. Never raises its error."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # it is told where it is awaited; nobody awaits this one any more
