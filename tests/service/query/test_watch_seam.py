"""From history to live while records keep coming: no gap, no repeat, over any break."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall_server.services.query.logic.watch.stream import WatchLimits
from tests.service.query.conftest import Serve
from tests.support.query_client import Watching, values_of
from tests.support.query_server import SECOND_NS, TIME_NS, QueryServer, records

SINCE_NS = TIME_NS + 500
END = "the end"


@dataclass
class Feed:
    """Appends frames at random moments; remembers every record as (position, row, time, body)."""

    server: QueryServer
    chance: random.Random
    step_ns: int = 1
    put: list[tuple[int, int, int, str]] = field(default_factory=list)

    async def frame(self) -> None:
        count = self.chance.randrange(1, 6)
        times = [TIME_NS + self.chance.randrange(1000) * self.step_ns for _ in range(count)]
        bodies = [f"{len(self.put) + n} {self.chance.choice('ab')}" for n in range(count)]
        position = self.server.journal.head()[0] + 1
        await self.server.put(records(bodies, time=times, observed_time=times), visible=False)
        self.put += [(position, row, times[row], bodies[row]) for row in range(count)]

    async def run(self, frames: int) -> None:
        for _ in range(frames):
            await self.frame()
            await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.02)))

    async def end(self) -> None:
        await self.server.put(records([END], time=TIME_NS + 10**9), visible=False)


async def follow(
    server: QueryServer, chance: random.Random, text: str, *, breaks: bool, **start: Any
) -> list[dict[str, Any]]:
    """A watch's rows until the end record, broken off and resumed now and then."""
    rows: list[dict[str, Any]] = []
    token = b""
    while True:
        async with server.watching() as watching:
            watching.create("w", text, **({"resume_token": token} if token else start))
            if not token:
                # A break before the first rows costs nothing, since the progress was asked for.
                watching.send(progress={})
                token = (await watching.first("progress")).through
            want = chance.randrange(1, 5) if breaks else 10**9
            await watching.until(lambda: len(watching.of("rows")) >= want or END in watching.bodies())  # noqa: B023
            messages = watching.of("rows")[:want]
            seen = sum(message.batch.row_count for message in messages)
            history = [message.history for message in messages for _ in message.batch.json_rows]
            rows += [row | {"history": flag} for row, flag in zip(watching.rows()[:seen], history, strict=True)]
            token = messages[-1].through
            if rows[-1]["body"] == END:
                return rows


def keys(rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(row["position"], row["row"]) for row in rows if row["body"] != END]


@pytest.mark.parametrize("seed", range(3))
async def test_rows_since_a_time_are_whole_while_ingest_goes_on(server: QueryServer, seed: int) -> None:
    chance = random.Random(seed)
    feed = Feed(server, chance)
    await feed.run(10)

    async def watcher(number: int) -> list[dict[str, Any]]:
        await asyncio.sleep(number * 0.03)
        since = Timestamp()
        since.FromNanoseconds(SINCE_NS)
        return await follow(server, random.Random(seed * 10 + number), "*:*", breaks=number % 2 == 1, since_time=since)

    watchers = [asyncio.create_task(watcher(number)) for number in range(5)]
    await feed.run(40)
    await feed.end()
    for rows in await asyncio.gather(*watchers):
        live = [row["position"] for row in rows if not row["history"]]
        seam = min(live)
        expected = [(p, r) for p, r, time_ns, _ in feed.put if p >= seam or time_ns >= SINCE_NS]
        assert keys(rows) == expected
        assert all(row["history"] == (row["position"] < seam) for row in rows)


@pytest.mark.parametrize("seed", range(2))
async def test_the_last_rows_and_what_follows_are_whole_while_ingest_goes_on(server: QueryServer, seed: int) -> None:
    chance = random.Random(seed)
    feed = Feed(server, chance)
    await feed.run(20)

    async def watcher(number: int) -> list[dict[str, Any]]:
        await asyncio.sleep(number * 0.02)
        own = random.Random(seed * 10 + number)
        return await follow(server, own, f"a OR {END.split()[1]}", breaks=True, last_count=7)

    watchers = [asyncio.create_task(watcher(number)) for number in range(4)]
    await feed.run(40)
    await feed.end()
    matching = [(p, r) for p, r, _, body in feed.put if body.endswith("a")]
    for rows in await asyncio.gather(*watchers):
        seam = min((row["position"] for row in rows if not row["history"]), default=10**9)
        expected = [key for key in matching if key[0] < seam][-7:] + [key for key in matching if key[0] >= seam]
        assert keys(rows) == expected


TEXT = "* | stats count() as n, max(severity) as most by bucket(time, 100s), service"


async def aggregates(server: QueryServer, chance: random.Random, ended: asyncio.Event) -> list[Any]:
    """Every upsert of a watch that breaks now and then, until what was there at the end has been told."""
    upserts: list[Any] = []
    token = b""
    while True:
        begin: dict[str, Any] = {"resume_token": token} if token else {"since_time": Timestamp(seconds=0)}
        async with server.watching() as watching:
            watching.create("w", TEXT, interval_duration=Duration(nanos=100_000_000), **begin)
            if ended.is_set():
                last = server.journal.head()[0]
                await watching.until(lambda: has_told(watching, last))  # noqa: B023
            else:
                beats = chance.randrange(1, 4)
                await watching.until(lambda: len(watching.of("progress")) >= beats)  # noqa: B023
            for message in watching.messages:
                kind = message.WhichOneof("message")
                if kind in ("aggregate", "progress"):
                    token = getattr(message, kind).through
            upserts += watching.of("aggregate")
            if ended.is_set() and has_told(watching, server.journal.head()[0]):
                return upserts


def has_told(watching: Watching, position: int) -> bool:
    """Whether every bucket that changed up to a position was sent: a heartbeat came behind them."""
    revisions = [each.aggregate.revision for each in watching.messages]
    told = next((index for index, revision in enumerate(revisions) if revision >= position), len(revisions))
    return any(each.WhichOneof("message") == "progress" for each in watching.messages[told:])


@pytest.mark.parametrize("seed", range(2))
async def test_aggregates_come_to_what_a_search_says_over_any_break(serve: Serve, seed: int) -> None:
    chance = random.Random(seed)
    async with serve(watch_limits=WatchLimits(bucket_open_s=10**6, heartbeat_s=0.04)) as server:
        feed = Feed(server, chance, step_ns=SECOND_NS)
        await feed.run(10)
        ended = asyncio.Event()
        watchers = [
            asyncio.create_task(aggregates(server, random.Random(seed * 10 + number), ended)) for number in range(3)
        ]
        await feed.run(50)
        await feed.end()
        ended.set()
        await server.settle()
        expected = (await server.search(TEXT)).rows
        for upserts in await asyncio.gather(*watchers):
            values = list(values_of(upserts, "time", "service").values())
            assert sorted(values, key=repr) == sorted(expected, key=repr)
