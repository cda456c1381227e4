"""How a query would be answered, which fields there are, and what values they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.types.v1 import time_range_pb2
from heimdall_server.language.parser import parse
from heimdall_server.services.query.translate.tree import query_in
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.service.query.conftest import Serve
from tests.support.pki import Pki
from tests.support.query_client import reason_of
from tests.support.query_server import TIME_NS, QueryServer, query_server, records

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS = 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pki: Pki, tmp_path_factory: pytest.TempPathFactory, chdb_engine: ChdbEngine) -> Any:
    """Two datasets; attributes of which half of the records carry one."""
    folder: Path = tmp_path_factory.mktemp("explain")
    async with query_server(pki, folder, chdb_engine) as server:
        await server.put(
            records(
                [f"request {row}" for row in range(ROWS)],
                time=[TIME_NS + row for row in range(ROWS)],
                service=[("api", "api", "web", "db")[row % 4] for row in range(ROWS)],
                severity=[(9, 17)[row % 2] for row in range(ROWS)],
                attributes=[{"user": f"u{row % 7}"} if row % 2 else {} for row in range(ROWS)],
                attributes_number={"took": 1.5},
                trace_id=bytes(range(16)),
            ),
            records(["other"] * 10, dataset="dumps", service="dump", attributes={"file": "x.csv"}),
        )
        yield server


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("* | stats count() by service", pb.Plan.PATH_ROLLUP),
        ("request", pb.Plan.PATH_TEXT_INDEX),
        (f"trace_id:{bytes(range(16)).hex()}", pb.Plan.PATH_TRACE_INDEX),
        ("service:api", pb.Plan.PATH_NEWEST_FIRST),
        ("* | stats count() by user", pb.Plan.PATH_SCAN),
    ],
)
async def test_a_plan_names_its_path_and_why(shared: QueryServer, text: str, path: pb.Plan.Path.ValueType) -> None:
    explained = await shared.explain(text)
    (plan,) = explained.plans
    assert plan.path == path
    assert plan.tier == "warm"
    assert plan.reason
    assert plan.statement
    assert query_in(explained.tree) == parse(text, now_ns=0)
    assert explained.visible_through.shards == {0: 2}
    assert not explained.HasField("actual")


async def test_a_statement_has_no_values_of_the_query(shared: QueryServer) -> None:
    explained = await shared.explain('service:"secret-name" AND "hidden word"')
    assert "secret" not in explained.plans[0].statement
    assert "hidden" not in explained.plans[0].statement
    # The index knows that no record has the words.
    assert explained.plans[0].estimated_row_count == 0
    (plan,) = (await shared.explain("severity:>=ERROR")).plans
    assert plan.estimated_row_count > 0
    assert plan.estimated_bytes_count > 0


async def test_analyze_says_what_was_used(shared: QueryServer) -> None:
    explained = await shared.explain("service:api", analyze=True)
    assert explained.actual.result_row_count == ROWS // 2
    assert explained.actual.read_row_count >= ROWS // 2
    assert explained.actual.elapsed_duration.ToNanoseconds() > 0
    limited = await shared.explain("service:api", analyze=True, row_limit=3, order=pb.ORDER_JOURNAL)
    assert limited.actual.result_row_count == 3


async def test_freshness_is_how_far_visibility_is_behind(serve: Serve) -> None:
    async with serve(project=False) as server:
        fresh = await server.explain("*:*")
        assert fresh.freshness_duration.ToNanoseconds() == 0


async def test_what_is_refused_in_a_search_is_refused_here(shared: QueryServer) -> None:
    for text, fields in (("body:(", {}), ("*:*", {"datasets": ["nope"]})):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shared.explain(text, **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def fields_of(server: QueryServer, **fields: Any) -> pb.ListFieldsResponse:
    response = await server.stub.ListFields(pb.ListFieldsRequest(**fields))
    assert isinstance(response, pb.ListFieldsResponse)
    return response


async def test_fields_have_type_and_coverage_most_covered_first(shared: QueryServer) -> None:
    response = await fields_of(shared, datasets=["logs"])
    found = {field.name: field for field in response.fields}
    assert response.sampled_count == ROWS
    assert (found["took"].type, found["took"].coverage) == ("number", 1.0)
    assert (found["user"].type, found["user"].coverage, found["user"].record_count) == ("keyword", 0.5, ROWS // 2)
    assert found["body"].type == "text"
    counts = [field.record_count for field in response.fields]
    assert counts == sorted(counts, reverse=True)
    assert "file" not in found
    assert not response.next_page_token


async def test_fields_come_in_pages(shared: QueryServer) -> None:
    whole = [field.name for field in (await fields_of(shared)).fields]
    names: list[str] = []
    token = ""
    while True:
        page = await fields_of(shared, page_size=4, page_token=token)
        assert len(page.fields) <= 4
        names += [field.name for field in page.fields]
        token = page.next_page_token
        if not token:
            break
    assert names == whole
    token = (await fields_of(shared, page_size=4)).next_page_token
    for request in ({"page_token": "!"}, {"page_token": "bm8"}, {"page_token": token, "datasets": ["logs"]}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fields_of(shared, **request)
        assert reason_of(caught.value) == "TOKEN_INVALID"


async def test_a_time_without_records_has_no_fields(shared: QueryServer) -> None:
    time_range = time_range_pb2.TimeRange(end_time_exclusive=Timestamp(seconds=1))
    response = await fields_of(shared, time_range=time_range)
    assert list(response.fields) == []


async def values_of(server: QueryServer, field: str, **fields: Any) -> pb.ListFieldValuesResponse:
    response = await server.stub.ListFieldValues(pb.ListFieldValuesRequest(field=field, **fields))
    assert isinstance(response, pb.ListFieldValuesResponse)
    return response


async def test_values_come_most_frequent_first_with_their_counts(shared: QueryServer) -> None:
    response = await values_of(shared, "service")
    found = [(value.value, value.record_count) for value in response.values]
    assert found == [("api", 100), ("db", 50), ("web", 50), ("dump", 10)]
    assert (response.record_count, response.distinct_count) == (ROWS + 10, 4)
    two = await values_of(shared, "service", page_size=2)
    assert [value.value for value in two.values] == ["api", "db"]
    assert two.distinct_count == 4


async def test_values_are_among_the_records_that_a_question_matches(shared: QueryServer) -> None:
    response = await values_of(shared, "service", question=pb.Question(text="severity:>=ERROR"), datasets=["logs"])
    assert [(value.value, value.record_count) for value in response.values] == [("api", 50), ("db", 50)]
    attribute = await values_of(shared, "user")
    assert (attribute.record_count, attribute.distinct_count) == (ROWS // 2, 7)
    numbers = await values_of(shared, "took")
    assert [(value.value, value.record_count) for value in numbers.values] == [("1.5", ROWS)]
    nothing = await values_of(shared, "no.such.field")
    assert (list(nothing.values), nothing.record_count, nothing.distinct_count) == ([], 0, 0)


async def test_values_of_a_question_that_is_none_are_refused(shared: QueryServer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await values_of(shared, "service", question=pb.Question(text="body:("))
    assert reason_of(caught.value) == "QUERY_INVALID"
