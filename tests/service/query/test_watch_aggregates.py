"""Live aggregates over the wire: upserts by interval, late records, resuming, totals without a bucket."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from tests.service.query.conftest import Serve
from tests.support.query_client import Watching, reason_of
from tests.support.query_server import SECOND_NS, TIME_NS, QueryServer, records

FAST = Duration(nanos=100_000_000)
BY_MINUTE = "* | stats count() as n by bucket(time, 1m), service"
FIRST, SECOND = "2026-01-01T00:00:00.000000000Z", "2026-01-01T00:01:00.000000000Z"


async def put(server: QueryServer, *seconds: int, service: str = "api") -> None:
    times = [TIME_NS + second * SECOND_NS for second in seconds]
    bodies = [str(second) for second in seconds]
    await server.put(records(bodies, time=times, observed_time=times, service=service), visible=False)


def counts(watching: Watching, watch_id: str = "w") -> dict[tuple[Any, ...], int]:
    return {key: row["n"] for key, row in watching.values("time", "service", watch_id=watch_id).items()}


async def test_changed_buckets_are_sent_each_interval_with_growing_revisions(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=FAST)
        created = await watching.first("created")
        assert created.aggregates
        assert [column.name for column in created.schema.columns] == ["time", "service", "n"]
        await put(server, 0, 1, 61)
        await watching.until(lambda: counts(watching) == {(FIRST, "api"): 2, (SECOND, "api"): 1})
        await put(server, 62, service="web")
        await watching.until(lambda: counts(watching).get((SECOND, "web")) == 1)
        # A late record sends its bucket again, and no other.
        before = len(watching.of("aggregate"))
        await put(server, 2)
        await watching.until(lambda: counts(watching)[FIRST, "api"] == 3)
        (late,) = watching.of("aggregate")[before:]
        assert late.bucket_time.seconds == TIME_NS // SECOND_NS
        revisions = [each.revision for each in watching.of("aggregate")]
        assert revisions == sorted(revisions)
        assert late.revision > revisions[0]


async def test_nothing_is_sent_while_nothing_changes(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=FAST)
        await watching.first("created")
        await put(server, 0)
        await watching.first("aggregate")
        await asyncio.sleep(0.35)
        assert len(watching.of("aggregate")) == 1


async def test_arrow_upserts_are_of_the_schema(server: QueryServer) -> None:
    import pyarrow as pa

    async with server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=FAST, row_encoding=pb.ROW_ENCODING_ARROW_IPC)
        created = await watching.first("created")
        await put(server, 0, 1)
        upsert = await watching.first("aggregate")
        stream = pa.BufferReader(created.schema.arrow_schema + upsert.batch.arrow_batch)
        (row,) = pa.ipc.open_stream(stream).read_all().to_pylist()
        assert (row["service"], row["n"]) == ("api", 2)


async def test_a_resumed_aggregate_counts_every_open_bucket_whole(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=FAST)
        await watching.first("created")
        await put(server, 0, 1)
        await put(server, 61)
        await watching.until(lambda: len(counts(watching)) == 2)
        token = watching.of("aggregate")[-1].through
    await put(server, 2, 62)
    async with server.watching() as resumed:
        resumed.create("w", BY_MINUTE, interval_duration=FAST, resume_token=token)
        await resumed.until(lambda: counts(resumed) == {(FIRST, "api"): 3, (SECOND, "api"): 2})
        # While it counted again what had been sent, it said nothing of it: no value went down meanwhile.
        assert {each.batch.row_count for each in resumed.of("aggregate")} == {1}
        assert len(resumed.of("aggregate")) == 2


async def test_a_closed_bucket_stays_as_it_was_sent(serve: Serve) -> None:
    async with serve(watch_limits=WatchLimits(bucket_open_s=60)) as server, server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=Duration(seconds=3600))
        await watching.first("created")
        await put(server, 0, 1)
        await put(server, 130)
        await watching.until(lambda: counts(watching).get((FIRST, "api")) == 2)
        await put(server, 2)
        await put(server, 250)
        await watching.until(lambda: len(counts(watching)) == 3)
        assert counts(watching)[FIRST, "api"] == 2
        watching.send(progress=pb.WatchRequest.Progress())
        token = (await watching.first("progress")).through
        await put(server, 3, 251)
        # Counting again leaves closed buckets out, and sends what is new of the open ones.
        async with server.watching() as resumed:
            resumed.create("w", BY_MINUTE, interval_duration=FAST, resume_token=token)
            await resumed.until(lambda: counts(resumed) == {("2026-01-01T00:04:00.000000000Z", "api"): 2})


async def test_without_a_bucket_it_counts_all_since_the_watch_began(server: QueryServer) -> None:
    await put(server, 0)
    text = "* | stats count() as n by service"
    async with server.watching() as watching:
        watching.create("w", text, interval_duration=FAST)
        await watching.first("created")
        await put(server, 0, 1)
        await watching.until(lambda: watching.values("service") == {("api",): {"service": "api", "n": 2}})
        (message,) = watching.of("aggregate")
        assert not message.HasField("bucket_time")
        token = message.through
    await put(server, 5)
    async with server.watching() as resumed:
        resumed.create("w", text, interval_duration=FAST, resume_token=token)
        await resumed.until(lambda: resumed.values("service") == {("api",): {"service": "api", "n": 3}})


async def test_history_since_a_time_is_counted_with_what_is_live(server: QueryServer) -> None:
    await put(server, 0, 30, 90)
    await server.settle()
    async with server.watching() as watching:
        since = Timestamp(seconds=TIME_NS // SECOND_NS + 20)
        watching.create("w", BY_MINUTE, interval_duration=FAST, since_time=since)
        await watching.until(lambda: counts(watching) == {(FIRST, "api"): 1, (SECOND, "api"): 1})
        # What comes in late after the watch began counts, however old it is.
        await put(server, 1)
        await watching.until(lambda: counts(watching)[FIRST, "api"] == 2)


async def test_a_ranking_is_sent_whole_when_it_changes(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "* | top 2 service", interval_duration=FAST)
        await watching.first("created")
        await put(server, 1, service="a")
        await put(server, 1, 2, service="b")
        await put(server, 1, 2, 3, service="c")
        await watching.until(lambda: any(each.batch.row_count == 2 for each in watching.of("aggregate")))
        last = watching.of("aggregate")[-1]
        assert [row.split('"')[3] for row in last.batch.json_rows] == ["c", "b"]


async def test_an_update_counts_anew_from_where_the_watch_is(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", BY_MINUTE, interval_duration=FAST)
        await watching.first("created")
        await put(server, 0)
        await watching.first("aggregate")
        watching.update("w", "service:web | stats count() as n by bucket(time, 1m), service")
        await watching.first("created", count=2)
        await put(server, 1, 2, service="web")
        await watching.until(lambda: counts(watching) == {(FIRST, "api"): 1, (FIRST, "web"): 2})
        watching.update("w", "service:web")
        assert reason_of((await watching.first("cancelled")).status) == "INVALID_ARGUMENT"
