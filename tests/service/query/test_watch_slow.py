"""A reader that is too slow costs itself its watch, and nobody else anything."""

from __future__ import annotations

import asyncio
import time

from google.rpc import code_pb2

from heimdall_server.services.query.logic.watch.outbox import OutboxLimits
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from tests.service.query.conftest import Serve
from tests.support.query_client import details_of
from tests.support.query_server import records

LIMITS = WatchLimits(outbox=OutboxLimits(bytes_max=200_000, events_max=16, lag_s=0.4), heartbeat_s=0.1)
FRAMES = 60


async def test_a_slow_reader_is_ended_with_a_token_while_all_else_goes_on(serve: Serve) -> None:
    async with serve(watch_limits=LIMITS) as server, server.watching() as fast, server.watching() as slow:
        fast.create("w")
        slow.create("w")
        await fast.first("created")
        await slow.first("created")
        slow.may_read.clear()
        waits = []
        for frame in range(FRAMES):
            started = time.perf_counter()
            await server.put(records([f"{frame}/{row}".ljust(90_000, "x") for row in range(5)]), visible=False)
            waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.01)
        await fast.until_rows(FRAMES * 5)
        assert sorted(waits)[len(waits) // 2] < 2.0
        async with asyncio.timeout(20):
            while server.watch.watch_count != 1:  # noqa: ASYNC110 - the server gives the slow one up
                await asyncio.sleep(0.01)
        slow.may_read.set()
        cancelled = await slow.first("cancelled")
        info, _ = details_of(cancelled.status)
        assert cancelled.status.code == code_pb2.ABORTED
        assert info.reason == "STREAM_LAGGED"
        assert cancelled.through == slow.of("rows")[-1].through
        seen = slow.bodies()
        assert seen == fast.bodies()[: len(seen)] != fast.bodies()
        # The stream goes on, and so does the watch, from its token.
        slow.create("w", resume_token=cancelled.through)
        await slow.until_rows(FRAMES * 5)
        assert slow.bodies() == fast.bodies()


async def test_a_client_that_asks_and_never_reads_fills_no_memory(serve: Serve) -> None:
    async with serve(watch_limits=LIMITS) as server, server.watching() as deaf, server.watching() as other:
        deaf.may_read.clear()
        for _ in range(20_000):
            deaf.cancel("nobody" * 20)
        await asyncio.sleep(0.3)
        other.create("w")
        await other.first("created")
        await server.put(records(["one"]), visible=False)
        await other.until_rows(1)
        deaf.may_read.set()
        await deaf.until(lambda: len(deaf.of("cancelled", "nobody" * 20)) > 1_000)
