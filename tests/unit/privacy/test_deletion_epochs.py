"""A deletion by value is begun only while it knows every token that the value may have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heimdall_server.domain.operations import Operation, OperationKind, OperationState
from heimdall_server.services.privacy.logic.kinds.deletion import RecordDeletion
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.ledger.ledger import FileLedger
from tests.support.journal import make_entry, opened, small_config
from tests.support.sealed_filters import FILTERS
from tests.support.warm_process import SystemClock

TOKEN = "0" + "a" * 26


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as made:
        await made.append([make_entry("s")])
        yield made


async def deleted(
    journal: EmbeddedJournal, folder: Path, live: list[int], parameters: dict[str, Any], *, rotated: bool = False
) -> Operation:
    """What becomes of a deletion; with `rotated` an index key is made while its barrier is waited for."""
    clock = SystemClock()

    async def barrier() -> int:
        if rotated:
            live.append(max(live) + 1)
        return journal.head()[0]

    async def stored(position: int, timeout_s: float) -> bool:
        del position, timeout_s
        return True

    steps = RecordDeletion(
        journal, clock, barrier=barrier, wait_stored=stored, deleted_count=lambda _: 1, live_epochs=lambda: live
    )
    ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
    runner = OperationRunner(ledger.operations, clock, mask_text=str)
    runner.register(OperationKind.DELETE, lambda: steps)
    await runner.start()
    try:
        operation = await runner.create(
            OperationKind.DELETE,
            actor="a",
            reason="r",
            request_id="",
            identity="i",
            parameters=parameters,
            query=f"tokens:{TOKEN}",
        )
        async for seen in runner.watch(operation.operation_id):
            if seen.state is not OperationState.RUNNING or seen.inaccessible_time_ns:
                return seen
    finally:
        await runner.close()
        await ledger.close()
    raise AssertionError("it never ended")


@pytest.mark.parametrize("live", [[0, 1], [1]])
async def test_it_begins_under_the_keys_that_it_was_planned_for(
    journal: EmbeddedJournal, tmp_path: Path, live: list[int]
) -> None:
    operation = await deleted(journal, tmp_path, live, {"epochs": [0, 1]})
    assert operation.inaccessible_time_ns
    read = journal.read_control(0, after=1, through=journal.head()[0])
    frames = [frame async for frame in read if frame.entry.deletions]
    assert [frame.entry.deletions[0].filter for frame in frames] == [f"tokens:{TOKEN}"]


@pytest.mark.parametrize("rotated", [False, True])
async def test_it_fails_and_deletes_nothing_once_records_may_have_newer_tokens(
    journal: EmbeddedJournal, tmp_path: Path, *, rotated: bool
) -> None:
    live = [0] if rotated else [0, 1]
    operation = await deleted(journal, tmp_path, live, {"epochs": [0]}, rotated=rotated)
    assert operation.state is OperationState.FAILED
    assert "begin it again" in operation.problem
    assert journal.head() == {0: 1}


async def test_a_filter_without_values_begins_under_any_keys(journal: EmbeddedJournal, tmp_path: Path) -> None:
    assert (await deleted(journal, tmp_path, [5], {}, rotated=True)).inaccessible_time_ns
