from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from heimdall_server.projections.read_ahead import ReadAhead, ReadLimits
from tests.support.journal import ManualClock, make_entry, name_of, opened, small_config

LIMITS = ReadLimits(batch_rows=4, linger_s=0.0, linger_max_s=60.0)


async def test_a_batch_of_many_rows_is_waited_for_longer(tmp_path: Path) -> None:
    clock = ManualClock()
    limits = ReadLimits(batch_rows=6, linger_s=0.0, busy_rows=4, busy_linger_s=60.0)
    async with opened(small_config(tmp_path), clock=clock) as journal:
        reader = ReadAhead(journal, 0, clock, limits)
        async with reader.running(0):
            await journal.append([make_entry("alone")])
            assert [name_of(frame) for frame in await reader.take()] == ["alone"]
            await journal.append([make_entry("first"), make_entry("second")])
            while reader.held_rows < limits.busy_rows:  # noqa: ASYNC110 - nothing tells when it has read
                await asyncio.sleep(0.001)
            taking = asyncio.create_task(reader.take())
            await asyncio.sleep(0.01)
            assert not taking.done()
            await journal.append([make_entry("third")])
            assert [name_of(frame) for frame in await taking] == ["first", "second", "third"]


async def test_slow_consumer_gets_full_batches(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(small_config(tmp_path), clock=clock) as journal:
        reader = ReadAhead(journal, 0, clock, LIMITS)
        task = asyncio.create_task(reader.run(0))
        try:
            await journal.append([make_entry("first")])
            assert [name_of(frame) for frame in await reader.take()] == ["first"]  # a quick one isn't kept waiting
            clock.advance(30)
            await journal.append([make_entry("second")])
            taking = asyncio.create_task(reader.take())
            while not reader.held_rows:  # noqa: ASYNC110 - nothing tells when it has read
                await asyncio.sleep(0.001)
            assert not taking.done()
            await journal.append([make_entry("third")])
            assert [name_of(frame) for frame in await taking] == ["second", "third"]
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
