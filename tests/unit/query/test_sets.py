"""Sets of entities for queries: who may ask, how often the graph is asked, what pages keep to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from heimdall_server.domain.errors import (
    PermissionDeniedError,
    QueryCostError,
    StoreError,
    TokenError,
    UnimplementedError,
)
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_sets import GraphTerm, Members
from heimdall_server.domain.identity import Principal
from heimdall_server.language.parser import parse
from heimdall_server.rpc.calls import Call, serving
from heimdall_server.services.query.logic import sets
from heimdall_server.services.query.logic.sets import SetFinder, sets_of
from heimdall_server.services.query.logic.watch import live_sets
from heimdall_server.services.query.logic.watch.live_sets import LiveSets
from heimdall_server.services.query.set_model import GraphPosition
from tests.support.journal import ManualClock

QUERY = parse("sighted_in:forum AND NOT entity_label:c2", now_ns=0)
FORUM, C2 = GraphTerm("sighted_in", "forum"), GraphTerm("entity_label", "c2")
WORD = "1" + "a" * 26


class FakeGraph:
    """Tells what it is given."""

    def __init__(self) -> None:
        self.values = {FORUM: ["a.example"], C2: [f"[email:{WORD}]"]}
        self.asked: list[tuple[GraphTerm, Tlp]] = []
        self.error: Exception | None = None

    async def members(self, term: GraphTerm, *, tlp_max: Tlp, count_max: int) -> Members:
        self.asked.append((term, tlp_max))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        values = self.values[term]
        if len(values) > count_max:
            return Members({}, len(values), truncated=True)
        type_name = "email" if values and values[0].startswith("[") else "domain"
        return Members({type_name: values}, len(values))


@pytest.fixture
def graph() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def finder(graph: FakeGraph, clock: ManualClock) -> SetFinder:
    return SetFinder(graph, clock, position=lambda: GraphPosition(7, 0.5), entities_max=3)


def call(*permissions: str) -> Call:
    principal = Principal(
        "spiffe://x/client/a", "x", "client", "a", "f", roles=frozenset({"r"}), permissions=frozenset(permissions)
    )
    return Call(principal, "r-1", "heimdall.query.v1.QueryService/Search", "peer")


@pytest.fixture
def reader() -> Iterator[None]:
    with serving(call("graph.read")):
        yield


async def test_without_a_graph_or_the_permission_nothing_is_asked(finder: SetFinder, graph: FakeGraph) -> None:
    with serving(call("query.*")):
        with pytest.raises(UnimplementedError, match=r"entity_label, sighted_in; add graph, and privacy"):
            await sets_of(None, QUERY)
        with pytest.raises(
            PermissionDeniedError, match=r"graph\.read.*asking the graph in a query \(entity_label, sighted_in\)"
        ):
            await sets_of(finder, QUERY)
        assert not (await sets_of(finder, parse("service:api", now_ns=0))).sets
        assert not (await sets_of(None, parse("service:api", now_ns=0))).sets
    assert not graph.asked


async def test_the_ceiling_is_the_callers_and_sets_arent_shared_across_ceilings(
    finder: SetFinder, graph: FakeGraph
) -> None:
    for permissions in (("graph.read",), ("graph.*",)):
        with serving(call(*permissions)):
            await sets_of(finder, parse("sighted_in:forum", now_ns=0))
    assert graph.asked == [(FORUM, Tlp.AMBER_STRICT), (FORUM, Tlp.RED)]


@pytest.mark.usefixtures("reader")
async def test_a_set_is_asked_for_once_a_moment_however_many_want_it(
    finder: SetFinder, graph: FakeGraph, clock: ManualClock
) -> None:
    found = await asyncio.gather(*(sets_of(finder, QUERY) for _ in range(5)))
    assert len({one.digest for one in found}) == 1
    assert len(graph.asked) == 2
    clock.advance(sets.FRESH_S + 1)
    graph.values[FORUM] = ["a.example", "b.example"]
    again = await sets_of(finder, QUERY)
    assert again.digest != found[0].digest
    assert again.sets[FORUM].entity_count == 2
    assert again.position.applied == 7
    assert "example" not in repr(again)


@pytest.mark.usefixtures("reader")
async def test_pages_keep_to_what_the_first_one_was_told_or_are_refused(
    finder: SetFinder, graph: FakeGraph, clock: ManualClock
) -> None:
    first = await sets_of(finder, QUERY)
    clock.advance(sets.FRESH_S + 1)
    graph.values[FORUM] = ["a.example", "b.example"]
    assert (await sets_of(finder, QUERY)).digest != first.digest
    kept = await sets_of(finder, QUERY, begun_with=first.digest)
    assert kept.digest == first.digest
    assert kept.sets[FORUM].entity_count == 1
    clock.advance(sets.HELD_S + 1)
    with pytest.raises(TokenError, match="has changed since the first page"):
        await sets_of(finder, QUERY, begun_with=first.digest)
    graph.values[FORUM] = ["a.example"]
    clock.advance(sets.FRESH_S + 1)
    assert (await sets_of(finder, QUERY, begun_with=first.digest)).digest == first.digest, "told in the same words"


@pytest.mark.usefixtures("reader")
async def test_too_many_entities_are_refused_with_advice_and_held_sets_are_bounded(
    finder: SetFinder, graph: FakeGraph, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.values[FORUM] = [f"{name}.example" for name in "abcd"]
    with pytest.raises(QueryCostError, match=r"more than 3 entities.*narrow it"):
        await sets_of(finder, QUERY)
    graph.values[FORUM] = [f"{name}.example" for name in "abc"]
    clock.advance(sets.FRESH_S + 1)
    with pytest.raises(QueryCostError, match=r"means 4 entities.*ask in parts"):
        await sets_of(finder, QUERY)
    many = " OR ".join(f"entity_label:l{number}" for number in range(sets.TERMS_MAX + 1))
    with pytest.raises(QueryCostError, match="17 things"):
        await sets_of(finder, parse(many, now_ns=0))
    monkeypatch.setattr(sets, "HELD_VALUES_MAX", 4)
    digests = []
    for number in range(4):
        clock.advance(sets.FRESH_S + 1)
        graph.values[FORUM] = [f"{name}{number}.example" for name in "ab"]
        digests.append((await sets_of(finder, parse("sighted_in:forum", now_ns=0))).digest)
    query = parse("sighted_in:forum", now_ns=0)
    assert (await sets_of(finder, query, begun_with=digests[-1])).digest == digests[-1]
    with pytest.raises(TokenError):
        await sets_of(finder, query, begun_with=digests[0])


@pytest.mark.usefixtures("reader")
async def test_the_words_of_other_epochs_are_looked_for_too(graph: FakeGraph, clock: ManualClock) -> None:
    other = "2" + "b" * 26

    async def further(tokens: object) -> list[str]:
        assert tokens == [f"[email:{WORD}]"]
        return [other]

    finder = SetFinder(graph, clock, position=lambda: GraphPosition(1, 0.0), further_words=further)
    found = (await sets_of(finder, parse("entity_label:c2", now_ns=0))).sets[C2]
    assert found.words == {WORD, other}
    assert (found.entity_count, found.value_count) == (1, 2)


@pytest.mark.usefixtures("reader")
async def test_watches_are_told_of_changes_keep_what_they_have_when_the_graph_fails_and_end_at_too_many(
    finder: SetFinder, graph: FakeGraph, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_sets, "POLL_S", 0.01)
    changes: list[int] = []
    live = LiveSets(finder, lambda: changes.append(1))
    following = await live.follow(QUERY)
    assert following is not None
    assert await live.follow(parse("service:api", now_ns=0)) is None
    task = asyncio.create_task(live.run())

    async def until(holds: object) -> None:
        async with asyncio.timeout(5):
            while not holds():  # type: ignore[operator]
                clock.advance(1)
                await asyncio.sleep(0.01)

    graph.values[FORUM] = ["a.example", "b.example"]
    await until(lambda: following.version == 1)
    assert len(changes) == 1
    assert following.filled(QUERY) is not None
    graph.error = StoreError("postgres", "away")
    asked = len(graph.asked)
    await until(lambda: len(graph.asked) > asked + 2)
    assert following.found.sets[FORUM].entity_count == 2
    graph.error = None
    graph.values[FORUM] = [f"{name}.example" for name in "abcd"]
    await until(lambda: following.error is not None)
    with pytest.raises(QueryCostError):
        following.filled(QUERY)
    task.cancel()
    await asyncio.wait([task])
    await finder.close()
