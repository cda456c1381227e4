"""Watches of the graph: in order, once, resumed from any message, bounded; and the hunter that gives way to others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest

from heimdall_server.domain.errors import BudgetExceededError, DrainingError, StreamLaggedError, TokenError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_hunting import EventKind, HuntState, Match, SightingEvent
from heimdall_server.projections.graph.hunt_config import HuntConfig
from heimdall_server.projections.graph.hunter import Hunter
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.watching import GraphWatching, GraphWatchLimits, WatchPorts
from heimdall_server.services.graph.model import Ceiling, Named
from heimdall_server.services.graph.model_hunting import Told, WatchAsked
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.events import PostgresEventLog
from heimdall_server.storage.postgres.graph.hunts import PostgresHuntStore
from heimdall_server.storage.postgres.graph.news import HuntBounds, News
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.hunts import DAY, dump_provenance, log_provenance, seen
from tests.support.warm_process import SystemClock

pytestmark = pytest.mark.usefixtures("postgres_clean")
ALL = WatchAsked(entities=(), dumps=(), types=(), labels=(), kinds=frozenset({EventKind.MATCH}), spelled=b"all")
RED = Ceiling(Tlp.RED)
NAMES = [f"host-{number}.example" for number in range(300)]


class NoOwners:
    """There are no tokens here."""

    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        raise AssertionError(list(tokens), through)


async def _no_match(data_class: str, value: str) -> None:
    raise AssertionError(data_class, value)


def watching(pool: PostgresPool, *, key: bytes = b"key", **limits: Any) -> GraphWatching:
    names = VertexNames(
        classes=frozenset({"email"}),
        may_tokenise=lambda _: False,
        mac=lambda message: hashlib.sha256(message).digest(),
        owners=NoOwners(),
        match=_no_match,
    )
    ports = WatchPorts(
        PostgresEventLog(pool), PostgresGraphCuration(pool), names, frozenset({"email"}), SystemClock(), key
    )
    return GraphWatching(ports, GraphWatchLimits(**{"poll_s": 0.05, "heartbeat_s": 5.0, **limits}))


class World:
    """A graph in which a dump was hunted for, so that logs make matches."""

    def __init__(self, pool: PostgresPool) -> None:
        self.positions = itertools.count(1)
        self.writer = PostgresGraphWriter(pool, news=News(SystemClock().now_ns, HuntBounds(10_000, 10_000)))
        self.hunts = PostgresHuntStore(pool)

    async def begin(self) -> None:
        await self.writer.apply(seen(dump_provenance("forum"), NAMES, next(self.positions)))
        while (hunt := await self.hunts.next_hunt()) is not None:
            await self.hunts.look_in_graph(hunt.dump, rows_max=1000, confidence_min=0, time_ns=1)
            await self.hunts.move(hunt.dump, HuntState.DONE, time_ns=1)

    async def log(self, names: list[str], *, day: int = DAY) -> None:
        await self.writer.apply(seen(log_provenance("auth"), names, next(self.positions), day=day))


@pytest.fixture
async def world(postgres_pool: PostgresPool) -> World:
    made = World(postgres_pool)
    await made.begin()
    return made


@contextlib.asynccontextmanager
async def told_by(found: GraphWatching, asked: WatchAsked = ALL) -> AsyncIterator[AsyncIterator[Told]]:
    async with contextlib.aclosing(found.watch(asked, RED, asyncio.Event())) as told:
        assert (await anext(told)).event is None, "it begins with its place"
        yield told


def resumed(token: bytes, asked: WatchAsked = ALL) -> WatchAsked:
    return WatchAsked(asked.entities, asked.dumps, asked.types, asked.labels, asked.kinds, asked.spelled, token)


async def take(told: AsyncIterator[Told], count: int) -> list[Told]:
    found: list[Told] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            one = await anext(told)
            found += [one] if one.event is not None else []
    return found


async def take_all(told: AsyncIterator[Told], found: list[Told]) -> None:
    """Until it ends."""
    async for one in told:
        found.append(one)  # noqa: PERF401 - what was taken stays when it ends by an error


def seqs(told: Iterable[Told]) -> list[int]:
    return [one.event.seq for one in told if one.event is not None]


async def test_a_watch_is_resumed_from_any_message_without_loss_or_repeat(
    world: World, postgres_pool: PostgresPool
) -> None:
    found = watching(postgres_pool, page_events=7, scan_events=11)
    async with told_by(found) as told:
        await world.log(NAMES[:20])
        found.ring()
        await world.log(NAMES[20:40])
        first = await take(told, 40)
    assert seqs(first) == list(range(seqs(first)[0], seqs(first)[0] + 40))
    await world.log(NAMES[:1], day=DAY + 1)
    for place in (0, 6, 19, 39):
        async with contextlib.aclosing(found.watch(resumed(first[place].resume_token), RED, asyncio.Event())) as told:
            again = await take(told, 40 - place)
        assert seqs(again) == [*seqs(first)[place + 1 :], seqs(first)[-1] + 1]


async def test_a_reader_that_takes_nothing_is_left_with_the_token_behind_what_it_still_gets(
    world: World, postgres_pool: PostgresPool
) -> None:
    found = watching(postgres_pool, lag_s=0.2, page_events=50)
    got: list[Told] = []
    async with told_by(found) as told:
        for day in range(3):
            await world.log(NAMES, day=DAY + day)
        await asyncio.sleep(1.5)
        with pytest.raises(StreamLaggedError) as lagged:
            await take_all(told, got)
    assert 0 < len(got) < 900
    assert lagged.value.resume_token == got[-1].resume_token
    async with contextlib.aclosing(found.watch(resumed(lagged.value.resume_token), RED, asyncio.Event())) as told:
        rest = await take(told, 900 - len(got))
    assert seqs([*got, *rest]) == list(range(seqs(got)[0], seqs(got)[0] + 900))
    assert found.watch_count == 0


async def test_a_watch_that_hears_nothing_beats_and_ends_with_its_place_when_the_server_drains(
    postgres_pool: PostgresPool, world: World
) -> None:
    del world
    found, draining = watching(postgres_pool, heartbeat_s=0.1), asyncio.Event()
    async with contextlib.aclosing(found.watch(ALL, RED, draining)) as told, asyncio.timeout(20):
        beats = [await anext(told) for _ in range(3)]
        assert {(one.event, one.lag_s) for one in beats} == {(None, 0.0)}
        draining.set()
        with pytest.raises(DrainingError):
            await take_all(told, beats)
    assert beats[-1].resume_token == beats[0].resume_token


async def test_a_token_holds_for_its_own_watch_and_its_own_server_only(
    world: World, postgres_pool: PostgresPool
) -> None:
    found = watching(postgres_pool)
    async with told_by(found) as told:
        await world.log(NAMES[:1])
        token = (await take(told, 1))[0].resume_token
    other = WatchAsked((), (), (), (), frozenset(), b"other", token)
    damaged = resumed(token[:-1] + bytes([token[-1] ^ 1]))
    for asked, server in ((other, found), (damaged, found), (resumed(token), watching(postgres_pool, key=b"else"))):
        with pytest.raises(TokenError):
            async with contextlib.aclosing(server.watch(asked, RED, asyncio.Event())) as told:
                await anext(told)


async def test_an_entity_that_is_named_is_watched_before_the_watch_says_that_it_runs_and_watches_are_bounded(
    world: World, postgres_pool: PostgresPool
) -> None:
    found = watching(postgres_pool, watch_count_max=1)
    asked = WatchAsked((Named(type="domain", value="nobody.example"),), (), ("domain",), (), frozenset(), b"one")
    async with told_by(found, asked):
        async with postgres_pool.connection() as connection:
            held = await (await connection.execute("SELECT count(*) FROM graph_watched")).fetchone()
        assert held == (1,)
        with pytest.raises(BudgetExceededError):
            async with contextlib.aclosing(found.watch(ALL, RED, asyncio.Event())) as told:
                await anext(told)
    del world


async def test_events_are_told_to_many_watches_each_under_its_own_filter(
    world: World, postgres_pool: PostgresPool
) -> None:
    found = watching(postgres_pool)
    kinds = frozenset({EventKind.MATCH, EventKind.SIGHTING})
    by_type = WatchAsked((), (), ("ip",), (), kinds, b"ip")
    by_dump = WatchAsked((), ("forum",), (), (), kinds, b"forum")
    async with told_by(found, by_type) as none, told_by(found, by_dump) as forum, told_by(found) as every:
        await world.log(NAMES[:3])
        for told in (forum, every):
            events = [one.event.what for one in await take(told, 3) if one.event is not None]
            assert all(isinstance(one, Match) and not isinstance(one, SightingEvent) for one in events)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(none)


async def test_the_hunter_gives_way_while_others_need_the_machine_and_does_nothing_where_it_is_off(
    postgres_pool: PostgresPool,
) -> None:
    made = World(postgres_pool)
    await made.log(NAMES[:10])
    await made.writer.apply(seen(dump_provenance("forum"), NAMES[:10], next(made.positions)))
    reason = ["queries wait"]

    async def hunting(config: HuntConfig) -> tuple[Hunter, asyncio.Task[None]]:
        hunter = Hunter(made.hunts, PostgresEventLog(postgres_pool), SystemClock(), config, busy=lambda: reason[0])
        return hunter, asyncio.create_task(hunter.run())

    async def state() -> HuntState:
        return (await made.hunts.hunts(tlp_max=Tlp.RED))[0].state

    off, task = await hunting(HuntConfig(enabled=False))
    hunter, other = await hunting(HuntConfig(share=1.0, step_rows=3))
    async with asyncio.timeout(20):
        while "queries wait" not in hunter.progress.notice:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        assert await state() is HuntState.QUEUED
        reason[0] = ""
        while await state() is not HuntState.DONE:  # noqa: ASYNC110 - the store tells it
            await asyncio.sleep(0.05)
    assert off.progress.state.value == "stopped"
    assert len(await made.hunts.matches(tlp_max=Tlp.RED)) == 10
    for one in (task, other):
        one.cancel()
    await asyncio.wait([task, other])
