"""The queue between a stream's watches and its reader."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import StoreError, StreamLaggedError
from heimdall_server.services.query.logic.watch.outbox import Outbox, OutboxLimits
from heimdall_server.services.query.watch_model import Cancelled, Event, Progress, Rows


def rows(size: int, name: str = "w") -> Rows:
    return Rows(name, pa.record_batch({"b": pa.array([b"x" * size], pa.binary(size))}), lambda _: b"", False, False)


def beat(name: str = "w") -> Progress:
    return Progress(name, b"", {0: 1})


async def drained(outbox: Outbox) -> list[str]:
    names = []
    while (event := await outbox.get()) is not None:
        names.append(event.watch_id)
    return names


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_reader_gets_all_in_order_then_the_end() -> None:
    outbox = Outbox(OutboxLimits())
    for name in "abc":
        await outbox.put(beat(name))
    outbox.close()
    assert await drained(outbox) == ["a", "b", "c"]
    assert await outbox.get() is None


async def test_reader_gets_the_error_behind_what_came_before_it() -> None:
    outbox = Outbox(OutboxLimits())
    await outbox.put(beat())
    outbox.close(StoreError("s", "d"))
    outbox.close()
    assert await outbox.get() is not None
    with pytest.raises(StoreError):
        await outbox.get()


async def test_bytes_are_bounded_but_one_event_always_fits() -> None:
    outbox = Outbox(OutboxLimits(bytes_max=100, lag_s=0.01))
    await outbox.put(rows(500))
    with pytest.raises(StreamLaggedError):
        await outbox.put(rows(1))
    await outbox.put(beat())
    await outbox.get()
    assert outbox.waiting_bytes == 0
    await outbox.put(rows(60))
    await outbox.put(rows(40))
    assert not outbox.offer(rows(1))


async def test_messages_are_bounded() -> None:
    outbox = Outbox(OutboxLimits(events_max=2, lag_s=0.01))
    assert outbox.offer(beat())
    assert outbox.offer(beat())
    assert not outbox.offer(beat())
    with pytest.raises(StreamLaggedError, match="2 messages waited"):
        await outbox.put(beat())
    outbox.put_last(Cancelled("w", None, b""))
    outbox.close()
    assert len(await drained(outbox)) == 3


async def test_whoever_waits_for_room_waits_in_turn() -> None:
    outbox = Outbox(OutboxLimits(events_max=1))
    await outbox.put(beat("first"))
    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(outbox.put(beat(name)))
            await settle()
        assert not outbox.offer(beat("late"))
        got = []
        for _ in range(4):
            event = await outbox.get()
            assert event is not None
            got.append(event.watch_id)
            await settle()
    assert got == ["first", "a", "b", "c"]


async def test_nobody_waits_for_a_closed_outbox_and_nothing_more_comes_in() -> None:
    outbox = Outbox(OutboxLimits(events_max=1))
    await outbox.put(beat("a"))
    waiting = asyncio.create_task(outbox.put(beat("b")))
    await settle()
    outbox.close()
    await asyncio.wait_for(waiting, 10)
    await outbox.put(beat("c"))
    outbox.put_last(beat("d"))
    assert await drained(outbox) == ["a"]


async def test_a_put_that_is_cancelled_puts_nothing() -> None:
    outbox = Outbox(OutboxLimits(events_max=1))
    await outbox.put(beat("a"))
    waiting: asyncio.Task[None] = asyncio.create_task(outbox.put(beat("b")))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    event: Event | None = await outbox.get()
    assert event is not None
    assert outbox.offer(beat("c"))
    outbox.close()
    assert await drained(outbox) == ["c"]
