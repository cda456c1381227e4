"""The outbound queue of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import StoreError, StreamLaggedError
from heimdall_server.rpc.streams import Outbound, OutboundBounds, produced


def queue(
    *,
    messages: int = 3,
    size: int = 100,
    beat_s: float | None = None,
    beat: Callable[[], bytes | None] = lambda: b"beat",
) -> Outbound[bytes]:
    return Outbound(
        OutboundBounds(messages, size, beat_s),
        size_of=len,
        token_of=lambda item: item if item != b"beat" else b"",
        heartbeat=beat,
    )


async def test_reader_gets_all_in_order_then_the_end() -> None:
    outbound = queue()
    for item in (b"a", b"b", b"c"):
        outbound.put_nowait(item)
    outbound.close()
    assert [item async for item in outbound] == [b"a", b"b", b"c"]
    assert outbound.last_token == b"c"


async def test_full_queue_ends_the_stream_with_the_token_of_what_was_read() -> None:
    outbound = queue()
    reader = aiter(outbound)
    outbound.put_nowait(b"a")
    assert await anext(reader) == b"a"
    for item in (b"b", b"c", b"d"):
        outbound.put_nowait(item)
    with pytest.raises(StreamLaggedError):
        outbound.put_nowait(b"e")
    outbound.put_nowait(b"f")
    with pytest.raises(StreamLaggedError) as caught:
        await anext(reader)
    assert caught.value.resume_token == b"a"


async def test_bytes_count_but_one_message_always_fits() -> None:
    outbound = queue(messages=10, size=10)
    assert outbound.offer(b"x" * 50)
    assert not outbound.offer(b"y")
    outbound.close()
    assert [item async for item in outbound] == [b"x" * 50]


async def test_producer_that_can_wait_is_slowed_to_the_readers_pace() -> None:
    outbound = queue(messages=2)
    longest = 0

    async def produce() -> None:
        nonlocal longest
        for number in range(20):
            await outbound.put(bytes([number]))
            longest = max(longest, outbound.waiting_count)

    assert [item async for item in produced(outbound, produce())] == [bytes([number]) for number in range(20)]
    assert longest == 2


async def test_silence_is_broken_by_heartbeats() -> None:
    outbound = queue(beat_s=0.01)
    reader = aiter(outbound)
    assert await anext(reader) == b"beat"
    outbound.put_nowait(b"a")
    assert await anext(reader) == b"a"
    assert await anext(reader) == b"beat"
    outbound.close()
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_heartbeat_that_has_nothing_to_say_is_left_out() -> None:
    outbound = queue(beat_s=0.005, beat=lambda: None)
    asyncio.get_running_loop().call_later(0.03, outbound.close)
    assert [item async for item in outbound] == []


async def test_error_of_the_producer_comes_after_what_it_produced() -> None:
    outbound = queue()

    async def produce() -> None:
        await outbound.put(b"a")
        raise StoreError("warm", "gone")

    seen = []

    async def read() -> None:
        async for item in produced(outbound, produce()):
            seen.append(item)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(StoreError):
        await read()
    assert seen == [b"a"]


async def test_reader_that_hangs_up_cancels_the_producer_and_waits_for_it() -> None:
    outbound = queue(messages=1)
    ended = False

    async def produce() -> None:
        nonlocal ended
        try:
            while True:
                await outbound.put(b"a")
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            ended = True

    stream = produced(outbound, produce())
    assert isinstance(stream, AsyncIterator)
    assert await anext(stream) == b"a"
    await stream.aclose()  # type: ignore[attr-defined] # it is a generator
    assert ended


async def test_putting_after_the_end_has_no_effect_and_does_not_hang() -> None:
    outbound = queue(messages=1)
    outbound.put_nowait(b"a")
    waiting = asyncio.create_task(outbound.put(b"b"))
    await asyncio.sleep(0)
    outbound.close()
    await waiting
    await outbound.put(b"c")
    assert not outbound.offer(b"d")
    assert [item async for item in outbound] == [b"a"]


@settings(max_examples=30)
@given(items=st.lists(st.binary(min_size=1, max_size=8), max_size=50), messages=st.integers(1, 5))
def test_nothing_is_lost_or_reordered(items: list[bytes], messages: int) -> None:
    async def run() -> list[bytes]:
        outbound = queue(messages=messages, size=16)

        async def produce() -> None:
            for item in items:
                await outbound.put(item)

        return [item async for item in produced(outbound, produce())]

    assert asyncio.run(run()) == items
