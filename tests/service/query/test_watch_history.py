"""What a watch reads of the store, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall_server.ports.log_store import Limits
from heimdall_server.services.query.logic.watch.outbox import OutboxLimits
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from tests.service.query.conftest import Serve
from tests.support.log_stores import frame
from tests.support.query_client import reason_of
from tests.support.query_server import SECOND_NS, TIME_NS, QueryServer, records


def stamp(ns: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(ns)
    return timestamp


async def test_history_is_read_in_pages_that_the_limits_allow(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.source._PAGE_ROWS", 7)
    async with serve(limits=Limits(result_rows=5)) as server:
        bodies = [f"{number}/{row}" for number in range(12) for row in range(number)]
        await server.put(*[records([f"{number}/{row}" for row in range(number)]) for number in range(12)])
        async with server.watching() as watching:
            watching.create("w", since_time=stamp(0))
            await watching.until_rows(len(bodies))
            assert watching.bodies() == bodies


async def test_a_page_that_costs_too_much_is_made_smaller(serve: Serve) -> None:
    async with serve(limits=Limits(scan_rows=25_000)) as server:
        frames = [frame(number, 8_192, start_ns=TIME_NS + number * 8_192 * SECOND_NS) for number in range(1, 9)]
        await server.put(*[each.select(each.schema.names[:-3]) for each in frames])
        async with server.watching() as watching:
            watching.create("w", "row:17 | fields position", since_time=stamp(0))
            assert await watching.until_rows(8) == [{"position": number} for number in range(1, 9)]


async def test_history_that_the_store_does_not_hold_yet_is_refused_for_now(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.source.VISIBLE_WAIT_S", 0.05)
    async with serve(project=False) as server:
        await server.put(records(["a"]), visible=False)
        async with server.watching() as watching:
            watching.create("w", since_time=stamp(0))
            cancelled = await watching.first("cancelled")
            assert reason_of(cancelled.status) == "OVERLOADED"
            assert cancelled.through


async def test_a_bug_ends_its_watch_and_tells_nothing_of_itself(
    server: QueryServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    for module in ("runner", "crowd"):
        monkeypatch.setattr(f"heimdall_server.services.query.logic.watch.{module}.journal_pieces", broken)
    async with server.watching() as watching:
        watching.create("w")
        cancelled = await watching.first("cancelled")
        assert reason_of(cancelled.status) == "INTERNAL"
        assert "secret" not in str(cancelled.status)
        assert "watch failed" in caplog.text
        monkeypatch.undo()
        watching.create("w")
        await watching.first("created", count=2)
        await server.put(records(["a"]), visible=False)
        await watching.until_rows(1)


async def test_a_request_that_breaks_the_contract_ends_the_stream(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("")
        await watching.until_ended()
        assert watching.error is not None
        assert watching.error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_watches_leave_room_for_searches_while_they_stand_in_history(serve: Serve) -> None:
    limits = WatchLimits(outbox=OutboxLimits(bytes_max=100_000))
    async with serve(watch_limits=limits, query_connections=3) as server, AsyncExitStack() as stack:
        await server.put(*[records([f"{number}".ljust(50_000, "x")] * 20) for number in range(20)])
        for _ in range(6):
            watching = await stack.enter_async_context(server.watching())
            watching.may_read.clear()
            watching.create("w", since_time=stamp(0))
        async with asyncio.timeout(10):
            while server.watch.watch_count < 6:  # noqa: ASYNC110 - the server takes them one by one
                await asyncio.sleep(0.01)
        # Nobody reads, so every watch stands still in its history; none of them holds a connection.
        answers = await asyncio.gather(*(server.search("* | stats count() as n") for _ in range(8)))
        assert [answer.rows for answer in answers] == [[{"n": 400}]] * 8
