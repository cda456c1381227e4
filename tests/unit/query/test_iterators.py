"""An end that is certain, and a sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from heimdall_server.services.query.logic.iterators import closed_behind, with_heartbeat


class Source:
    """Gives numbers when told to, and notes its end."""

    def __init__(self) -> None:
        self.ready = asyncio.Semaphore(0)
        self.is_closed = False

    async def numbers(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                await self.ready.acquire()
                yield number
        finally:
            self.is_closed = True


async def test_silence_is_told_and_nothing_is_lost_for_it() -> None:
    source = Source()
    got: list[int | None] = []
    async for item in with_heartbeat(source.numbers(2), lambda: 0.005):
        got.append(item)
        if item is None:
            source.ready.release()
    assert [item for item in got if item is not None] == [0, 1]
    assert got[0] is None
    assert source.is_closed


async def test_an_iterator_is_closed_when_its_reader_leaves() -> None:
    source = Source()
    async with aclosing(with_heartbeat(source.numbers(2), lambda: None)) as numbers:
        source.ready.release()
        assert await anext(numbers) == 0
    assert source.is_closed


async def test_an_iterator_is_closed_when_its_reader_is_cancelled() -> None:
    source = Source()

    async def read() -> None:
        async for _ in with_heartbeat(source.numbers(2), lambda: None):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert reading.cancelled()
    assert source.is_closed


async def test_an_error_passes() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError

    items = with_heartbeat(broken(), lambda: None)
    assert await anext(items) == 1
    with pytest.raises(OSError):  # noqa: PT011 - nothing else raises it here
        await anext(items)


async def test_a_generator_is_closed_behind_its_block() -> None:
    source = Source()
    source.ready.release()
    async with closed_behind(source.numbers(2)) as numbers:
        assert await anext(numbers) == 0
    assert source.is_closed
