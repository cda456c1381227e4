"""What is worked out in a thread while PostgreSQL is at something: both are over before anybody goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from heimdall_server.storage.postgres.graph.staging import meanwhile


async def test_both_run_at_once_and_the_work_is_told() -> None:
    begun, let_go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(begun.set)
        assert let_go.wait(5)
        return "worked out"

    async def act() -> None:
        await begun.wait()
        let_go.set()

    assert await meanwhile(work, act()) == "worked out"


@pytest.mark.parametrize("work_fails", [False, True])
async def test_what_fails_meanwhile_is_raised_once_the_work_is_over(*, work_fails: bool) -> None:
    over = threading.Event()
    let_go = threading.Event()

    def work() -> None:
        assert let_go.wait(5)
        over.set()
        if work_fails:
            raise ValueError("of the work")

    async def act() -> None:
        asyncio.get_running_loop().call_later(0.02, let_go.set)
        raise ConnectionError("it is away")

    with pytest.raises(ConnectionError):
        await meanwhile(work, act())
    assert over.is_set()


async def test_work_that_fails_alone_is_raised() -> None:
    def work() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await meanwhile(work, asyncio.sleep(0))
