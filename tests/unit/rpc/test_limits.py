"""The limits and the budget of bytes in flight."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.rpc.limits import InflightBytes, Reservation, RpcLimits


def test_limits_that_are_not_positive_are_all_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcLimits(calls_max=0, heartbeat_s=-1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["limits.calls_max", "limits.heartbeat_s"]


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="message_inflated_bytes_max"):
        RpcLimits(message_bytes_max=100, message_inflated_bytes_max=99)
    with pytest.raises(ConfigurationError, match="inflight_bytes_max"):
        RpcLimits(inflight_bytes_max=1)


def test_unary_calls_are_refused_when_the_budget_is_used_up() -> None:
    budget = InflightBytes(100)
    with budget.try_acquire(60):
        with pytest.raises(BudgetExceededError) as caught:
            budget.try_acquire(41)
        assert caught.value.retry_after_s > 0
        with budget.try_acquire(40):
            assert budget.used_bytes == 100
    assert budget.used_bytes == 0


def test_what_is_larger_than_the_budget_counts_as_the_whole() -> None:
    budget = InflightBytes(100)
    with budget.try_acquire(1000) as held:
        assert held.size == budget.used_bytes == 100


def test_reservation_shrinks_and_is_released_once() -> None:
    budget = InflightBytes(100)
    held = budget.try_acquire(80)
    held.shrink(90)
    assert budget.used_bytes == 80
    held.shrink(30)
    assert budget.used_bytes == 30
    held.release()
    held.release()
    assert budget.used_bytes == 0


async def test_streams_wait_in_order_and_small_ones_do_not_overtake() -> None:
    budget = InflightBytes(100)
    first = budget.try_acquire(90)
    order: list[str] = []

    async def take(name: str, size: int) -> Reservation:
        held = await budget.acquire(size, timeout_s=2)
        order.append(name)
        return held

    async with asyncio.TaskGroup() as group:
        large = group.create_task(take("large", 50))
        await asyncio.sleep(0)
        small = group.create_task(take("small", 5))
        await asyncio.sleep(0.01)
        assert order == []
        with pytest.raises(BudgetExceededError):
            budget.try_acquire(1)
        first.release()
    assert order == ["large", "small"]
    large.result().release()
    small.result().release()
    assert budget.used_bytes == 0


async def test_a_wait_that_is_too_long_is_refused_and_lets_the_next_one_through() -> None:
    budget = InflightBytes(100)
    with budget.try_acquire(90):
        waiting = asyncio.create_task(budget.acquire(50, timeout_s=0.02))
        await asyncio.sleep(0)
        behind = asyncio.create_task(budget.acquire(10))
        with pytest.raises(BudgetExceededError):
            await waiting
        (await behind).release()
    assert budget.used_bytes == 0


async def test_cancelling_a_waiter_leaks_nothing() -> None:
    budget = InflightBytes(10)
    held = budget.try_acquire(10)
    waiters = [asyncio.create_task(budget.acquire(10)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    # Granted and cancelled in the same moment: what it was given must come back.
    held.release()
    waiters[0].cancel()
    await asyncio.gather(*waiters[:2], return_exceptions=True)
    (await waiters[2]).release()
    assert budget.used_bytes == 0


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 120), max_size=30), cancelled=st.sets(st.integers(0, 29)))
def test_budget_is_never_exceeded_and_ends_empty(sizes: list[int], cancelled: set[int]) -> None:
    async def run() -> None:
        budget = InflightBytes(100)

        async def use(size: int) -> None:
            with await budget.acquire(size):
                assert budget.used_bytes <= 100
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(use(size)) for size in sizes]
        await asyncio.sleep(0)
        for index in cancelled:
            if index < len(tasks):
                tasks[index].cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert budget.used_bytes == 0

    asyncio.run(run())
