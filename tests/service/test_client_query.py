from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2

from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import expression_pb2
from heimdall_client import (
    AsyncClient,
    ClosedError,
    OverloadedError,
    PermissionDeniedError,
    QueryInvalidError,
    StoreFailedError,
    rows_of,
    sql,
)
from tests.support.append_server import status_of
from tests.support.pki import Pki
from tests.support.sdk_server import FakeServer, client_config

UNAVAILABLE = status_of(code_pb2.UNAVAILABLE, "STORE_FAILED", retry_s=0.02)


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[FakeServer]:
    async with FakeServer(pki) as running:
        yield running


@pytest.fixture
async def client(server: FakeServer, pki: Pki) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client_config(pki, address=server.address)) as connected:
        yield connected


async def test_rows_are_python_values(client: AsyncClient) -> None:
    rows = [row async for row in client.search("*")]
    assert len(rows) == 35
    assert rows[7] == {
        "time": dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC),
        "service": "api",
        "body": "line 7",
        "attributes": {"n": "7"},
        "trace_id": "00" * 15 + "07",
    }
    assert rows[0]["trace_id"] is None


async def test_answer_tells_what_it_used_and_what_is_missing(client: AsyncClient) -> None:
    seen: list[int] = []
    search = client.search("service:api", limit=12, on_progress=lambda s: seen.append(s.read_row_count))
    async with search:
        assert search.columns == ["time", "service", "body", "attributes", "trace_id"]
        assert search.canonical_text == "service:api"
        table = await search.to_arrow()
    assert table.num_rows == 12
    assert search.statistics.result_row_count == 12
    assert [missing.what for missing in search.missing] == ["scan_rows"]
    assert search.plan is not None
    assert search.plan.tier == "warm"
    assert seen[:2] == [0, 10]


async def test_frames_and_batches_hold_the_same(server: FakeServer, client: AsyncClient) -> None:
    assert await client.search("*").to_arrow() == server.query.table
    assert (await client.search("*").to_polars())["body"].to_list()[-1] == "line 34"
    assert list((await client.search("*").to_pandas())["body"])[-1] == "line 34"
    assert [batch.num_rows async for batch in client.search("*").batches()] == [10, 10, 10, 5]


async def test_json_travels_as_the_server_wrote_it(client: AsyncClient) -> None:
    assert [row async for row in client.search("*", encoding="json").json_rows()][3] == '{"body":"line 3"}'
    assert [row async for row in client.search("*", encoding="json")][3] == {"body": "line 3"}
    with pytest.raises(TypeError, match="rows, not tables"):
        await client.search("nothing", encoding="json", limit=0).to_arrow()


async def test_broken_answer_goes_on_behind_its_last_batch(server: FakeServer, client: AsyncClient) -> None:
    server.query.script.extend([None, UNAVAILABLE, UNAVAILABLE])
    table = await client.search("*", since="1h").to_arrow()
    assert table == server.query.table
    tokens = [request.resume_token for request in server.query.requests]
    assert tokens == [b"", b"20", b"30"]
    assert len({request.time_range.start_time_inclusive.ToNanoseconds() for request in server.query.requests}) == 1


async def test_answer_without_order_is_not_repeated(server: FakeServer, client: AsyncClient) -> None:
    server.query.sorted = True
    server.query.script.append(UNAVAILABLE)
    with pytest.raises(StoreFailedError) as raised:
        await client.search("* | stats count()").to_arrow()
    assert raised.value.retry_after_s == pytest.approx(0.02)
    assert raised.value.request_id == "req-1"


async def test_answer_is_read_once(client: AsyncClient) -> None:
    search = client.search("*")
    await search.to_arrow()
    with pytest.raises(ClosedError, match="read once"):
        await search.to_arrow()


async def test_text_that_is_no_query_is_told_at_the_start(client: AsyncClient) -> None:
    with pytest.raises(QueryInvalidError, match="unknown field"):
        await client.search("bad").start()


async def test_leaving_an_answer_stops_the_query(server: FakeServer, client: AsyncClient) -> None:
    server.query.hold = True
    search = client.search("*")
    reading = asyncio.create_task(search.to_arrow())
    await asyncio.sleep(0.2)
    reading.cancel()
    await asyncio.wait({reading})
    await asyncio.wait_for(server.query.cancelled.wait(), 5)


async def test_question_may_be_text_sql_or_tree(server: FakeServer, client: AsyncClient) -> None:
    tree = expression_pb2.Query(stages=[expression_pb2.Stage(limit=3)])
    for question in ("*", sql("SELECT * FROM logs"), tree):
        await client.search(question).to_arrow()
    forms = [request.question.WhichOneof("form") for request in server.query.requests]
    assert forms == ["text", "sql", "tree"]
    assert server.query.requests[2].question.tree == tree


async def test_arguments_reach_the_server(server: FakeServer, client: AsyncClient) -> None:
    search = client.search(
        "*",
        since=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        until="2024-01-02T00:00:00.5Z",
        datasets=["logs"],
        order="oldest",
        limit=5,
        timeout_s=2.5,
        consistent=True,
    )
    await search.to_arrow()
    request = server.query.requests[0]
    assert request.time_range.start_time_inclusive.ToJsonString() == "2024-01-01T00:00:00Z"
    assert request.time_range.end_time_exclusive.ToJsonString() == "2024-01-02T00:00:00.500Z"
    assert list(request.datasets) == ["logs"]
    assert request.order == query_service_pb2.ORDER_OLDEST_FIRST
    assert request.timeout_duration.ToTimedelta() == dt.timedelta(seconds=2.5)
    assert request.consistent


async def test_refusal_with_retry_info_is_tried_again_within_the_deadline(server: FakeServer, pki: Pki) -> None:
    refusal = status_of(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", retry_s=0.1)
    server.query.explain_script.extend([refusal, refusal])
    async with AsyncClient(client_config(pki, address=server.address), timeout_s=5) as client:
        assert (await client.explain("*", analyze=True)).canonical_text == "*"
    server.query.explain_script.append(status_of(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", retry_s=60))
    async with AsyncClient(client_config(pki, address=server.address), timeout_s=5) as client:
        with pytest.raises(OverloadedError, match="try again in 60 s"):
            await client.explain("*")


async def test_pages_are_joined(client: AsyncClient) -> None:
    assert [field.name for field in await client.fields()] == ["f0", "f1", "f2"]
    assert [field.name for field in await client.fields(limit=2)] == ["f0", "f1"]
    assert (await client.field_values("host")).values[0].value == "host"
    assert [dataset.dataset_id for dataset in await client.datasets()] == ["dumps", "logs"]


async def test_missing_permission_has_its_own_error(client: AsyncClient) -> None:
    with pytest.raises(PermissionDeniedError, match="lacks") as raised:
        await client.config()
    assert raised.value.reason == "PERMISSION_DENIED"


async def test_closed_client_says_so(server: FakeServer, pki: Pki) -> None:
    client = AsyncClient(client_config(pki, address=server.address))
    await client.status()
    await client.aclose()
    with pytest.raises(ClosedError):
        await client.status()


async def test_rows_of_reads_any_batch(server: FakeServer) -> None:
    batch = server.query.table.to_batches()[0].slice(0, 0)
    assert rows_of(batch) == []
