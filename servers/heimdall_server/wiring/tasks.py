"""Tasks of a process: followers that may fail, and their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

LOG: Final = logging.getLogger(__name__)


async def follow(run: Callable[[], Awaitable[None]], otherwise: str) -> None:
    """Run a projection; if it can't go on, say so and leave everything else to its bounds.

    Args:
        run: Of the projection.
        otherwise: What it means for people that it stopped.
    """
    try:
        await run()
    except Exception:
        LOG.exception("a projection stopped; %s", otherwise)


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks and wait for it."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
