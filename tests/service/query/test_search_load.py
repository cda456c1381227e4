"""Many queries at once, from several callers: who waits for whom, and what is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from prometheus_client import REGISTRY

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.services.query.logic.admission import AdmissionLimits, QueryClass
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.service.query.conftest import Serve
from tests.service.query.test_search_limits import ROWS, SLOW, fill, running, seconds, until_running
from tests.support.pki import Pki
from tests.support.query_client import reason_of, status_of
from tests.support.query_server import QueryServer, records

SCAN = f"{SLOW} | stats count() as n"
PANEL = "* | stats count() as n"


@asynccontextmanager
async def other(pki: Pki, server: QueryServer, name: str) -> AsyncIterator[Any]:
    """A stub of another identity."""
    async with pki.channel(server.rpc.mesh_address, pki.leaf(name)) as channel:
        yield query_service_pb2_grpc.QueryServiceStub(channel)


async def rows(stub: Any, server: QueryServer, text: str) -> list[str]:
    call = stub.Search(server.request(text), timeout=20)
    return [row async for message in call for row in message.batch.json_rows]


async def until_refused(server: QueryServer) -> grpc.aio.AioRpcError:
    async with asyncio.timeout(20):
        while True:
            try:
                await server.search(SCAN, timeout_duration=seconds(0.2))
            except grpc.aio.AioRpcError as error:
                return error


async def test_a_caller_with_many_scans_keeps_no_ones_panel_waiting(
    serve: Serve, pki: Pki, chdb_engine: ChdbEngine
) -> None:
    async with serve() as server, other(pki, server, "analyst") as analyst:
        await fill(server)
        scans = [server.stub.Search(server.request(SCAN)) for _ in range(20)]
        await until_running(chdb_engine, 1)
        for stub in (server.stub, analyst):
            assert await rows(stub, server, PANEL) == [f'{{"n":{ROWS}}}']
        assert await running(chdb_engine) <= 1
        for call in scans:
            call.cancel()
        await until_running(chdb_engine, 0)


async def test_anothers_scan_comes_before_the_rest_of_a_callers_many(
    serve: Serve, pki: Pki, chdb_engine: ChdbEngine
) -> None:
    async with serve() as server, other(pki, server, "analyst") as analyst:
        await fill(server, 15_000)
        finished: list[int] = []

        async def ask(number: int) -> None:
            await rows(server.stub, server, SCAN.replace("frame", f"frame{number}"))
            finished.append(number)

        asked = [asyncio.create_task(ask(number)) for number in range(8)]
        await until_running(chdb_engine, 1)
        await rows(analyst, server, SCAN)
        assert len(finished) <= 2
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        await until_running(chdb_engine, 0)


async def test_a_client_that_is_gone_frees_its_turn(serve: Serve, chdb_engine: ChdbEngine) -> None:
    async with serve() as server:
        await fill(server)
        first, second, third = (server.stub.Search(server.request(SCAN)) for _ in range(3))
        await until_running(chdb_engine, 1)
        second.cancel()
        first.cancel()
        async with asyncio.timeout(10):
            assert [row async for message in third for row in message.batch.json_rows] == ['{"n":0}']
        await until_running(chdb_engine, 0)


async def until_waiting(server: QueryServer, count: int) -> None:
    async with asyncio.timeout(5):
        while server.watch.ports.admission.waiting(QueryClass.SHORT) != count:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


def shared_count() -> float:
    return REGISTRY.get_sample_value("heimdall_query_shared_total") or 0.0


async def test_equal_searches_that_wait_are_one_statement_and_see_what_came_while_they_waited(
    serve: Serve, pki: Pki
) -> None:
    async with serve(admission=AdmissionLimits(concurrent_max=1)) as server, other(pki, server, "analyst") as analyst:
        await server.put(records(["a"]))
        before = shared_count()
        async with server.watch.ports.admission.admit("somebody"):
            panels = [asyncio.create_task(rows(server.stub, server, PANEL)) for _ in range(3)]
            latest = [
                asyncio.create_task(rows(stub, server, "* | fields body | limit 5")) for stub in (server.stub, analyst)
            ]
            await until_waiting(server, 5)
            await server.put(records(["b"]))
            panels += [asyncio.create_task(rows(analyst, server, PANEL)) for _ in range(2)]
            await until_waiting(server, 7)
        assert await asyncio.gather(*panels) == [['{"n":2}']] * 5
        assert await asyncio.gather(*latest) == [['{"body":"b"}', '{"body":"a"}']] * 2
        assert shared_count() - before == 5


async def test_whoever_waited_for_one_that_gave_up_asks_for_itself(serve: Serve, chdb_engine: ChdbEngine) -> None:
    async with serve() as server:
        await fill(server)
        blocking = server.stub.Search(server.request(SCAN.replace("frame", "other")))
        await until_running(chdb_engine, 1)
        asked = [server.stub.Search(server.request(SCAN)) for _ in range(3)]
        blocking.cancel()
        await until_running(chdb_engine, 0)
        await until_running(chdb_engine, 1)
        asked[0].cancel()
        for call in asked[1:]:
            assert [row async for message in call for row in message.batch.json_rows] == ['{"n":0}']


async def test_a_page_that_goes_on_shares_with_nobody(serve: Serve) -> None:
    async with serve(admission=AdmissionLimits(concurrent_max=1)) as server:
        await server.put(records(["a", "b", "c"]))
        first = await server.search("* | fields body", row_limit=2)
        before = shared_count()
        async with server.watch.ports.admission.admit("somebody"):
            pages = [
                asyncio.create_task(
                    server.search("* | fields body", row_limit=2, resume_token=first.finished.resume_token)
                )
                for _ in range(2)
            ]
            await until_waiting(server, 2)
        assert [len((await page).rows) for page in pages] == [1, 1]
        assert shared_count() == before


async def test_overload_is_told_with_a_time_to_come_back(serve: Serve, chdb_engine: ChdbEngine) -> None:
    async with serve(admission=AdmissionLimits(waiting_max=1)) as server:
        await fill(server)
        calls = [server.stub.Search(server.request(SCAN)) for _ in range(2)]
        await until_running(chdb_engine, 1)
        error = await until_refused(server)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "BUDGET_EXCEEDED"
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status_of(error).details)
        assert retry.retry_delay.ToNanoseconds() > 0
        for call in calls:
            call.cancel()
        await until_running(chdb_engine, 0)


async def test_what_needs_more_memory_than_a_short_query_may_is_answered_as_a_scan(serve: Serve) -> None:
    limits = AdmissionLimits(short_memory_bytes_max=1 << 20)
    async with serve(admission=limits) as server:
        await fill(server, 20_000)
        answer = await server.search("* | stats count() as n by body | sort -n | limit 1")
        assert answer.rows[0]["n"] == 1


async def test_a_long_aggregation_tells_its_columns_and_progress_before_it_has_rows(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heimdall_server.storage.clickhouse.running.SCHEMA_AFTER_S", 0.05)
    monkeypatch.setattr("heimdall_server.services.query.logic.search.PROGRESS_S", 0.05)
    async with serve() as server:
        await fill(server, 20_000)
        answer = await server.search(f"{SLOW} | stats count() as n, avg(ms) as mean by user | limit 3")
        kinds = [message.WhichOneof("message") for message in answer.messages]
        assert kinds[:2] == ["schema", "progress"]
        assert [column.name for column in answer.schema.columns] == ["user", "n", "mean"]
        assert kinds[-1] == "finished"


async def test_hanging_up_on_a_long_aggregation_that_told_its_columns_stops_it(
    serve: Serve, chdb_engine: ChdbEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heimdall_server.storage.clickhouse.running.SCHEMA_AFTER_S", 0.01)
    async with serve() as server:
        await fill(server)
        call = server.stub.Search(server.request(SCAN))
        message = await call.read()
        assert isinstance(message, pb.SearchResponse)
        assert message.WhichOneof("message") == "schema"
        call.cancel()
        await until_running(chdb_engine, 0)
        assert (await server.search(PANEL)).rows == [{"n": ROWS}]
