"""A search that broke goes on: no gap, no repeat, wherever it broke."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.ports.log_store import Limits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.support.pki import Pki
from tests.support.query_client import reason_of
from tests.support.query_server import TIME_NS, QueryServer, query_server, records

pytestmark = pytest.mark.asyncio(loop_scope="module")
ORDERS = (pb.ORDER_NEWEST_FIRST, pb.ORDER_OLDEST_FIRST, pb.ORDER_JOURNAL, pb.ORDER_JOURNAL_REVERSED)
FRAMES = 6
FRAME_ROWS = 9
SERVER_ROWS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pki: Pki, tmp_path_factory: pytest.TempPathFactory, chdb_engine: ChdbEngine) -> Any:
    """54 rows, few distinct times, so large that a message holds three."""
    folder: Path = tmp_path_factory.mktemp("resume")
    chance = random.Random(3)
    async with query_server(pki, folder, chdb_engine, limits=Limits(result_rows=SERVER_ROWS)) as server:
        for frame in range(FRAMES):
            await server.put(
                records(
                    [f"{frame}/{row} ".ljust(300_000, "x") for row in range(FRAME_ROWS)],
                    time=[TIME_NS + chance.randrange(4) for _ in range(FRAME_ROWS)],
                    service=[("api", "web")[row % 2] for row in range(FRAME_ROWS)],
                    record_number=[frame * FRAME_ROWS + row for row in range(FRAME_ROWS)],
                )
            )
        yield server


async def numbers_of(
    server: QueryServer, text: str, *, break_after: int | None = None, **fields: Any
) -> tuple[list[int], bytes, bool]:
    """Numbers of the rows, the last token, and whether the answer came to its end; broken off behind some messages."""
    numbers: list[int] = []
    token = b""
    taken = 0
    call = server.stub.Search(server.request(text, **fields))
    async for message in call:
        if message.WhichOneof("message") == "finished":
            return numbers, message.finished.resume_token, True
        if message.WhichOneof("message") == "batch":
            rows = pb.SearchResponse(batch=message.batch).batch.json_rows
            numbers += [int(row.rpartition('"record_number":')[2].split(",")[0].rstrip("}")) for row in rows]
            token = message.batch.resume_token
            assert token
            taken += 1
            if taken == break_after:
                call.cancel()
                return numbers, token, False
    raise AssertionError("the stream ended without its end")


async def whole(server: QueryServer, text: str, order: pb.Order.ValueType) -> list[int]:
    """All rows, page after page, unbroken."""
    numbers, token, _ = await numbers_of(server, text, order=order)
    while token:
        more, token, _ = await numbers_of(server, text, order=order, resume_token=token)
        numbers += more
    return numbers


@pytest.mark.parametrize("seed", range(8))
async def test_pages_and_breaks_anywhere_leave_no_gap_and_no_repeat(shared: QueryServer, seed: int) -> None:
    chance = random.Random(seed)
    order = ORDERS[seed % 4]
    text = chance.choice(("*:*", "service:api", "* | fields record_number", "* | where service:web", "* | limit 47"))
    expected = await whole(shared, text, order)
    row_limit = chance.choice((0, 7, 10))
    numbers: list[int] = []
    token = b""
    for _ in range(100):
        break_after = chance.choice((1, 2, 4, None))
        fields = {"order": order, "row_limit": row_limit, "resume_token": token}
        more, token, finished = await numbers_of(shared, text, break_after=break_after, **fields)
        numbers += more
        if finished and not token:
            break
    assert numbers == expected
    if order == pb.ORDER_JOURNAL and text == "*:*":
        assert numbers[: FRAMES * FRAME_ROWS] == list(range(FRAMES * FRAME_ROWS))


async def test_fields_that_were_not_asked_for_stay_hidden(shared: QueryServer) -> None:
    answer = await shared.search("* | fields record_number, service", row_limit=3)
    assert set(answer.rows[0]) == {"record_number", "service"}
    assert [column.name for column in answer.schema.columns] == ["record_number", "service"]
    more = await shared.search(
        "* | fields record_number, service", row_limit=3, resume_token=answer.finished.resume_token
    )
    assert not set(more.column("record_number")) & set(answer.column("record_number"))


async def test_the_servers_limit_is_told_and_the_token_goes_on(shared: QueryServer) -> None:
    text = "record_number:<1000 | fields record_number"
    answer = await shared.search(text, order=pb.ORDER_JOURNAL)
    assert answer.column("record_number") == list(range(SERVER_ROWS))
    (missing,) = answer.finished.missing
    assert missing.what == "row_limit"
    rest = await shared.search(text, order=pb.ORDER_JOURNAL, resume_token=answer.finished.resume_token)
    assert rest.column("record_number") == list(range(SERVER_ROWS, FRAMES * FRAME_ROWS))
    assert not rest.finished.missing
    assert not rest.finished.resume_token


async def test_the_callers_own_limit_is_no_lack(shared: QueryServer) -> None:
    page = await shared.search("* | fields record_number", row_limit=5, order=pb.ORDER_JOURNAL)
    assert not page.finished.missing
    assert page.finished.resume_token
    assert page.finished.statistics.result_row_count == 5
    own = await shared.search("* | fields record_number | limit 5", order=pb.ORDER_JOURNAL)
    assert own.rows == page.rows
    assert not own.finished.resume_token


async def test_records_behind_the_snapshot_stay_out_of_resumed_pages(shared: QueryServer) -> None:
    expected = await whole(shared, "service:api", pb.ORDER_NEWEST_FIRST)
    first, token, _ = await numbers_of(shared, "service:api", break_after=1)
    await shared.put(records(["new"], service="api", time=TIME_NS, record_number=10**6))
    rest, _, _ = await numbers_of(shared, "service:api", resume_token=token)
    assert first + rest == expected
    assert 10**6 in await whole(shared, "service:api", pb.ORDER_NEWEST_FIRST)


async def test_now_means_what_it_meant_when_the_search_began(shared: QueryServer) -> None:
    text = "time:<now | fields record_number"
    page = await shared.search(text, row_limit=4)
    more = await shared.search(text, row_limit=4, resume_token=page.finished.resume_token)
    assert more.schema.canonical_text == page.schema.canonical_text


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "service:web"},
        {"order": pb.ORDER_JOURNAL},
        {"datasets": ["logs"]},
        {"row_limit": 4},
    ],
)
async def test_a_token_of_another_request_is_refused(shared: QueryServer, changes: dict[str, Any]) -> None:
    page = await shared.search("service:api", row_limit=3)
    request: dict[str, Any] = {"text": "service:api", "row_limit": 3, "resume_token": page.finished.resume_token}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.search(**{**request, **changes})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "TOKEN_INVALID"
    assert (await shared.search(**request)).rows


async def test_forged_and_damaged_tokens_are_refused(shared: QueryServer) -> None:
    token = (await shared.search("service:api", row_limit=3)).finished.resume_token
    for bad in (b"x", token[:-1], token + b"x", token[:20] + bytes([token[20] ^ 1]) + token[21:], bytes(len(token))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shared.search("service:api", row_limit=3, resume_token=bad)
        assert reason_of(caught.value) == "TOKEN_INVALID"
