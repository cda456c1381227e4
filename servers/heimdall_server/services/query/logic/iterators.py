"""Two things that asynchronous iterators lack: an end that is certain, and a sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

_T = TypeVar("_T")


@asynccontextmanager
async def closed_behind(iterator: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """The iterator for the length of a block. A generator is closed then, and not whenever it is collected."""
    try:
        yield iterator
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


async def with_heartbeat(
    iterator: AsyncIterator[_T], wait_s: Callable[[], float | None]
) -> AsyncGenerator[_T | None, None]:
    """What the iterator gives, and None whenever that was nothing for a while. Closes the iterator.

    Args:
        iterator: Whatever; an item that it is about to give is never lost.
        wait_s: Asked before each wait how long that may be; None: as long as it takes.
    """
    pending: asyncio.Task[_T] | None = None
    async with closed_behind(iterator):
        try:
            while True:
                pending = pending or asyncio.create_task(_next(iterator))
                done, _ = await asyncio.wait([pending], timeout=wait_s())
                if not done:
                    yield None
                    continue
                finished, pending = pending, None
                try:
                    item = finished.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)


async def _next(iterator: AsyncIterator[_T]) -> _T:
    return await anext(iterator)
