"""Many watches that are evaluated together: each gets what it would get alone, and none waits for another."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from prometheus_client import REGISTRY

from heimdall_server.domain.expression.columns import key_name
from heimdall_server.language.parser import parse
from heimdall_server.services.query.logic.watch.meter import CostLimits
from heimdall_server.services.query.logic.watch.outbox import OutboxLimits
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from tests.service.query.conftest import Serve
from tests.support.pki import Pki
from tests.support.query_client import Watching
from tests.support.query_server import SECOND_NS, TIME_NS, QueryServer, records
from tests.support.stuck_watcher import stuck_watcher

END = "the very end"
SERVICES = ("api", "web", "db", "mail")
WORDS = ("timeout", "refused", "gateway", "declined")
ROWS = (
    "*",
    "service:api",
    "service:api AND timeout",
    "timeout OR refused",
    "timeout AND NOT service:web",
    'service:db AND "timeout gateway"',
    "service:nobody AND timeout",
    "severity:>=ERROR AND (service:web OR host:h1)",
    "zone:eu AND /gate.*y$/",
    "user:b* AND service:mail",
    "took:>50 | fields took, body",
    "zone:us | where timeout | fields zone, body, service",
    "| extract /took (?P<n>[0-9]+)/ | where n > 90 | fields body, n",
)
VALUES = (
    "* | stats count() as n by service",
    "* | stats count() as n, max(severity) as most by bucket(time, 10s), service",
    "service:api | stats count() as n by bucket(time, 10s), service",
    "timeout | stats count() as n, sum(took) as all, min(took) as least by zone, service",
    "* | stats dc(host) as n, avg(took) as mean, p50(took) as middle by bucket(time, 20s), zone",
    "| extract /took (?P<first>[0-9])/ | stats count() as n by first",
)
FAST = Duration(nanos=100_000_000)


async def feed(server: QueryServer, chance: random.Random, frames: int) -> None:
    """Append frames at random moments, and one that every watch of rows can tell the end by."""
    for _ in range(frames):
        count = chance.randrange(1, 40)
        times = [TIME_NS + chance.randrange(60) * SECOND_NS for _ in range(count)]
        took = [chance.randrange(100) for _ in range(count)]
        await server.put(
            records(
                [f"{' '.join(chance.sample(WORDS, 2))} took {n} ms, {chance.choice(WORDS)}" for n in took],
                time=times,
                observed_time=times,
                service=[chance.choice(SERVICES) for _ in range(count)],
                host=[f"h{chance.randrange(3)}" for _ in range(count)],
                severity=[chance.choice((0, 9, 13, 17, 21)) for _ in range(count)],
                attributes=[{"zone": chance.choice(("eu", "us"))} | chance.choice(({}, {"user": "bob"})) for _ in took],
                attributes_number=[{"took": float(n)} for n in took],
            ),
            visible=False,
        )
        await asyncio.sleep(chance.choice((0, 0, 0, 0.001, 0.02)))
    await server.put(records([END], time=TIME_NS), visible=False)


def shown(rows: list[dict[str, Any]]) -> list[str]:
    """Rows in an order of their own, sums rounded: they differ in the order of their terms."""
    return sorted(
        repr({name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()})
        for row in rows
    )


async def has_seen_all(watching: Watching, watch_id: str, head: int) -> None:
    """Wait until a watch has looked at everything, as its progress says."""
    while True:
        seen = len(watching.of("progress", watch_id))
        watching.send(progress={})
        progress = await watching.first("progress", watch_id, count=seen + 1)
        if progress.position.shards[0] >= head:
            return
        await asyncio.sleep(0.02)


def gauge(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(condition: Any, *, timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what others do in their own time
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(2))
async def test_many_watches_together_get_what_a_search_finds(server: QueryServer, seed: int) -> None:
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(server.watching()) for _ in range(3)]
        names = []
        for number, text in enumerate([*ROWS, *ROWS, *VALUES, *VALUES]):
            watching = streams[number % len(streams)]
            names.append((watching, f"w{number}", text))
            watching.create(f"w{number}", text, interval_duration=FAST)
        for watching, name, _ in names:
            await watching.first("created", name)
        await feed(server, chance, 40)
        await server.settle()
        head = server.journal.head()[0]
        for watching, name, text in names:
            expected = shown((await server.search(text)).rows)
            await has_seen_all(watching, name, head)
            if text in ROWS:
                assert shown(watching.rows(name)) == expected, text
            else:
                keys = parse(text, now_ns=0).stages[-1].by  # type: ignore[union-attr]
                columns = [key_name(key) for key in keys]
                await watching.until(
                    lambda watching=watching, name=name, columns=columns, expected=expected: (
                        shown(list(watching.values(*columns, watch_id=name).values())) == expected
                    )
                )


async def test_watches_that_come_and_go_lose_no_row_and_get_none_twice(server: QueryServer) -> None:
    chance = random.Random(1)

    async def comer(number: int) -> list[tuple[int, int]]:
        """A watch that is broken off and resumed now and then; the others stay."""
        token, keys = b"", list[tuple[int, int]]()
        own = random.Random(number)
        while True:
            async with server.watching() as watching:
                watching.create("w", "timeout OR end", **({"resume_token": token} if token else {}))
                watching.send(progress={})
                await watching.first("progress")
                want = own.randrange(1, 6)
                await watching.until(
                    lambda watching=watching, want=want: len(watching.of("rows")) >= want or END in watching.bodies()
                )
                messages = watching.of("rows")[:want]
                rows = watching.rows()[: sum(message.batch.row_count for message in messages)]
                keys += [(row["position"], row["row"]) for row in rows]
                token = messages[-1].through
                if rows[-1]["body"] == END:
                    return keys

    async with server.watching() as steady:
        for number in range(10):
            steady.create(f"s{number}", "timeout OR end")
        await steady.first("created", "s9")
        comers = [asyncio.create_task(comer(number)) for number in range(6)]
        await asyncio.sleep(0.05)
        await feed(server, chance, 60)
        for number in range(10):
            await steady.until(lambda number=number: END in steady.bodies(f"s{number}"))
        expected = [(row["position"], row["row"]) for row in steady.rows("s0")]
        assert expected == sorted(set(expected))
        assert all(
            [(row["position"], row["row"]) for row in steady.rows(f"s{number}")] == expected for number in range(10)
        )
        for keys in await asyncio.gather(*comers):
            assert keys == expected[len(expected) - len(keys) :]


async def test_a_question_that_changes_while_rounds_go_on_has_no_gap(server: QueryServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "service:api | fields body")
        watching.create("all", "* | fields body, service")
        await watching.first("created", "all")
        feeding = asyncio.create_task(feed(server, random.Random(5), 60))
        for turn in range(8):
            await watching.until_rows((turn + 1) * 10)
            watching.update("w", f"service:{SERVICES[(turn + 1) % 4]} | fields body, severity")
        await feeding
        await watching.until(lambda: END in watching.bodies("all"))
        await has_seen_all(watching, "w", server.journal.head()[0])
        # In the order of the journal, each row once: what it was told is a part of what was to be told.
        found = iter(watching.bodies("all"))
        assert all(body in found for body in watching.bodies())


LIMITS = WatchLimits(outbox=OutboxLimits(bytes_max=1_000_000, events_max=4096, lag_s=1.0), heartbeat_s=0.1)
FRAMES = 40


async def test_a_slow_a_stuck_and_a_dead_watcher_change_nothing_for_the_others(serve: Serve, pki: Pki) -> None:
    # The gauge is the process's: what servers of other tests left behind isn't ours to wait for.
    before = gauge("heimdall_watch_outbox_bytes")
    async with serve(watch_limits=LIMITS) as server, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(server.watching()) for _ in range(3)]
        for watching in others:
            for number in range(8):
                watching.create(f"w{number}", f"service:s{number % 4} | fields body")
            watching.create("n", "service:s* | stats count() as n by service", interval_duration=FAST)
            await watching.first("created", "n")
        count = server.watch.watch_count
        slow = await stack.enter_async_context(server.watching())
        stuck = await stack.enter_async_context(server.watching())
        dead = await stack.enter_async_context(stuck_watcher(pki, server.rpc.mesh_address))
        for watching in (slow, stuck):
            watching.create("w")
            await watching.first("created")
            watching.may_read.clear()
        assert server.watch.watch_count == count + 3
        bodies = [[f"{frame}/{row}" for row in range(8)] for frame in range(FRAMES)]
        services = [f"s{row % 4}" for row in range(8)]
        for frame in bodies:
            # What fills the connections of those three is large, and none of the others' business.
            large = ["x" * 200_000] * 4
            await server.put(records([*frame, *large], service=[*services, *["large"] * 4]), visible=False)
            # The slow one reads a message now and then.
            slow.may_read.set()
            await asyncio.sleep(0.01)
            slow.may_read.clear()
        for watching in others:
            for number in range(8):
                await watching.until_rows(FRAMES * 2, f"w{number}")
                expected = [frame[row] for frame in bodies for row in (number % 4, number % 4 + 4)]
                assert watching.bodies(f"w{number}") == expected
            await watching.until(
                lambda watching=watching: (
                    [row["n"] for row in watching.values("service", watch_id="n").values()] == [FRAMES * 2] * 4
                )
            )
        assert gauge("heimdall_watch_outbox_bytes") <= before + 6 * LIMITS.outbox.bytes_max
        # The stuck and the dead one are given up, and what they leave goes with their connections.
        await until(lambda: server.watch.watch_count <= count + 1)
        slow.call.cancel()
        stuck.call.cancel()
        slow.may_read.set()
        stuck.may_read.set()
        dead.kill()
        await until(lambda: gauge("heimdall_watch_outbox_bytes") <= before, timeout_s=30)
        await until(lambda: server.watch.watch_count == count)


async def test_a_dear_watch_goes_apart_and_one_that_costs_too_much_ends(serve: Serve) -> None:
    # As if all that is logged came at once: what is spent counts, and no time makes up for it.
    cost = CostLimits(share_together=0.0, together_burst_s=0.01, share_max=0.0, burst_s=0.05)
    async with serve(watch_limits=WatchLimits(cost=cost)) as server, server.watching() as watching:
        together = gauge("heimdall_watches_together", crowd="rows")
        watching.create("dear", "/(?:a?b?){50}x/")
        watching.create("fine", "service:fine | fields body")
        await watching.first("created", "fine")
        await until(lambda: gauge("heimdall_watches_together", crowd="rows") == together + 2)
        put = 0
        went_apart = False
        while put < 40 and not watching.of("cancelled", "dear"):
            batch = records(["ab" * 200] * 5000 + [f"needle {put}"], service=["other"] * 5000 + ["fine"])
            await server.put(batch, visible=False)
            put += 1
            await watching.until_rows(put, "fine")
            went_apart |= gauge("heimdall_watches_together", crowd="rows") == together + 1
        cancelled = await watching.first("cancelled", "dear")
        assert went_apart
        assert cancelled.status.code == code_pb2.RESOURCE_EXHAUSTED
        assert "processor time" in cancelled.status.message
        assert cancelled.through
        assert watching.bodies("fine") == [f"needle {number}" for number in range(put)]
