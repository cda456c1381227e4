"""What every graph promises of its lists, sums and looks at many entities, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label, Merge
from heimdall_server.domain.graph_ids import sighting_id
from heimdall_server.domain.graph_views import DumpsOf, EntityFilter, SightingsBy, SightingSum
from heimdall_server.storage.postgres.graph import sighting_sums, views
from heimdall_server.storage.postgres.graph.views import PostgresGraphViews
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.contract.test_graph_store_contract import stores
from tests.support.graphs import DAY_NS, NOON_NS, OURS, THEIRS, Facts, GraphStores, make_id

pytestmark = pytest.mark.usefixtures("postgres_clean")
DAY = NOON_NS // DAY_NS
IN_DUMP = Provenance(instance="here", source="osint", method="dump-field", dump="forum", tlp=Tlp.GREEN)
SECRET_DUMP = Provenance(instance="here", source="osint", method="dump-field", dump="secret", tlp=Tlp.RED)
BY = {"app": 0, "feed": 1, "forum": 2, "secret": 3}


@pytest.fixture(params=["postgres"])
async def graph(postgres_pool: PostgresPool) -> GraphStores:
    return stores(postgres_pool, postgres_pool)


@pytest.fixture
async def viewed(postgres_pool: PostgresPool) -> PostgresGraphViews:
    return PostgresGraphViews(postgres_pool)


def facts() -> Facts:
    return Facts(provenances=[OURS, THEIRS, IN_DUMP, SECRET_DUMP])


def sight(told: Facts, entity: bytes, name: str, day: int, hours: dict[int, int], by: str = "") -> None:
    """Tell of a sighting, by the provenance of its name unless another is named."""
    counts = [hours.get(hour, 0) for hour in range(24)]
    first, last = min(hours), max(hours)
    span: dict[str, Any] = {
        "first_ns": day * DAY_NS + first * 3600 * 10**9,
        "last_ns": day * DAY_NS + last * 3600 * 10**9 + 5,
    }
    number = BY[by or name]
    about: dict[str, Any] = {
        "id": sighting_id(entity, name, day),
        "type": "dump" if name in ("forum", "secret") else "log",
    }
    id_ = told.vertex(name, VertexKind.SIGHTING, by=number, day=day, hours=counts, count=sum(counts), **(about | span))
    told.edge(id_, entity, EdgeKind.OF_ENTITY, by=number, count=sum(counts), **span)


async def listed(viewed: PostgresGraphViews, count_max: int = 3, **filters: object) -> list[str]:
    """Values of all pages."""
    filter_ = EntityFilter(**({"tlp_max": Tlp.GREEN} | filters))  # type: ignore[arg-type]
    found, after = [], b""
    while True:
        page = await viewed.entities(filter_, after=after, count_max=count_max)
        assert len(page.entities) <= count_max
        found += [one.vertex.value for one in page.entities]
        marks = [one.mark for one in page.entities]
        assert marks == sorted(marks, reverse=True), "the latest first"
        assert not marks or not after or marks[0] < after
        if not page.next_after:
            return found
        after = page.next_after


async def test_entities_are_listed_by_type_page_by_page_each_once(
    graph: GraphStores, viewed: PostgresGraphViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = facts()
    domains = {f"d{number}.example" for number in range(20)}
    for value in domains:
        told.vertex(value)
    addresses = {f"192.0.2.{number}" for number in range(7)}
    for value in addresses:
        told.vertex(value, type="ipv4")
    told.vertex("2001:db8::1", type="ipv6")
    told.vertex("strict.example", by=1)
    told.vertex("a dump", VertexKind.DUMP)
    await graph.tell(told)
    assert sorted(await listed(viewed)) == sorted({*domains, *addresses, "2001:db8::1"})
    assert set(await listed(viewed, types=frozenset({"ipv4", "ipv6"}))) == {*addresses, "2001:db8::1"}
    assert await listed(viewed, types=frozenset({"nothing"})) == []
    assert len(await listed(viewed, tlp_max=Tlp.RED)) == 29
    monkeypatch.setattr(views, "SCANNED_MAX", 4)
    assert await listed(viewed, types=frozenset({"domain"}), confidence_min=90, tlp_max=Tlp.RED) == ["strict.example"]
    assert set(await listed(viewed, types=frozenset({"domain"}))) == domains, "however much one page looks at"


async def test_a_list_goes_on_from_where_it_was_whatever_comes_in_until_the_graph_is_made_anew(
    graph: GraphStores, viewed: PostgresGraphViews
) -> None:
    told = facts()
    for number in range(4):
        told.vertex(f"d{number}.example")
    await graph.tell(told)
    filter_ = EntityFilter(Tlp.GREEN)
    first = await viewed.entities(filter_, count_max=2)
    later = facts()
    later.vertex("later.example")
    await graph.tell(later, 2)
    second = await viewed.entities(filter_, after=first.next_after, count_max=9)
    values = [one.vertex.value for page in (first, second) for one in page.entities]
    assert sorted(values) == [f"d{number}.example" for number in range(4)]
    assert not second.next_after
    assert (await viewed.entities(filter_)).entities[0].vertex.value == "later.example"
    await graph.writer.forget()
    await graph.tell(told)
    with pytest.raises(TokenError):
        await viewed.entities(filter_, after=first.next_after)
    with pytest.raises(TokenError):
        await viewed.entities(filter_, after=b"x")


async def test_a_list_is_narrowed_by_what_the_reader_may_know(graph: GraphStores, viewed: PostgresGraphViews) -> None:
    told = facts()
    told.vertex("mixed.example")
    told.vertex("mixed.example", by=1, at_ns=NOON_NS + 9 * DAY_NS)
    told.vertex("old.example", at_ns=NOON_NS - 9 * DAY_NS)
    await graph.tell(told)
    assert await listed(viewed, confidence_min=90, tlp_max=Tlp.RED) == ["mixed.example"]
    assert await listed(viewed, confidence_min=90) == [], "who is sure of it is above the ceiling"
    assert await listed(viewed, since_ns=NOON_NS + DAY_NS, tlp_max=Tlp.RED) == ["mixed.example"]
    assert await listed(viewed, since_ns=NOON_NS + DAY_NS) == []
    assert await listed(viewed, until_ns=NOON_NS) == ["old.example"]


async def test_a_list_by_label_follows_labels_and_their_markings(
    graph: GraphStores, viewed: PostgresGraphViews
) -> None:
    told = facts()
    ids = {value: told.vertex(value) for value in ("a.example", "b.example", "c.example")}
    address = told.vertex("192.0.2.1", type="ipv4")
    await graph.tell(told)
    for id_ in (*ids.values(), address):
        strict = id_ == ids["c.example"]
        await graph.curation.add_label(Label(id_, "c2", "ada", NOON_NS, tlp=Tlp.RED if strict else Tlp.GREEN))
    assert set(await listed(viewed, label="c2", count_max=2)) == {"a.example", "b.example", "192.0.2.1"}
    assert set(await listed(viewed, label="c2", types=frozenset({"domain"}))) == {"a.example", "b.example"}
    assert len(await listed(viewed, label="c2", tlp_max=Tlp.RED)) == 4
    assert await listed(viewed, label="c") == []


async def test_parts_are_listed_with_the_one_that_stands_for_them(
    graph: GraphStores, viewed: PostgresGraphViews
) -> None:
    told = facts()
    part, whole, strict = told.vertex("part.example"), told.vertex("whole.example"), told.vertex("strict.example", by=1)
    lone = told.vertex("lone.example")
    await graph.tell(told)
    assert await viewed.merged([part, lone], tlp_max=Tlp.RED) == {}
    await graph.curation.merge(Merge(part, whole, "ada", NOON_NS))
    await graph.curation.merge(Merge(lone, strict, "ada", NOON_NS))
    page = await viewed.entities(EntityFilter(Tlp.GREEN))
    assert {one.vertex.value: one.into for one in page.entities} == {
        "part.example": whole,
        "whole.example": b"",
        "lone.example": b"",
    }, "what the reader doesn't see stands for nothing"
    assert await viewed.merged([part, lone, whole], tlp_max=Tlp.GREEN) == {part: whole}
    assert await viewed.merged([part, lone, whole], tlp_max=Tlp.RED) == {part: whole, lone: strict}


async def test_sightings_are_added_up_by_what_the_reader_sees(graph: GraphStores, viewed: PostgresGraphViews) -> None:
    told = facts()
    entity, part = told.vertex("evil.example"), told.vertex("www.evil.example")
    sight(told, entity, "app", DAY, {8: 3, 9: 1})
    sight(told, entity, "app", DAY, {8: 2}, by="feed")
    sight(told, entity, "app", DAY + 1, {23: 1})
    sight(told, entity, "forum", DAY, {0: 4})
    sight(told, entity, "secret", DAY, {1: 100})
    sight(told, part, "app", DAY, {8: 10})
    await graph.tell(told)

    async def sums(
        by: SightingsBy, tlp_max: Tlp = Tlp.GREEN, **bounds: int
    ) -> tuple[dict[int | str, tuple[int, int]], int]:
        limits = {"first_day": 0, "last_day": 2**31 - 1, "count_max": 100} | bounds
        found = await viewed.sighting_sums(entity, by, tlp_max=tlp_max, **limits)
        return {one.key: (one.count, one.sighting_count) for one in found.groups}, found.total.count

    assert await sums(SightingsBy.DAY) == ({DAY + 1: (1, 1), DAY: (8, 2)}, 9)
    assert await sums(SightingsBy.DAY, Tlp.RED) == ({DAY + 1: (1, 1), DAY: (110, 3)}, 111)
    hours = {DAY * 24 + 24 + 23: (1, 1), DAY * 24 + 9: (1, 1), DAY * 24 + 8: (3, 1), DAY * 24: (4, 1)}
    assert await sums(SightingsBy.HOUR) == (hours, 9)
    assert (await sums(SightingsBy.HOUR, Tlp.RED))[0][DAY * 24 + 8] == (5, 1)
    assert await sums(SightingsBy.SOURCE) == ({"app": (5, 2), "osint": (4, 1)}, 9)
    assert (await sums(SightingsBy.SOURCE, Tlp.RED))[0] == {"osint": (104, 2), "app": (5, 2), "feed": (2, 1)}
    assert await sums(SightingsBy.DUMP) == ({"forum": (4, 1)}, 4), "what isn't told of whom doesn't count"
    assert await sums(SightingsBy.DAY, first_day=DAY + 1) == ({DAY + 1: (1, 1)}, 1)
    cut = await viewed.sighting_sums(
        entity, SightingsBy.HOUR, tlp_max=Tlp.GREEN, first_day=0, last_day=DAY + 9, count_max=2
    )
    assert (len(cut.groups), cut.truncated, cut.total.count, cut.partial) == (2, True, 9, False)
    assert cut.total.first_ns == DAY * DAY_NS
    none = await viewed.sighting_sums(
        make_id("x"), SightingsBy.DAY, tlp_max=Tlp.RED, first_day=0, last_day=9, count_max=9
    )
    assert (none.groups, none.total) == ([], SightingSum(0, 0, 0, 0, 0))

    await graph.curation.merge(Merge(part, entity, "ada", NOON_NS))
    assert (await sums(SightingsBy.DAY))[0][DAY] == (18, 3), "what was merged into it counts, too"
    together = await viewed.sighting_sums(
        part, SightingsBy.DAY, tlp_max=Tlp.GREEN, first_day=0, last_day=DAY, count_max=9
    )
    assert together.total.count == 18


async def test_more_sightings_than_are_added_up_are_said_to_be(
    graph: GraphStores, viewed: PostgresGraphViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = facts()
    entity = told.vertex("evil.example")
    for day in range(6):
        sight(told, entity, "app", DAY + day, {1: 1})
    await graph.tell(told)
    monkeypatch.setattr(sighting_sums, "SIGHTINGS_MAX", 4)
    found = await viewed.sighting_sums(
        entity, SightingsBy.DAY, tlp_max=Tlp.RED, first_day=0, last_day=2**31 - 1, count_max=100
    )
    assert found.partial
    assert [one.key for one in found.groups] == [DAY + 5, DAY + 4, DAY + 3, DAY + 2]


async def test_dumps_of_entities_are_those_that_the_reader_sees(graph: GraphStores, viewed: PostgresGraphViews) -> None:
    told = facts()
    one, other, part = told.vertex("one.example"), told.vertex("other.example"), told.vertex("part.example")
    sight(told, one, "forum", DAY, {1: 1})
    sight(told, one, "forum", DAY + 1, {1: 1})
    sight(told, one, "secret", DAY, {1: 1})
    sight(told, other, "app", DAY, {1: 1})
    sight(told, part, "secret", DAY, {1: 1})
    await graph.tell(told)
    await graph.curation.merge(Merge(part, other, "ada", NOON_NS))
    assert await viewed.dumps_of([one, other], tlp_max=Tlp.GREEN) == {one: DumpsOf(["forum"])}
    assert await viewed.dumps_of([one, other], tlp_max=Tlp.RED) == {
        one: DumpsOf(["forum", "secret"]),
        other: DumpsOf(["secret"]),
    }
    assert await viewed.dumps_of([one], tlp_max=Tlp.RED, count_max=1) == {one: DumpsOf(["forum"], more=True)}


@given(
    told_sightings=st.lists(
        st.tuples(
            st.sampled_from(sorted(BY)),
            st.integers(0, 2),
            st.dictionaries(st.integers(0, 23), st.integers(1, 5), min_size=1, max_size=3),
            st.sampled_from(["app", "feed"]),
        ),
        max_size=8,
    ),
    tlp_max=st.sampled_from([Tlp.CLEAR, Tlp.GREEN, Tlp.RED]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
async def test_sums_are_those_of_the_sightings(
    graph: GraphStores,
    viewed: PostgresGraphViews,
    told_sightings: Sequence[tuple[str, int, dict[int, int], str]],
    tlp_max: Tlp,
) -> None:
    await graph.writer.forget()
    told = facts()
    entity = told.vertex("evil.example")
    for name, day, hours, by in told_sightings:
        sight(told, entity, name, DAY + day, hours, by if name in ("app", "feed") else name)
    await graph.tell(told)
    rows = await graph.reader.sightings(entity, tlp_max=tlp_max)
    for by in (SightingsBy.DAY, SightingsBy.HOUR, SightingsBy.SOURCE):
        found = await viewed.sighting_sums(entity, by, tlp_max=tlp_max, first_day=0, last_day=DAY + 9, count_max=999)
        assert found.total.count == sum(row.seen.count for row in rows) == sum(one.count for one in found.groups)
        assert found.total.sighting_count == len(rows)
        expected: dict[int, int] = {}
        for row in rows:
            for hour, count in enumerate(row.hours):
                key = row.day if by is SightingsBy.DAY else row.day * 24 + hour
                expected[key] = expected.get(key, 0) + count
        if by is not SightingsBy.SOURCE:
            assert {one.key: one.count for one in found.groups} == {key: n for key, n in expected.items() if n}
