"""Equal searches share an answer only if it is complete and was begun while they waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import StoreError
from heimdall_server.ports.log_store import Path, Plan, Statistics
from heimdall_server.services.query.logic import sharing
from heimdall_server.services.query.logic.sharing import Answered, Sharing, Waiter, shared

SCHEMA = pa.schema([pa.field("n", pa.int64())])
PLAN = Plan(Path.SCAN, "", 0, 0, "")


def rows(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(numbers, pa.int64())})


@dataclass(frozen=True)
class Ending(Answered):
    """An answer that ends with an error, or doesn't end."""

    error: Exception | None = None

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        async for batch in super().batches():
            yield batch
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


def answered(*batches: pa.RecordBatch, kind: Any = Answered, **more: Any) -> Any:
    return kind(SCHEMA, [], None, PLAN, {0: 7}, Statistics(9, 90, 0.1, 3), batches, **more)


async def read(result: Any) -> list[list[int]]:
    return [batch.column(0).to_pylist() async for batch in result.batches()]


async def waiting(sharing_: Sharing, key: str, got: list[Answered | None]) -> None:
    with sharing_.waiting(key) as waiter:
        await waiter.begun
    got.append(await waiter.answer(5))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_that_wait_with_the_same_key_get_the_answer_of_the_one_that_begins() -> None:
    together = Sharing()
    got: list[Answered | None] = []
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(waiting(together, "a", got))
        other = tasks.create_task(waiting(together, "b", []))
        await settle()
        async with together.leading("a") as followers, shared(answered(rows(1, 2), rows(3)), followers) as result:
            assert len(followers) == 3
            assert await read(result) == [[1, 2], [3]]
            await settle()
        assert not other.done()
        other.cancel()
    assert [await read(one) for one in got] == [[[1, 2], [3]]] * 3
    assert {(one.through[0], one.statistics.rows_read) for one in got if one is not None} == {(7, 9)}


async def test_who_comes_behind_the_beginning_is_not_taken_along() -> None:
    together = Sharing()
    async with together.leading("a") as followers:
        with together.waiting("a") as late:
            assert followers == []
            assert not late.begun.done()
    with together.waiting(None) as alone:
        async with together.leading(None) as followers:
            assert followers == []
        assert not alone.begun.done()


@pytest.mark.parametrize("error", [StoreError("s", "d"), None], ids=["failed", "given up"])
async def test_what_has_no_complete_answer_is_not_handed_on(error: Exception | None) -> None:
    together = Sharing()
    got: list[Answered | None] = []
    task = asyncio.create_task(waiting(together, "a", got))
    await settle()
    async with (
        together.leading("a") as followers,
        shared(answered(rows(1), kind=Ending, error=error), followers) as result,
    ):
        if error is not None:
            with pytest.raises(StoreError):
                await read(result)
        await settle()
    await task
    assert got == [None]


async def test_a_reader_that_takes_nothing_keeps_nobody_waiting() -> None:
    together = Sharing()
    got: list[Answered | None] = []
    task = asyncio.create_task(waiting(together, "a", got))
    await settle()
    async with together.leading("a") as followers, shared(answered(rows(1), rows(2)), followers):
        await task
    assert [await read(one) for one in got] == [[[1], [2]]]


@pytest.mark.parametrize(("truncated_by", "is_shared"), [("result_rows", True), ("time_s", False)])
async def test_what_was_cut_by_ones_own_time_is_not_handed_on(truncated_by: str, *, is_shared: bool) -> None:
    waiter = Waiter()
    source = replace(answered(rows(1)), statistics=Statistics(9, 90, 0.1, 1, truncated_by))
    async with shared(source, [waiter]) as result:
        assert await read(result) == [[1]]
        assert (await waiter.answer(1) is not None) is is_shared


@dataclass(frozen=True)
class Counted(Answered):
    """Tells how far it was read."""

    numbers: Sequence[int] = ()

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        async for batch in super().batches():
            list.append(self.numbers, batch.column(0)[0].as_py())  # type: ignore[arg-type]
            yield batch


async def test_a_large_answer_is_read_only_as_fast_as_its_caller_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "SHARED_BYTES_MAX", 20)
    waiter, seen = Waiter(), list[int]()
    source = answered(*(rows(number) for number in range(9)), kind=Counted, numbers=seen)
    async with shared(source, [waiter]) as result:
        await settle()
        assert seen == [0, 1, 2]
        assert await waiter.answer(1) is None
        assert await read(result) == [[number] for number in range(9)]
    assert seen == list(range(9))


async def test_who_waits_has_a_deadline() -> None:
    waiter = Waiter()
    with pytest.raises(TimeoutError):
        await waiter.answer(0.01)
