"""Operations are durable before they begin, go on after a crash, and end once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from heimdall_server.domain.errors import (
    InvalidArgumentError,
    KeyMismatchError,
    NotFoundError,
    OperationStateError,
    StoreError,
)
from heimdall_server.domain.operations import Operation, OperationKind, OperationState
from heimdall_server.services.privacy.logic import operations
from heimdall_server.services.privacy.logic.operations import OperationRunner, Progress, Wait
from heimdall_server.storage.ledger.ledger import FileLedger
from tests.support.journal import ManualClock
from tests.support.sealed_filters import FILTERS

ANNA = "spiffe://test.heimdall/client/anna"
KIND = OperationKind.ROTATE_DEK


@dataclass
class Scripted:
    """Steps that do what a test says."""

    body: Callable[[Operation, Progress], Awaitable[Wait | None]]
    lane: str = "keys"
    stoppable: bool = True

    def can_stop(self, operation: Operation) -> bool:
        del operation
        return self.stoppable

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        return await self.body(operation, progress)


@asynccontextmanager
async def running(
    folder: Path, body: Callable[[Operation, Progress], Awaitable[Wait | None]], **steps: object
) -> AsyncIterator[OperationRunner]:
    ledger = await FileLedger.open(folder / "privacy", clock=ManualClock(), filters=FILTERS)
    runner = OperationRunner(ledger.operations, ManualClock(), mask_text=lambda text: text.replace("alice", "[name]"))
    for kind in (KIND, OperationKind.ERASE):
        runner.register(kind, lambda: Scripted(body, **steps))  # type: ignore[arg-type]  # what each test gives
    try:
        await runner.start()
        yield runner
    finally:
        await runner.close()
        await ledger.close()


async def ended(runner: OperationRunner, operation_id: str) -> Operation:
    async with asyncio.timeout(5):
        return [one async for one in runner.watch(operation_id)][-1]


async def at_once(operation: Operation, progress: Progress) -> None:
    del operation, progress


async def begin(runner: OperationRunner, **changes: object) -> Operation:
    values: dict[str, object] = {"actor": ANNA, "reason": "for alice", "parameters": {"classes": ["email"]}}
    return await runner.create(KIND, **{**values, **changes})  # type: ignore[arg-type]


async def test_an_operation_is_done_and_remembered_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, at_once) as runner:
        made = await begin(runner)
        done = await ended(runner, made.operation_id)
        assert (done.state, done.reason, done.parameters) == (OperationState.DONE, "for [name]", {"classes": ["email"]})
        assert done.end_time_ns
        with pytest.raises(OperationStateError):
            await runner.cancel(made.operation_id)
        with pytest.raises(NotFoundError):
            await runner.find("rotate-dek-nothing")
    async with running(tmp_path, at_once) as runner:
        assert runner.get(made.operation_id) == done
        assert runner.list() == [done]
        assert runner.list(running_only=True) == []


@dataclass
class Work:
    """Three steps, each noted; the process dies behind a given one."""

    die_after: int = 99
    done: list[int] = field(default_factory=list)
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, operation: Operation, progress: Progress) -> None:
        for step in range(operation.facts.get("step", 0), 3):
            await progress.checkpoint()
            self.done.append(step)
            progress.count(step + 1, 3)
            if step == self.die_after:
                self.dead.set()
                await asyncio.sleep(60)
            await progress.note(facts={"step": step + 1}, stage=f"step {step + 1}")


@pytest.mark.parametrize("step", [0, 1, 2])
async def test_work_that_was_cut_off_goes_on_where_it_had_noted(tmp_path: Path, step: int) -> None:
    first = Work(die_after=step)
    async with running(tmp_path, first) as runner:
        made = await begin(runner)
        await asyncio.wait_for(first.dead.wait(), 5)
    second = Work()
    async with running(tmp_path, second) as runner:
        done = await ended(runner, made.operation_id)
    # The step that hadn't been noted is done again; the others aren't.
    assert second.done == list(range(step, 3))
    assert (done.state, done.facts, done.done_count, done.total_count) == (OperationState.DONE, {"step": 3}, 3, 3)


async def test_a_repeat_of_a_request_gives_the_first_operation_and_no_other(tmp_path: Path) -> None:
    async with running(tmp_path, at_once) as runner:
        first = await begin(runner, request_id="r-1", identity="a")
        again = await begin(runner, request_id="r-1", identity="a")
        assert again.operation_id == first.operation_id
        with pytest.raises(InvalidArgumentError):
            await begin(runner, request_id="r-1", identity="b")
        other = await begin(runner, request_id="r-1", identity="a", actor=ANNA + "2")
        assert other.operation_id != first.operation_id


async def test_a_store_that_fails_is_tried_again_and_another_error_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "RETRY_S_MIN", 0.01)
    errors: list[Exception] = [StoreError("vault", "secret words of an engine"), KeyMismatchError("a", "b")]
    problems: list[str] = []

    async def body(operation: Operation, progress: Progress) -> None:
        del operation
        problems.append(progress.operation.problem)
        raise errors.pop(0)

    async with running(tmp_path, body) as runner:
        done = await ended(runner, (await begin(runner)).operation_id)
    assert done.state is OperationState.FAILED
    assert "restore the right key" in done.problem
    assert problems == ["", "the store vault failed; it is tried again"]


async def test_a_bug_fails_the_operation_without_its_words(tmp_path: Path) -> None:
    async def body(operation: Operation, progress: Progress) -> None:
        del operation, progress
        msg = "alice@example.com"
        raise ValueError(msg)

    async with running(tmp_path, body) as runner:
        done = await ended(runner, (await begin(runner)).operation_id)
    assert done.problem.startswith("internal error")


async def test_a_rotation_stops_between_two_steps_and_an_erasure_does_not(tmp_path: Path) -> None:
    async def body(operation: Operation, progress: Progress) -> None:
        del operation
        while True:
            await progress.checkpoint()
            await asyncio.sleep(0.001)

    async with running(tmp_path, body) as runner:
        made = await begin(runner)
        await asyncio.sleep(0.01)
        await runner.cancel(made.operation_id)
        assert (await ended(runner, made.operation_id)).state is OperationState.CANCELLED
    async with running(tmp_path / "b", body, stoppable=False) as runner:
        made = await begin(runner)
        with pytest.raises(OperationStateError, match="can't be stopped"):
            await runner.cancel(made.operation_id)


async def test_one_lane_is_one_at_a_time_and_a_waiting_one_leaves_it(tmp_path: Path) -> None:
    order: list[str] = []

    async def body(operation: Operation, progress: Progress) -> Wait | None:
        del progress
        order.append(operation.reason)
        if operation.reason == "waits" and order.count("waits") == 1:
            return Wait(0.05, "waiting for the journal")
        return None

    async with running(tmp_path, body) as runner:
        first = await begin(runner, reason="waits")
        second = await begin(runner, reason="quick")
        await ended(runner, second.operation_id)
        assert runner.get(first.operation_id).stage == "waiting for the journal"
        assert (await ended(runner, first.operation_id)).state is OperationState.DONE
    assert order == ["waits", "quick", "waits"]


async def test_who_watches_sees_counts_that_are_not_written(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def body(operation: Operation, progress: Progress) -> None:
        del operation
        await go.wait()
        for number in range(5):
            progress.count(number + 1, 5, affected=number)
            await asyncio.sleep(0.002)

    async with running(tmp_path, body) as runner:
        made = await begin(runner)
        seen = []
        async for one in runner.watch(made.operation_id):
            seen.append(one.done_count)
            go.set()
    assert seen[0] == 0
    assert seen[-1] == 5
    assert len(seen) > 3
