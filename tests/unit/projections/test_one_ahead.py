"""One thing at a time behind the caller's back, in order, and nothing of it is lost or left behind."""

from __future__ import annotations

import asyncio

import pytest

from heimdall_server.projections.graph.one_ahead import OneAhead


async def test_things_are_done_in_order_while_the_caller_goes_on() -> None:
    ahead, done = OneAhead(), list[int]()
    let_go = asyncio.Event()

    async def work(number: int) -> None:
        await let_go.wait()
        done.append(number)

    await ahead.put(work(1))
    assert done == []
    second = asyncio.create_task(ahead.put(work(2)))
    await asyncio.sleep(0)
    assert not second.done(), "one is under way"
    let_go.set()
    await second
    await ahead.settle()
    assert done == [1, 2]
    await ahead.settle()


async def test_what_failed_is_told_by_the_next_call_and_nothing_is_begun_then() -> None:
    ahead, begun = OneAhead(), list[str]()

    async def fail() -> None:
        raise ValueError("it failed")

    async def work() -> None:
        begun.append("next")

    await ahead.put(fail())
    with pytest.raises(ValueError, match="it failed"):
        await ahead.put(work())
    assert begun == []
    await ahead.settle()
    await ahead.put(work())
    await ahead.settle()
    assert begun == ["next"]


async def test_what_is_dropped_has_ended_and_says_nothing() -> None:
    ahead, ended = OneAhead(), list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        raise ValueError("nobody hears it")

    await ahead.put(work())
    await asyncio.sleep(0)
    await ahead.drop()
    assert ended == ["cancelled"]
    await ahead.put(fail())
    await asyncio.sleep(0)
    await ahead.drop()
    await ahead.drop()
    await ahead.settle()
