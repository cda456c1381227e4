"""What a dump holds is found in the logs that came before it and in those that come after, once each, and only by who may see both."""
# ruff: noqa: S608 - statements are made of names of ours

from __future__ import annotations

import itertools

import pytest

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_authored import Label
from heimdall_server.domain.graph_hunting import (
    Event,
    EventFilter,
    EventKind,
    Found,
    HuntState,
    LogSighting,
    Match,
    SightingEvent,
)
from heimdall_server.domain.graph_ids import dump_id
from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.events import PostgresEventLog
from heimdall_server.storage.postgres.graph.hunts import PostgresHuntStore
from heimdall_server.storage.postgres.graph.news import HuntBounds, News
from heimdall_server.storage.postgres.graph.rebuilds import PostgresGraphRebuilds
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.hunts import DAY, dump_provenance, entity, log_provenance, seen

FORUM = dump_id("forum")
pytestmark = pytest.mark.usefixtures("postgres_clean")


class Graph:
    """A graph whose writer notes what is awaited."""

    def __init__(self, pool: PostgresPool, *, entities: int = 1000, matches: int = 1000) -> None:
        self.times = itertools.count(1)
        self.writer = PostgresGraphWriter(pool, news=News(lambda: next(self.times), HuntBounds(entities, matches)))
        self.hunts = PostgresHuntStore(pool)
        self.events = PostgresEventLog(pool)

    async def hunt(self, *, rows_max: int = 100, confidence_min: int = 20) -> None:
        """Take everything that is queued."""
        while (hunt := await self.hunts.next_hunt()) is not None:
            step = await self.hunts.look_in_graph(
                hunt.dump, rows_max=rows_max, confidence_min=confidence_min, time_ns=next(self.times)
            )
            if step.is_last:
                await self.hunts.move(hunt.dump, HuntState.DONE, time_ns=next(self.times))

    async def matches(self, tlp_max: Tlp = Tlp.RED) -> dict[tuple[str, str, int], Match]:
        found = await self.hunts.matches(tlp_max=tlp_max, count_max=1000)
        return {(one.value, one.source, one.day): one for one in found}

    async def told(self, after: int = 0, **filters: object) -> list[Event]:
        filter_ = EventFilter(**{"tlp_max": Tlp.RED, **filters})  # type: ignore[arg-type]
        return list((await self.events.read(after, filter_, count_max=1000, scan_max=10_000)).events)


@pytest.fixture
def graph(postgres_pool: PostgresPool) -> Graph:
    return Graph(postgres_pool)


async def test_a_dump_after_logs_finds_them_and_logs_after_it_are_found_once_each(graph: Graph) -> None:
    await graph.writer.apply(seen(log_provenance("auth"), ["evil.example", "good.example"], 1, count=3))
    await graph.writer.apply(seen(dump_provenance("forum"), ["evil.example", "other.example"], 2))
    assert not await graph.matches()
    await graph.hunt()
    found = await graph.matches()
    assert list(found) == [("evil.example", "auth", DAY)]
    match = found["evil.example", "auth", DAY]
    assert (match.found, match.count, match.dump, match.dump_name) == (Found.GRAPH, 3, FORUM, "forum")

    await graph.writer.apply(seen(log_provenance("auth"), ["evil.example", "other.example"], 3, day=DAY + 1))
    await graph.writer.apply(seen(log_provenance("auth"), ["other.example"], 4, day=DAY + 1))  # no new row
    found = await graph.matches()
    assert {key: one.found for key, one in found.items()} == {
        ("evil.example", "auth", DAY): Found.GRAPH,
        ("evil.example", "auth", DAY + 1): Found.LOG,
        ("other.example", "auth", DAY + 1): Found.LOG,
    }
    await graph.writer.apply(seen(dump_provenance("forum"), ["evil.example"], 5, day=DAY + 3))
    await graph.hunt()
    assert len(await graph.matches()) == 3, "what was looked for before is found by what came since"
    told = await graph.told(kinds=frozenset({EventKind.MATCH}))
    values = [one.what.value for one in told if isinstance(one.what, Match)]
    assert (values[0], sorted(values[1:])) == ("evil.example", ["evil.example", "other.example"])
    hunt = (await graph.hunts.hunts(tlp_max=Tlp.RED))[0]
    assert (hunt.state, hunt.entity_count, hunt.match_count, hunt.truncated) == (HuntState.DONE, 2, 3, False)


async def test_a_rebuild_finds_nothing_anew_and_loses_no_match(graph: Graph) -> None:
    batches = [
        seen(log_provenance("auth"), ["evil.example"], 1),
        seen(dump_provenance("forum"), ["evil.example"], 2),
        seen(log_provenance("mail"), ["evil.example"], 3),
    ]
    for batch in batches:
        await graph.writer.apply(batch)
    await graph.hunt()
    before, events = await graph.matches(), await graph.told(kinds=frozenset({EventKind.MATCH}))
    assert len(before) == len(events) == 2
    await graph.writer.forget()
    assert {one.count for one in await graph.hunts.matches(tlp_max=Tlp.RED)} == {1}
    for batch in batches:
        await graph.writer.apply(batch)
    await graph.hunt()
    assert await graph.matches() == before
    assert await graph.told(kinds=frozenset({EventKind.MATCH})) == events


async def test_a_hunt_that_a_rebuild_came_into_looks_through_all_that_was_made_again(
    graph: Graph, postgres_pool: PostgresPool
) -> None:
    batches = [seen(log_provenance("auth"), ["evil.example"], 1), seen(dump_provenance("forum"), ["evil.example"], 2)]
    for batch in batches:
        await graph.writer.apply(batch)
    rebuilds = PostgresGraphRebuilds(postgres_pool)
    rebuild = Rebuild("0" * 32, "alice", "test", through=2, create_time_ns=1)
    await rebuilds.begin(rebuild)
    for batch in batches:
        await PostgresGraphWriter(postgres_pool).apply(batch)
    await rebuilds.end(rebuild.rebuild_id, time_ns=2, notice="")
    await graph.hunt()
    assert list(await graph.matches()) == [("evil.example", "auth", DAY)]


async def test_a_hunt_goes_on_in_pieces_and_within_its_bounds(postgres_pool: PostgresPool) -> None:
    graph = Graph(postgres_pool, entities=20)
    names = [f"host-{number}.example" for number in range(30)]
    await graph.writer.apply(seen(log_provenance("auth"), names, 1))
    for number, part in enumerate((names[:15], names[15:])):
        await graph.writer.apply(seen(dump_provenance("forum"), part, 2 + number))
    first = await graph.hunts.look_in_graph(FORUM, rows_max=4, confidence_min=20, time_ns=9)
    assert (first.entity_count, first.match_count, first.is_last) == (4, 4, False)
    await Graph(postgres_pool).hunt(rows_max=4)  # another process goes on
    assert len(await graph.matches()) == 20
    hunt = (await graph.hunts.hunts(tlp_max=Tlp.RED))[0]
    assert (hunt.entity_count, hunt.truncated, hunt.state) == (20, True, HuntState.DONE)


async def test_what_is_not_sure_enough_is_not_looked_for(graph: Graph) -> None:
    await graph.writer.apply(seen(log_provenance("auth"), ["evil.example", "dns.example"], 1))
    await graph.writer.apply(seen(dump_provenance("forum", confidence=10), ["dns.example"], 2))
    await graph.writer.apply(seen(dump_provenance("forum"), ["evil.example"], 3))
    await graph.hunt()
    assert [value for value, _, _ in await graph.matches()] == ["evil.example"]


async def test_who_may_not_see_a_dump_or_a_log_sees_no_match_of_it_no_hunt_and_no_count(graph: Graph) -> None:
    await graph.writer.apply(seen(log_provenance("auth"), ["evil.example", "both.example"], 1))
    await graph.writer.apply(seen(log_provenance("auth", Tlp.RED), ["both.example"], 2, count=40))
    await graph.writer.apply(seen(log_provenance("secret", Tlp.RED), ["evil.example"], 3))
    await graph.writer.apply(seen(dump_provenance("forum"), ["evil.example", "both.example"], 4))
    await graph.writer.apply(seen(dump_provenance("inner", Tlp.RED), ["evil.example"], 5))
    await graph.hunt()
    await graph.writer.apply(seen(log_provenance("vpn"), ["evil.example"], 6))
    assert len(await graph.hunts.matches(tlp_max=Tlp.RED)) == 7
    low = await graph.hunts.matches(tlp_max=Tlp.AMBER)
    assert sorted((one.value, one.source, one.dump_name, one.count) for one in low) == [
        ("both.example", "auth", "forum", 1),
        ("evil.example", "auth", "forum", 1),
        ("evil.example", "vpn", "forum", 1),
    ]
    hunts = await graph.hunts.hunts(tlp_max=Tlp.AMBER)
    assert [(one.name, one.match_count) for one in hunts] == [("forum", 3)]
    told = await graph.told(tlp_max=Tlp.AMBER)
    assert {one.what.dump for one in told if not isinstance(one.what, SightingEvent)} == {FORUM}
    # Once a source may be heard by more, so may its match.
    await graph.hunts.cancel(dump_id("inner"), time_ns=1)
    await graph.writer.apply(seen(dump_provenance("inner"), ["evil.example"], 7, day=DAY + 9))
    assert len(await graph.hunts.hunts(tlp_max=Tlp.AMBER)) == 2


async def test_an_erased_entity_takes_its_matches_its_events_and_who_waits_for_it_along(
    graph: Graph, postgres_pool: PostgresPool
) -> None:
    ada = "[email:1" + "a" * 26 + "]"
    await graph.writer.apply(seen(log_provenance("auth"), [ada, "evil.example"], 1, type_="email"))
    await graph.writer.apply(seen(dump_provenance("forum"), [ada, "evil.example"], 2, type_="email"))
    await graph.events.watch_entities([entity(ada)], until_ns=10**9)
    await graph.hunt()
    assert len(await graph.matches()) == 2
    await PostgresGraphEraser(postgres_pool).erase([ada])
    assert [value for value, _, _ in await graph.matches()] == ["evil.example"]
    told = await graph.told()
    assert entity(ada) not in {one.what.id for one in told if isinstance(one.what, Match | SightingEvent)}
    async with postgres_pool.connection() as connection:
        for name in ("graph_hunted", "graph_watched", "graph_match", "graph_event"):
            cursor = await connection.execute(f"SELECT count(*) FROM {name} WHERE id = %s", (entity(ada).hex(),))
            assert await cursor.fetchone() == (0,), name


async def test_new_sightings_of_entities_that_are_watched_or_labelled_are_told_to_who_may_know_that_they_are(
    graph: Graph, postgres_pool: PostgresPool
) -> None:
    curation = PostgresGraphCuration(postgres_pool)
    await curation.add_label(Label(entity("evil.example"), "c2", "ann", 1, tlp=Tlp.RED))
    await graph.events.watch_entities([entity("waited.example")], until_ns=10**18)
    names = ["evil.example", "waited.example", "dull.example"]
    await graph.writer.apply(seen(log_provenance("auth"), names, 1))
    await graph.writer.apply(seen(log_provenance("auth"), names, 2))
    await graph.writer.apply(seen(dump_provenance("forum"), names, 3))

    def values(events: list[Event]) -> list[tuple[str, bool]]:
        return [(one.what.value, one.what.in_dump) for one in events if isinstance(one.what, SightingEvent)]

    assert values(await graph.told()) == [("evil.example", False), ("evil.example", True)]
    assert values(await graph.told(tlp_max=Tlp.AMBER)) == [], "a label that isn't shown tells nothing"
    named = await graph.told(tlp_max=Tlp.AMBER, entities=frozenset({entity("waited.example")}))
    assert values(named) == [("waited.example", False), ("waited.example", True)]
    assert values(await graph.told(labels=frozenset({"c2"}), dumps=frozenset({FORUM}))) == [("evil.example", True)]
    assert values(await graph.told(types=frozenset({"ipv4"}))) == []


async def test_events_are_numbered_without_gaps_read_by_pages_and_let_go_by_number(graph: Graph) -> None:
    names = [f"host-{number}.example" for number in range(30)]
    await graph.writer.apply(seen(dump_provenance("forum"), names, 1))
    await graph.hunt(rows_max=7)
    for day in range(3):
        await graph.writer.apply(seen(log_provenance("auth"), names, 2 + day, day=DAY + day))
    head = await graph.events.head()
    found: list[int] = []
    after = 0
    while after < head.last:
        page = await graph.events.read(after, EventFilter(Tlp.RED), count_max=11, scan_max=23)
        found += [one.seq for one in page.events]
        after = page.through
    assert found == list(range(1, head.last + 1))
    assert head.last == 90 + 1, "each match, and that the hunt is done"
    await graph.events.let_go(keep_count=10, time_ns=1)
    with pytest.raises(TokenError):
        await graph.told(5)
    assert len(await graph.told(head.last - 10)) == 10


async def test_a_hunt_is_ended_by_hand_and_started_again_by_hand(graph: Graph, postgres_pool: PostgresPool) -> None:
    await graph.writer.apply(seen(log_provenance("auth"), ["evil.example"], 1))
    await graph.writer.apply(seen(dump_provenance("forum"), ["evil.example"], 2))
    assert await graph.hunts.cancel(FORUM, time_ns=5)
    assert not await graph.hunts.cancel(FORUM, time_ns=6)
    await graph.writer.apply(seen(dump_provenance("forum"), ["more.example"], 3))
    await graph.hunt()
    assert not await graph.matches()
    start = {"tlp": Tlp.GREEN, "actor": "ann", "time_ns": 7, "limits": (100, 100)}
    assert await graph.hunts.start(FORUM, "forum", since_ns=50, **start)  # type: ignore[arg-type]
    assert not await graph.hunts.start(FORUM, "forum", since_ns=60, **start), "one that goes further runs"  # type: ignore[arg-type]
    assert await graph.hunts.start(FORUM, "forum", since_ns=40, **start)  # type: ignore[arg-type]
    await graph.hunt()
    # What the graph was told quietly, by a rebuild, is found by hand, too.
    await PostgresGraphWriter(postgres_pool).apply(seen(log_provenance("old"), ["more.example"], 4))
    await graph.hunt()
    assert not any(source == "old" for _, source, _ in await graph.matches())
    assert await graph.hunts.start(FORUM, "forum", since_ns=0, **start)  # type: ignore[arg-type]
    await graph.hunt()
    assert any(source == "old" for _, source, _ in await graph.matches())
    hunt = (await graph.hunts.hunts(tlp_max=Tlp.RED, dump=FORUM))[0]
    assert (hunt.by_hand, hunt.actor, hunt.entity_count, hunt.match_count) == (False, "ann", 2, 2)


async def test_what_records_say_of_entities_of_before_is_kept_once_and_searched_once(graph: Graph) -> None:
    await graph.writer.apply(seen(dump_provenance("forum"), ["a.example", "b.example", "c.example"], 1))
    await graph.hunt()
    wanted = await graph.hunts.unsearched(FORUM, since_ns=100, count_max=2)
    assert len(wanted) == 2
    said = [
        LogSighting(one.id, "old", DAY - 40, Tlp.AMBER, count=7, first_ns=1, last_ns=2) for one in wanted for _ in "x"
    ]
    step = await graph.hunts.keep_searched(FORUM, wanted, said, since_ns=100, record_count=50, time_ns=3)
    assert step.match_count == 2
    rest = await graph.hunts.unsearched(FORUM, since_ns=100, count_max=2)
    assert {one.id for one in rest} == {entity(f"{name}.example") for name in "abc"} - {one.id for one in wanted}
    await graph.hunts.keep_searched(FORUM, rest, [], since_ns=100, record_count=50, time_ns=3)
    assert not await graph.hunts.unsearched(FORUM, since_ns=100, count_max=2)
    assert {one.found for one in await graph.hunts.matches(tlp_max=Tlp.RED)} == {Found.HISTORY}
    assert (await graph.hunts.sums()).match_count == 2
