"""Search over the wire: encodings, orders, sizes, forms of the question, freshness."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.types.v1 import position_pb2, time_range_pb2
from heimdall_server.domain.records import HIDDEN_COLUMNS, POSITIONED_SCHEMA
from heimdall_server.language.parser import parse
from heimdall_server.ports.journal import Entry
from heimdall_server.services.query.translate.tree import query_out
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.service.query.conftest import Serve
from tests.support.pki import Pki
from tests.support.query_client import details_of, status_of
from tests.support.query_server import SECOND_NS, TIME_NS, QueryServer, query_server, records

pytestmark = pytest.mark.asyncio(loop_scope="module")
ARROW = pb.ROW_ENCODING_ARROW_IPC
SHOWN_SCHEMA = pa.schema([field for field in POSITIONED_SCHEMA if field.name not in HIDDEN_COLUMNS])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pki: Pki, tmp_path_factory: pytest.TempPathFactory, chdb_engine: ChdbEngine) -> Any:
    """Three frames: times go up, and down, and are all the same."""
    folder: Path = tmp_path_factory.mktemp("search")
    async with query_server(pki, folder, chdb_engine) as server:
        await server.put(
            records([f"up {n}" for n in range(4)], time=[TIME_NS + n for n in range(4)], service="api", severity=9),
            records(
                [f"down {n}" for n in range(4)],
                time=[TIME_NS + 10 - n for n in range(4)],
                service="web",
                severity=17,
                host=["h1", "h2", "h1", ""],
                attributes={"user": "bob"},
                attributes_number={"took": 12.5},
            ),
            records([f"same {n}" for n in range(4)], time=TIME_NS + 20, dataset="dumps", trace_id=bytes(range(16))),
        )
        yield server


async def refused(server: QueryServer, text: str = "*:*", **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.search(text, **fields)
    return caught.value


def span(start_ns: int, end_ns: int) -> time_range_pb2.TimeRange:
    start, end = Timestamp(), Timestamp()
    start.FromNanoseconds(start_ns)
    end.FromNanoseconds(end_ns)
    return time_range_pb2.TimeRange(start_time_inclusive=start, end_time_exclusive=end)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (pb.ORDER_UNSPECIFIED, ["same 3", "same 2", "same 1", "same 0", "down 0", "down 1"]),
        (pb.ORDER_NEWEST_FIRST, ["same 3", "same 2", "same 1", "same 0", "down 0", "down 1"]),
        (pb.ORDER_OLDEST_FIRST, ["up 0", "up 1", "up 2", "up 3", "down 3", "down 2"]),
        (pb.ORDER_JOURNAL, ["up 0", "up 1", "up 2", "up 3", "down 0", "down 1"]),
        (pb.ORDER_JOURNAL_REVERSED, ["same 3", "same 2", "same 1", "same 0", "down 3", "down 2"]),
    ],
)
async def test_rows_come_in_the_order_asked_for(
    shared: QueryServer, order: pb.Order.ValueType, expected: list[str]
) -> None:
    answer = await shared.search(order=order, row_limit=6)
    assert answer.column("body") == expected
    assert not answer.finished.missing


async def test_arrow_messages_are_one_ipc_stream_of_the_record_schema(shared: QueryServer) -> None:
    answer = await shared.search("down", row_encoding=ARROW)
    assert answer.table.schema == SHOWN_SCHEMA
    assert answer.table.column("body").to_pylist() == [f"down {n}" for n in range(4)]
    assert [column.name for column in answer.schema.columns] == SHOWN_SCHEMA.names
    assert answer.finished.statistics.result_row_count == 4
    assert answer.schema.through.shards == {0: 3}


async def test_json_rows_have_maps_times_and_ids_as_people_read_them(shared: QueryServer) -> None:
    answer = await shared.search('body:"down 0" OR body:"same 0"')
    same, down = answer.rows
    assert down["time"] == "2026-01-01T00:00:00.000000010Z"
    assert down["attributes"] == {"user": "bob"}
    assert down["attributes_number"] == {"took": 12.5}
    assert down["trace_id"] is None
    assert same["trace_id"] == bytes(range(16)).hex()
    assert answer.schema.arrow_schema == b""


async def test_both_encodings_say_the_same(shared: QueryServer) -> None:
    rows = (await shared.search("* | fields body, user, took, host")).rows
    table = (await shared.search("* | fields body, user, took, host", row_encoding=ARROW)).table
    assert table.to_pylist() == rows
    assert table.schema.names == ["body", "user", "took", "host"]


async def test_an_answer_without_rows_still_has_its_schema(shared: QueryServer) -> None:
    answer = await shared.search("nothing", row_encoding=ARROW)
    assert answer.table.schema == SHOWN_SCHEMA
    assert answer.table.num_rows == 0
    assert not answer.finished.resume_token
    assert (await shared.search("nothing | fields user, took")).schema.columns[1].name == "took"


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT * FROM logs WHERE severity >= 17", "severity:>=ERROR"),
        (
            "SELECT service, count(*) AS n FROM logs GROUP BY service ORDER BY n DESC, service LIMIT 2",
            "* | stats count() as n by service | sort -n, service | limit 2",
        ),
    ],
)
async def test_sql_and_trees_ask_what_text_asks(shared: QueryServer, sql: str, text: str) -> None:
    expected = await shared.search(text)
    by_sql = await shared.search(question=pb.Question(sql=sql))
    by_tree = await shared.search(question=pb.Question(tree=query_out(parse(text, now_ns=0))))
    assert by_sql.rows == by_tree.rows == expected.rows != []
    assert by_tree.schema.canonical_text == expected.schema.canonical_text


async def test_datasets_and_times_narrow_the_answer(shared: QueryServer) -> None:
    assert (await shared.search(datasets=["dumps"])).column("body") == [f"same {n}" for n in (3, 2, 1, 0)]
    answer = await shared.search(time_range=span(TIME_NS + 2, TIME_NS + 9))
    assert answer.column("body") == ["down 2", "down 3", "up 3", "up 2"]
    assert len((await shared.search(time_range=span(-(2**34) * SECOND_NS, 2**37 * SECOND_NS))).rows) == 12


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"datasets": ["nope"]}, "datasets"),
        ({"time_range": span(5, 5)}, "time_range.end_time_exclusive"),
        ({"timeout_duration": Duration()}, "timeout_duration"),
        ({"at_least": position_pb2.Position(journal_id="other", shards={0: 1})}, "at_least"),
        ({"at_least": position_pb2.Position(shards={0: 10**9})}, "at_least"),
        ({"row_limit": -1}, "row_limit"),
        ({"order": 77}, "order"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_named(shared: QueryServer, fields: dict[str, Any], path: str) -> None:
    error = await refused(shared, **fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info, violations = details_of(status_of(error))
    assert info.reason == "INVALID_ARGUMENT"
    assert path in violations


async def test_a_query_that_is_none_is_pointed_at(shared: QueryServer) -> None:
    error = await refused(shared, "* | stats count() by service | sort -sevice")
    info, violations = details_of(status_of(error))
    assert info.reason == "QUERY_INVALID"
    assert info.metadata["suggestion"] == "did you mean 'service'?"
    line, caret = info.metadata["pointed"].split("\n")
    assert line[caret.index("^") :].startswith("sevice")
    assert info.metadata["column"] == str(caret.index("^") + 1)
    assert "sevice" in violations["question"]


async def test_a_tree_that_breaks_a_rule_is_pointed_at(shared: QueryServer) -> None:
    tree = query_out(parse("* | limit 5", now_ns=0))
    tree.stages[0].limit = 0
    info, violations = details_of(status_of(await refused(shared, question=pb.Question(tree=tree))))
    assert info.reason == "INVALID_ARGUMENT"
    assert "query.stages[0].count" in violations


async def test_large_rows_come_in_messages_of_at_most_a_mebibyte(serve: Serve) -> None:
    async with serve() as server:
        sizes = [10, 400_000, 700_000, 20, 980_000, 30] * 2
        bodies = [f"{index}:".ljust(size, "x") for index, size in enumerate(sizes)]
        await server.put(*[records([body]) for body in bodies])
        for encoding in (pb.ROW_ENCODING_JSON, ARROW):
            answer = await server.search(order=pb.ORDER_JOURNAL, row_encoding=encoding)
            assert max(message.ByteSize() for message in answer.messages) <= 1 << 20
            found = answer.column("body") if answer.rows else answer.table.column("body").to_pylist()
            assert found == bodies
        huge = records(["y" * 900_000], attributes={f"k{n}": "v" * 30_000 for n in range(20)})
        await server.put(huge)
        answer = await server.search("*:* | limit 1", order=pb.ORDER_JOURNAL_REVERSED)
        assert max(message.ByteSize() for message in answer.messages) <= 1 << 20
        assert [each.what for each in answer.finished.missing] == ["message_bytes"]
        assert "[cut: 900000 bytes]" in answer.rows[0]["body"]


async def test_records_that_come_in_meanwhile_are_not_in_the_answer(serve: Serve) -> None:
    async with serve() as server:
        await server.put(
            records([f"{n:06}".ljust(2000, "x") for n in range(8_000)], time=range(TIME_NS, TIME_NS + 8_000))
        )
        messages = aiter(server.stub.Search(server.request(order=pb.ORDER_OLDEST_FIRST)))
        header = await anext(messages)
        bodies = list((await anext(messages)).batch.json_rows)
        await server.put(records(["late"], time=TIME_NS + 10**6))
        async for message in messages:
            bodies += message.batch.json_rows
        assert len(bodies) == 8_000
        assert header.schema.through.shards == {0: 1}
        assert len((await server.search("late")).rows) == 1


async def test_nothing_visible_yet_is_a_snapshot_too(serve: Serve) -> None:
    async with serve(project=False) as server:
        await server.put(records(["early"]), visible=False)
        answer = await server.search()
        assert answer.rows == []
        assert answer.schema.through.shards == {0: 0}


async def test_a_consistent_search_sees_what_was_acknowledged_before_it(serve: Serve) -> None:
    async with serve(linger_s=0.15) as server:
        for number in range(2):
            positions = await server.journal.append([entry(f"n {number}")])
            assert len((await server.search("n", consistent=True)).rows) == number + 1
            positions = await server.journal.append([entry("other")])
            at_least = position_pb2.Position(journal_id=server.journal.journal_id, shards={0: positions[0]})
            assert len((await server.search("other", at_least=at_least)).rows) == number + 1


def entry(body: str) -> Entry:
    return Entry(records([body]))


async def test_aggregations_count_what_is_visible(shared: QueryServer) -> None:
    answer = await shared.search("* | stats count() as n by service | sort service")
    assert {(row["service"], row["n"]) for row in answer.rows} == {("api", 4), ("web", 4), ("", 4)}
    assert not answer.finished.resume_token
    assert all(not batch.resume_token for batch in answer.batches)
    two = await shared.search("* | stats count() as n by service | sort service", row_limit=2)
    assert two.rows == answer.rows[:2]
    assert not two.finished.missing


async def test_many_searches_at_once_get_each_their_own_answer(shared: QueryServer) -> None:
    texts = ["up", "down", "same"] * 5
    answers = await asyncio.gather(*(shared.search(text) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        assert sorted(answer.column("body")) == [f"{text} {n}" for n in range(4)]
