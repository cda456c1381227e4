"""The audit log of files: durable before it answers, masked, in order whatever comes at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heimdall_server.domain.errors import ChainBrokenError, StoreError
from heimdall_server.ports.audit import Act, AuditEntry, AuditLog
from heimdall_server.storage.ledger.audit import FileAuditLog
from tests.support.journal import ManualClock

ANNA, BEN = "spiffe://test.heimdall/client/anna", "spiffe://test.heimdall/client/ben"


def mask(text: str) -> str:
    return text.replace("alice@example.com", "[email]")


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[FileAuditLog]:
    log = await FileAuditLog.open(directory, clock=options.pop("clock", ManualClock()), mask_text=mask, **options)
    try:
        yield log
    finally:
        await log.close()


async def read(log: AuditLog, **filters: Any) -> list[AuditEntry]:
    return [entry async for entry in log.read(**filters)]


async def test_an_act_comes_back_as_it_was_with_its_reason_masked(tmp_path: Path) -> None:
    act = Act(ANNA, "privacy.reveal", "allowed", "wrote to alice@example.com", "[email:0aaa]", {"count": "2"}, "r-1")
    async with opened(tmp_path / "audit") as log:
        entry = await log.append(act)
        assert (entry.sequence, entry.act.reason) == (1, "wrote to [email]")
    async with opened(tmp_path / "audit") as log:
        assert await read(log) == [entry]
        assert await log.verify() == entry
        # An act may have nothing but what it was.
        await log.append(Act("", "x", ""))
        assert [one.act.action for one in await read(log)] == ["privacy.reveal", "x"]
    assert all(b"alice" not in path.read_bytes() for path in (tmp_path / "audit").iterdir())


async def test_an_empty_log_verifies(tmp_path: Path) -> None:
    async with opened(tmp_path / "audit") as log:
        assert await log.verify() is None
        assert await read(log) == []


async def test_many_at_once_become_one_chain_with_few_syncs(tmp_path: Path) -> None:
    syncs = 0

    def sync(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        os.fdatasync(descriptor)

    async with opened(tmp_path / "audit", segment_bytes_max=20_000, sync=sync) as log:
        acts = [
            Act(ANNA if number % 2 else BEN, f"a.{number % 3}", "done", subject=str(number)) for number in range(500)
        ]
        entries = await asyncio.gather(*map(log.append, acts))
        assert [entry.sequence for entry in entries] == list(range(1, 501))
        assert [entry.act for entry in entries] == acts
        assert syncs < 100
        assert await read(log, after=490) == entries[490:]
        assert {entry.act.actor for entry in await read(log, actor=BEN)} == {BEN}
        assert len(await read(log, action="a.1")) == 167
        last = await log.verify()
        assert last is not None
        assert last.sequence == 500


async def test_time_never_goes_back(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "audit", clock=clock) as log:
        first = await log.append(Act(ANNA, "a", "done"))
        clock.time_ns -= 5_000_000_000
        second = await log.append(Act(ANNA, "a", "done"))
        assert second.time_ns == first.time_ns


async def test_a_disk_that_fails_refuses_the_act_and_later_ones_go_on(tmp_path: Path) -> None:
    broken = False

    def sync(descriptor: int) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        os.fdatasync(descriptor)

    async with opened(tmp_path / "audit", sync=sync) as log:
        await log.append(Act(ANNA, "a", "done"))
        broken = True
        results = await asyncio.gather(*(log.append(Act(ANNA, "b", "done")) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, StoreError) for result in results)
        broken = False
        entry = await log.append(Act(ANNA, "c", "done"))
        assert [one.act.action for one in await read(log)] == ["a", "c"]
        assert await log.verify() == entry


async def test_an_entry_that_is_too_large_harms_nobody_elses(tmp_path: Path) -> None:
    async with opened(tmp_path / "audit") as log:
        large = Act(ANNA, "large", "done", details={"x": "y" * 2_000_000})
        results = await asyncio.gather(log.append(Act(ANNA, "a", "done")), log.append(large), return_exceptions=True)
        assert isinstance(results[0], AuditEntry)
        assert isinstance(results[1], StoreError)


async def test_a_caller_that_goes_away_leaves_its_entry(tmp_path: Path) -> None:
    async with opened(tmp_path / "audit") as log:
        task = asyncio.create_task(log.append(Act(ANNA, "a", "done")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await log.append(Act(BEN, "b", "done"))
        assert [one.act.action for one in await read(log)] == ["a", "b"]


async def test_a_change_under_a_running_log_is_found(tmp_path: Path) -> None:
    async with opened(tmp_path / "audit") as log:
        for number in range(5):
            await log.append(Act(ANNA, "a", "allowed", subject=str(number)))
        (path,) = (tmp_path / "audit").glob("*.chain")
        good = path.read_bytes()
        path.write_bytes(good.replace(b'"subject":"2"', b'"subject":"7"'))
        with pytest.raises(ChainBrokenError, match="audit, entry 3"):
            await log.verify()
        with pytest.raises(ChainBrokenError, match="audit, entry 3"):
            await read(log)
        path.write_bytes(good)
        assert await log.verify() is not None
