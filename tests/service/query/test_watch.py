"""Watches over the wire: many on one stream, live and from history, changed, ended, resumed."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.language.parser import parse
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from heimdall_server.services.query.translate.tree import query_out
from tests.service.query.conftest import Serve
from tests.support.query_client import details_of, reason_of
from tests.support.query_server import TIME_NS, QueryServer, records


def stamp(ns: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(ns)
    return timestamp


async def test_many_watches_share_a_stream_and_each_gets_its_own_rows(server: QueryServer) -> None:
    async with server.watching() as watching:
        for number in range(20):
            watching.create(f"w{number}", f"service:s{number % 4}")
        for number in range(20):
            await watching.first("created", f"w{number}")
        assert server.watch.watch_count == 20
        for round_ in range(3):
            await server.put(
                records([f"{round_}/{n}" for n in range(8)], service=[f"s{n % 4}" for n in range(8)]), visible=False
            )
        for number in range(20):
            await watching.until_rows(6, f"w{number}")
            kind = number % 4
            expected = [f"{round_}/{n}" for round_ in range(3) for n in (kind, kind + 4)]
            assert watching.bodies(f"w{number}") == expected
            assert not any(message.history for message in watching.of("rows", f"w{number}"))
    async with asyncio.timeout(20):
        while server.watch.watch_count:  # noqa: ASYNC110 - the server notices that the client is gone
            await asyncio.sleep(0.01)


async def test_rows_say_how_they_are_encoded(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("a", "* | fields body, user", row_encoding=pb.ROW_ENCODING_ARROW_IPC)
        watching.create("j", "* | fields body, user")
        created = await watching.first("created", "a")
        assert [column.name for column in created.schema.columns] == ["body", "user"]
        assert created.schema.canonical_text == "*:* | fields body, user"
        await watching.first("created", "j")
        await server.put(records(["one"], attributes={"user": "bob"}), visible=False)
        (message,) = [await watching.first("rows", "a")]
        table = pa_table(created.schema.arrow_schema, message.batch.arrow_batch)
        assert table == [{"body": "one", "user": "bob"}] == await watching.until_rows(1, "j")
        assert message.through == message.batch.resume_token != b""


def pa_table(schema: bytes, batch: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa

    rows: list[dict[str, Any]] = pa.ipc.open_stream(pa.BufferReader(schema + batch)).read_all().to_pylist()
    return rows


async def test_history_since_a_time_comes_before_what_is_live(server: QueryServer) -> None:
    await server.put(records(["old", "edge", "new"], time=[TIME_NS - 1, TIME_NS, TIME_NS + 1]))
    await server.put(records(["newer"], time=TIME_NS + 2), visible=False)
    async with server.watching() as watching:
        watching.create("w", since_time=stamp(TIME_NS))
        await watching.until_rows(3)
        await server.put(records(["late"], time=TIME_NS - 5), visible=False)
        await watching.until_rows(4)
        assert watching.bodies() == ["edge", "new", "newer", "late"]
        history = [(message.history, message.batch.row_count) for message in watching.of("rows")]
        assert [count for is_history, count in history if not is_history] == [1]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, ["b4"]), (3, ["b2", "b3", "b4"]), (50, ["b0", "b1", "b2", "b3", "b4"])]
)
async def test_the_last_matching_records_come_first(server: QueryServer, count: int, expected: list[str]) -> None:
    for number in range(3):
        await server.put(
            records([f"{kind}{2 * number + row}" for row in range(2) for kind in "ab"][: 4 if number < 2 else 2])
        )
    async with server.watching() as watching:
        watching.create("w", "body:b*", last_count=count)
        watching.send(progress=pb.WatchRequest.Progress())
        await watching.first("progress")
        await server.put(records(["blive", "alive"]), visible=False)
        await watching.until_rows(len(expected) + 1)
        assert watching.bodies() == [*expected, "blive"]


async def test_a_watch_goes_on_behind_any_row(server: QueryServer) -> None:
    await server.put(*[records([f"{number}/{row}".ljust(250_000, "x") for row in range(7)]) for number in range(2)])
    async with server.watching() as watching:
        watching.create("w", since_time=stamp(0))
        await watching.until_rows(14)
        messages = watching.of("rows")
    assert len(messages) >= 4
    bodies = watching.bodies()
    seen = 0
    for message in messages:
        seen += message.batch.row_count
        async with server.watching() as resumed:
            resumed.create("w", resume_token=message.through)
            await server.put(records(["end"]), visible=False)
            await resumed.until(lambda: "end" in resumed.bodies()[-1:])
            assert resumed.bodies() == [*bodies[seen:], *["end"] * (resumed.bodies().count("end"))]


async def test_tokens_older_than_the_journal_are_served_from_the_store(serve: Serve) -> None:
    async with serve(journal={"segment_bytes": 64 << 10, "retain_bytes": 0, "cache_bytes": 0}) as server:
        async with server.watching() as watching:
            watching.create("w", "keep")
            await watching.first("created")
            await server.put(records(["keep 0", "drop", "keep 1"]))
            await watching.until_rows(2)
            middle = watching.of("rows")[0].through
        for number in range(2, 12):
            await server.put(records([f"keep {number}", "x" * 40_000]))
        await server.journal.trim({0: server.journal.head()[0]})
        await server.put(records(["keep 12"]))
        await server.journal.trim({0: server.journal.head()[0] - 1})
        assert server.journal.tail()[0] > 3
        async with server.watching() as resumed:
            resumed.create("w", "keep", resume_token=middle)
            await resumed.until_rows(11)
            await server.put(records(["keep 13"]), visible=False)
            await resumed.until_rows(12)
            assert resumed.bodies() == [f"keep {number}" for number in range(2, 14)]


async def test_an_update_goes_on_from_where_the_watch_is(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "service:a | fields body, service")
        await watching.first("created")
        await server.put(records(["a1", "b1"], service=["a", "b"]), visible=False)
        await watching.until_rows(1)
        watching.update("w", "service:b | fields body")
        created = await watching.first("created", count=2)
        assert [column.name for column in created.schema.columns] == ["body"]
        await server.put(records(["a2", "b2"], service=["a", "b"]), visible=False)
        await watching.until_rows(2)
        assert watching.rows() == [{"body": "a1", "service": "a"}, {"body": "b2"}]
        token = watching.of("rows")[-1].through
    async with server.watching() as resumed:
        resumed.create("w", "service:b | fields body", resume_token=token)
        await server.put(records(["b3"], service="b"), visible=False)
        assert await resumed.until_rows(1) == [{"body": "b3"}]


async def test_an_update_in_the_midst_of_history_loses_no_row(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    # A page a frame, so that the update comes between two pages.
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.source._FIRST_SPAN", 1)
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.source._PAGE_ROWS", 4)
    async with serve() as server:
        await server.put(*[records([f"{number} a", f"{number} b"]) for number in range(30)])
        async with server.watching() as watching:
            watching.create("w", "a | fields body", since_time=stamp(0))
            await watching.until_rows(1)
            watching.update("w", "b | fields body")
            await watching.until(lambda: "29 b" in watching.bodies())
            bodies = watching.bodies()
            cut = next(index for index, body in enumerate(bodies) if body.endswith("b"))
            first = int(bodies[cut].split()[0])
            assert bodies == [*(f"{n} a" for n in range(cut)), *(f"{n} b" for n in range(first, 30))]
            assert first in (cut, cut - 1)


async def test_cancel_ends_a_watch_and_the_stream_goes_on(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w")
        watching.create("other")
        await watching.first("created", "other")
        watching.cancel("w")
        cancelled = await watching.first("cancelled")
        assert cancelled.status.code == code_pb2.OK
        assert cancelled.through
        watching.cancel("w")
        unknown = await watching.first("cancelled", count=2)
        assert reason_of(unknown.status) == "NOT_FOUND"
        watching.update("nobody", "x")
        assert reason_of((await watching.first("cancelled", "nobody")).status) == "NOT_FOUND"
        await server.put(records(["one"]), visible=False)
        await watching.until_rows(1, "other")
        assert watching.bodies("w") == []
        watching.create("w", resume_token=cancelled.through)
        await watching.until_rows(1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "body:("}, "QUERY_INVALID"),
        ({"text": "* | sort host"}, "INVALID_ARGUMENT"),
        ({"datasets": ["nope"]}, "INVALID_ARGUMENT"),
        ({"resume_token": b"forged"}, "TOKEN_INVALID"),
        ({"text": "* | stats count()", "last_count": 5}, "INVALID_ARGUMENT"),
    ],
)
async def test_what_concerns_one_watch_ends_only_that(server: QueryServer, fields: dict[str, Any], reason: str) -> None:
    async with server.watching() as watching:
        watching.create("w", **fields)
        assert reason_of((await watching.first("cancelled")).status) == reason
        watching.create("w", "fine")
        await watching.first("created")


async def test_a_bad_tree_ends_only_its_watch(server: QueryServer) -> None:
    tree = query_out(parse("* | limit 5", now_ns=0))
    tree.stages[0].limit = 0
    async with server.watching() as watching:
        watching.create("w", question=pb.Question(tree=tree))
        info, violations = details_of((await watching.first("cancelled")).status)
        assert info.reason == "INVALID_ARGUMENT"
        assert "query.stages[0].count" in violations
        watching.create("v")
        await watching.first("created", "v")
        watching.send(update=pb.WatchRequest.Update(watch_id="v", question=pb.Question(tree=tree)))
        assert reason_of((await watching.first("cancelled", "v")).status) == "INVALID_ARGUMENT"


async def test_a_second_watch_of_a_name_ends_the_stream(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w")
        watching.create("w")
        await watching.until_ended()
        assert watching.error is not None
        assert watching.error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(watching.error) == "STREAM_PROTOCOL"


async def test_watches_are_bounded(serve: Serve) -> None:
    limits = WatchLimits(watches_per_stream_max=2, watches_max=3)
    async with serve(watch_limits=limits) as server, server.watching() as one, server.watching() as two:
        for name in "abc":
            one.create(name)
        info, _ = details_of((await one.first("cancelled", "c")).status)
        assert (info.reason, info.metadata["budget"]) == ("BUDGET_EXCEEDED", "watches on one stream")
        two.create("d")
        two.create("e")
        info, _ = details_of((await two.first("cancelled", "e")).status)
        assert info.metadata["budget"] == "watches of the server"
        one.cancel("a")
        await one.first("cancelled", "a")
        two.create("e")
        await two.first("created", "e")


async def test_heartbeats_carry_a_token_and_how_far_it_is(serve: Serve) -> None:
    async with serve(watch_limits=WatchLimits(heartbeat_s=0.05)) as server:
        async with server.watching() as watching:
            watching.create("w", "never")
            await server.put(records(["a"]), records(["b"]), visible=False)
            await watching.until(lambda: any(beat.position.shards[0] == 2 for beat in watching.of("progress")))
            beat = watching.of("progress")[-1]
            assert beat.position.journal_id == server.journal.journal_id
        await server.put(records(["never say never"]))
        async with server.watching() as resumed:
            resumed.create("w", "never", resume_token=beat.through)
            await resumed.until_rows(1)


async def test_progress_is_told_at_once_when_asked_for(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", last_count=3)
        watching.send(progress=pb.WatchRequest.Progress())
        beat = await watching.first("progress")
    await server.put(records(["a", "b"]))
    async with server.watching() as resumed:
        resumed.create("w", resume_token=beat.through)
        await resumed.until_rows(2)
        assert resumed.bodies() == ["a", "b"]


async def test_a_limit_ends_the_watch_over_breaks_too(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "* | limit 5")
        await watching.first("created")
        await server.put(records(["a", "b", "c"]), visible=False)
        await watching.until_rows(3)
        token = watching.of("rows")[-1].through
    await server.put(records(["d", "e", "f"]))
    async with server.watching() as resumed:
        resumed.create("w", "* | limit 5", resume_token=token)
        cancelled = await resumed.first("cancelled")
        assert cancelled.status.code == code_pb2.OK
        assert resumed.bodies() == ["d", "e"]
        resumed.create("again", "* | limit 5", resume_token=cancelled.through)
        assert (await resumed.first("cancelled", "again")).status.code == code_pb2.OK
        assert resumed.bodies("again") == []


async def test_datasets_narrow_a_watch(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", datasets=["dumps"])
        watching.create("all")
        await watching.first("created", "all")
        await server.put(records(["a", "b"], dataset=["logs", "dumps"]), visible=False)
        await watching.until_rows(2, "all")
        await watching.until_rows(1)
        assert watching.bodies() == ["b"]


async def test_a_half_closed_stream_goes_on_until_its_watches_end(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "* | limit 2")
        await watching.first("created")
        watching.half_close()
        await server.put(records(["a"]), visible=False)
        await watching.until_rows(1)
        await server.put(records(["b"]), visible=False)
        await watching.until_ended()
        assert watching.error is None
        assert watching.bodies() == ["a", "b"]
    async with server.watching() as nothing:
        nothing.half_close()
        await nothing.until_ended()
        assert nothing.error is None


async def test_a_server_that_drains_gives_every_watch_its_token(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "x")
        watching.create("v", "* | stats count()")
        await watching.first("created", "v")
        await server.put(records(["x 1", "y"]), visible=False)
        await watching.until_rows(1)
        assert await server.rpc.drain(5)
        await watching.until_ended()
        assert watching.error is not None
        assert watching.error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(watching.error) == "DRAINING"
        for name in "wv":
            assert watching.of("progress", name)[-1].through
        assert watching.of("progress")[-1].position.shards[0] == 1
    assert server.watch.watch_count == 0
