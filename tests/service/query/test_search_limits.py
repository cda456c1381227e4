"""What a search may use, and that it stops when nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.ports.log_store import Limits
from heimdall_server.services.query.logic.admission import AdmissionLimits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.service.query.conftest import Serve
from tests.support.log_stores import frame
from tests.support.query_client import details_of, reason_of, status_of
from tests.support.query_server import QueryServer, records

SLOW = " OR ".join(f"body:/frame-(1|2) d[a-z]*{n} x?y/" for n in range(300))
"""Reads every body hundreds of times."""
ROWS = 60_000


async def fill(server: QueryServer, rows: int = ROWS, *, times: int = 1) -> None:
    batch = frame(1, rows)
    for _ in range(times):
        await server.put(batch.select(batch.schema.names[:-3]))


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


async def refused(server: QueryServer, text: str = "*:*", **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.search(text, **fields)
    return caught.value


async def running(engine: ChdbEngine) -> int:
    """Queries of ours that the engine runs."""

    def ask() -> int:
        connection = engine.connect()
        try:
            table = connection.table(
                "SELECT count() AS n FROM system.processes WHERE Settings['log_comment'] LIKE 'query-%'"
            )
            return int(table.column("n")[0].as_py())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def until_running(engine: ChdbEngine, count: int, *, timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while await running(engine) != count:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.01)


async def test_a_query_that_takes_too_long_is_ended(server: QueryServer, chdb_engine: ChdbEngine) -> None:
    await fill(server)
    error = await refused(server, f"{SLOW} | stats count()", timeout_duration=seconds(0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    info, _ = details_of(status_of(error))
    assert info.reason == "QUERY_TIMEOUT"
    assert info.metadata["limit_s"] == "0.3"
    await until_running(chdb_engine, 0)


async def test_the_wait_for_consistency_counts_against_the_timeout(serve: Serve) -> None:
    async with serve(project=False) as server:
        await server.put(records(["a"]), visible=False)
        error = await refused(server, consistent=True, timeout_duration=seconds(0.05))
        assert reason_of(error) == "QUERY_TIMEOUT"


async def test_a_timeout_that_is_over_before_the_store_is_asked_is_one(server: QueryServer) -> None:
    assert reason_of(await refused(server, timeout_duration=seconds(1e-6))) == "QUERY_TIMEOUT"


async def test_hanging_up_stops_the_query_in_the_engine(server: QueryServer, chdb_engine: ChdbEngine) -> None:
    await fill(server, times=12)  # by itself it would end long after `until_running` has given up
    call = server.stub.Search(server.request(f"{SLOW} | stats count()"))
    await until_running(chdb_engine, 1)
    call.cancel()
    await until_running(chdb_engine, 0)
    assert len((await server.search("frame", row_limit=3)).rows) == 3


async def test_hanging_up_in_the_midst_of_rows_stops_the_query(server: QueryServer, chdb_engine: ChdbEngine) -> None:
    await fill(server)
    call = server.stub.Search(server.request(row_encoding=pb.ROW_ENCODING_ARROW_IPC, order=pb.ORDER_JOURNAL))
    await call.read()
    await call.read()
    call.cancel()
    await until_running(chdb_engine, 0)
    for _ in range(6):
        assert (await server.search("* | stats count() as n")).rows == [{"n": ROWS}]


async def test_a_clients_deadline_ends_the_query(server: QueryServer, chdb_engine: ChdbEngine) -> None:
    await fill(server)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.search(f"{SLOW} | stats count()", timeout_s=0.4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_running(chdb_engine, 0)


async def test_a_query_that_would_read_too_much_is_refused(serve: Serve) -> None:
    async with serve(limits=Limits(scan_rows=1000)) as server:
        await fill(server, 20_000)
        error = await refused(server, "* | stats count_distinct(body) as n")
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "QUERY_TOO_EXPENSIVE"


async def test_callers_have_their_share_of_queries(serve: Serve, chdb_engine: ChdbEngine) -> None:
    limits = AdmissionLimits(mediums_max=2, waiting_max=1, per_caller_max=3)
    async with serve(admission=limits) as server:
        await fill(server)
        calls = [server.stub.Search(server.request(f"{SLOW} | stats count()")) for _ in range(2)]
        await until_running(chdb_engine, 2)
        waiting = asyncio.create_task(refused(server, f"{SLOW} | stats count()", timeout_duration=seconds(0.5)))
        await asyncio.sleep(0.05)
        error = await refused(server)
        info, _ = details_of(status_of(error))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (info.reason, info.metadata["budget"]) == ("BUDGET_EXCEEDED", "queries of one caller")
        info, _ = details_of(status_of(await waiting))
        assert info.metadata["budget"] == "concurrent queries"
        for call in calls:
            call.cancel()
        await until_running(chdb_engine, 0)
        assert (await server.search("* | stats count() as n")).rows == [{"n": ROWS}]


async def test_silence_between_rows_is_broken_by_progress(server: QueryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.services.query.logic.search.PROGRESS_S", 0.0001)
    await fill(server)
    answer = await server.search(row_encoding=pb.ROW_ENCODING_ARROW_IPC, order=pb.ORDER_JOURNAL)
    kinds = [message.WhichOneof("message") for message in answer.messages]
    assert kinds[0] == "schema"
    assert kinds[-1] == "finished"
    assert kinds.count("progress") > 0
    assert answer.table.num_rows == ROWS
