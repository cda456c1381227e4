"""What only deleted records told goes from the graph, and what others tell stays as it would be without them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_authored import Embedding, Label
from heimdall_server.domain.graph_batches import Applied, GraphBatch, Origin
from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.projections.graph.work import FactWork
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.rebuilds import PostgresGraphRebuilds
from heimdall_server.storage.postgres.graph.refusals import PostgresRefusedFacts
from heimdall_server.storage.postgres.graph.vectors import PostgresGraphVectors
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.wiring.graph_making import UnfollowedGraph
from tests.support.graph_making import MakingBench, frame, making_bench
from tests.support.graphs import DAY_NS, STREAM, Facts
from tests.support.journal import opened, small_config
from tests.support.random_records import TIME_NS

HOUR_NS = DAY_NS // 24
ANN, BEN = "spiffe://test/client/ann", "spiffe://test/client/ben"


@pytest.fixture
async def bench(tmp_path: Path, postgres_pool: PostgresPool, postgres_clean: None) -> AsyncIterator[MakingBench]:
    del postgres_clean
    async with opened(small_config(tmp_path / "journal")) as journal:
        yield MakingBench(journal, postgres_pool)


@pytest.fixture
async def stored_bench(
    chdb_engine: ChdbEngine, tmp_path: Path, postgres_pool: PostgresPool, postgres_clean: None
) -> AsyncIterator[MakingBench]:
    del postgres_clean
    async with making_bench(chdb_engine, "graph_deleting", tmp_path, postgres_pool) as found:
        yield found


def log(address: str, *, source: str = "app", at_ns: int = 0, user: str = "ann", **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "time": TIME_NS + at_ns,
        "body": f"{address} asked evil.example",
        "attributes": {"user": user},
        **more,
    }


def leaked(
    number: int, address: str, *, source: str = "leak", dump: str = "forum", principal: str = ANN
) -> dict[str, Any]:
    return {
        "principal": principal,
        "source": source,
        "dump": dump,
        "dataset": "dumps",
        "record_number": number,
        "time": TIME_NS + number,
        "body": "",
        "attributes": {"ip": address, "name": f"n{number % 3}"},
    }


def random_rows(chance: random.Random, number: int) -> list[dict[str, Any]]:
    """Records of a few values, days and sources, so that deletions hit some of what tells a fact."""
    if chance.random() < 0.3:
        return [
            leaked(
                number * 10 + row,
                f"192.0.2.{chance.randrange(5)}",
                source=chance.choice(["leak", "other"]),
                principal=chance.choice([ANN, BEN]),
            )
            for row in range(chance.randrange(1, 5))
        ]
    return [
        log(
            f"192.0.2.{chance.randrange(5)}",
            source=chance.choice(["app", "web"]),
            at_ns=chance.randrange(3) * DAY_NS + chance.randrange(24) * HOUR_NS + row,
            user=chance.choice(["ann", "bob", "eve"]),
            tlp=chance.choice(["", "amber", "red"]),
            principal=chance.choice(["", ANN, BEN]),
        )
        for row in range(chance.randrange(1, 6))
    ]


async def follow_by_halves(bench: MakingBench, chance: random.Random) -> None:
    """Bring the graph up to date, stopped now and then in the middle of whatever it is at."""
    while chance.random() < 0.5:
        async with bench.running(bench.projection()) as found:
            await found.wait_applied(bench.journal.head()[0], chance.uniform(0, 0.4))
    await bench.follow()


@pytest.mark.parametrize("seed", range(3))
async def test_deletions_and_stops_at_any_moment_end_in_the_graph_of_what_is_left(
    bench: MakingBench, seed: int
) -> None:
    chance = random.Random(seed)
    dumped: list[list[dict[str, Any]]] = []
    for number in range(8):
        rows = random_rows(chance, number)
        if dumped and chance.random() < 0.4:
            rows = chance.choice(dumped)  # the same records of a dump come again
        if "dump" in rows[0]:
            dumped.append(rows)
        await bench.journal.append([frame(rows)])
        if chance.random() < 0.2:
            filter_ = chance.choice(["192.0.2.3", "user:bob", "dump:forum AND ip:192.0.2.1", "source:web AND user:ann"])
            bounds = {"start_time_ns": TIME_NS + DAY_NS} if chance.random() < 0.3 else {}
            await bench.delete(filter_, number=number, **bounds)
        if chance.random() < 0.4:
            await follow_by_halves(bench, chance)
    await bench.delete("user:eve OR ip:192.0.2.4", number=99)
    await follow_by_halves(bench, chance)
    by_and_by = await bench.graph()
    assert "192.0.2.4" not in str([row for row in by_and_by if row[0] == "FieldValue"])

    writer = PostgresGraphWriter(bench.pool)
    await writer.forget()
    await bench.follow()
    assert await bench.graph() == by_and_by, "as if the deleted records had never been"


@pytest.mark.parametrize("tail", [1, 4])
async def test_a_rebuild_makes_the_same_graph_from_the_store_and_the_journal_and_leaves_what_people_said(
    bench: MakingBench, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(tail)
    for number in range(8):
        await bench.journal.append([frame(random_rows(chance, number))])
        if number == 5:
            await bench.delete("user:bob", number=number)
    await bench.follow()
    before = await bench.graph()
    (entity, *_) = [row[1].bytes for row in before if row[0] == "Entity"]  # type: ignore[attr-defined]
    curation, vectors = PostgresGraphCuration(bench.pool), PostgresGraphVectors(bench.pool)
    await curation.add_label(Label(entity, "c2", "ann", 1))
    await vectors.put(VertexKind.ENTITY, "m", [Embedding(entity, (1.0, *[0.0] * 383))])

    rebuilds = PostgresGraphRebuilds(bench.pool)
    await rebuilds.begin(Rebuild("a" * 32, "ann", "", bench.journal.head()[0], 1))
    assert await bench.graph() == []
    monkeypatch.setattr(bench.journal, "tail", lambda: {0: tail})
    for _ in range(2):
        async with bench.running(bench.projection()) as found:
            await found.wait_applied(bench.journal.head()[0], 0.2)
    async with bench.running(bench.projection()) as found:
        assert await found.wait_applied(bench.journal.head()[0], 30)
        assert found.progress.notice == ""
    assert await bench.graph() == before
    ended = await rebuilds.get("a" * 32)
    assert ended is not None
    assert ended.end_time_ns > 0
    assert [one.label for one in await curation.labels([entity], tlp_max=Tlp.RED)] == ["c2"]
    near = await vectors.nearest(VertexKind.ENTITY, "m", [1.0] + [0.0] * 383, tlp_max=Tlp.RED)
    assert [one.id for one in near] == [entity]


async def test_a_graph_that_nobody_follows_any_more_loses_what_was_deleted_of_what_it_had(bench: MakingBench) -> None:
    await bench.journal.append(
        [frame([log("192.0.2.1"), log("192.0.2.2", user="bob")]), frame([leaked(1, "192.0.2.3")])]
    )
    await bench.follow()
    await bench.journal.append([frame([log("192.0.2.4")])])
    await bench.delete("user:bob OR dump:forum", number=1)
    projection, making = bench.projection(), bench.making()
    unfollowed = UnfollowedGraph(projection, FactWork(bench.journal.journal_id), making, bench.journal)
    deletion = (await anext(bench.journal.read_control(0, after=3))).entry.deletions[0]
    assert await unfollowed.delete(deletion, 4)
    left = str(await bench.graph())
    assert "192.0.2.1" in left
    assert not any(gone in left for gone in ("192.0.2.2", "192.0.2.3", "192.0.2.4", "forum"))
    await bench.follow()
    by_and_by = await bench.graph()
    await making.quiet.forget()
    assert await unfollowed.delete(deletion, 4), "an empty graph has nothing to lose"
    await bench.follow()
    assert await bench.graph() == by_and_by


async def test_a_rebuild_that_was_to_go_further_than_a_restored_journal_ends_with_it(bench: MakingBench) -> None:
    await bench.journal.append([frame([log("192.0.2.1")])])
    rebuilds = PostgresGraphRebuilds(bench.pool)
    await rebuilds.begin(Rebuild("b" * 32, "ann", "", bench.journal.head()[0] + 5, 1))
    await bench.follow()
    assert await rebuilds.current() is None


async def test_without_a_rebuild_the_notice_names_the_command(
    bench: MakingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.journal.append([frame([log("192.0.2.1")]), frame([log("192.0.2.2")])])
    monkeypatch.setattr(bench.journal, "tail", lambda: {0: 2})
    found = await bench.follow()
    assert "heimdall graph rebuild" in found.progress.notice
    assert "192.0.2.1" not in str(await bench.graph())


async def test_a_frame_that_is_begun_in_parts_ends_so_when_a_deletion_has_made_it_small(
    bench: MakingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [log(f"192.0.2.{row}", at_ns=row, user="bob" if row > 1 else "ann") for row in range(12)]
    await bench.journal.append([frame(rows)])
    monkeypatch.setattr("heimdall_server.projections.graph.follower.ROWS_MAX", 12)
    monkeypatch.setattr("heimdall_server.projections.graph.follower._PART_ROWS", 3)
    stopped = StoppedBehind(PostgresGraphWriter(bench.pool), 2)
    async with bench.running(bench.projection(writer=stopped)):
        await stopped.reached.wait()
    await bench.delete("user:bob", number=1)
    await bench.follow()
    in_parts = await bench.graph()
    monkeypatch.undo()
    await PostgresGraphWriter(bench.pool).forget()
    await bench.follow()
    assert await bench.graph() == in_parts
    (sighting,) = [row for row in in_parts if row[0] == "Entity" and "evil.example" in str(row)]
    assert 2 in sighting, "the two records that are left, each counted once"


class StoppedBehind:
    """A writer that applies some batches and no more."""

    def __init__(self, writer: PostgresGraphWriter, count: int) -> None:
        self._writer = writer
        self._left = count
        self.reached = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    async def apply(self, batch: GraphBatch) -> Applied:
        if not self._left:
            self.reached.set()
            await asyncio.Event().wait()
        self._left -= 1
        return await self._writer.apply(batch)


async def test_what_postgres_refuses_is_listed_without_its_value(
    postgres_pool: PostgresPool, postgres_clean: None
) -> None:
    del postgres_clean
    facts = Facts()
    facts.related(("good", "secret-value"))
    facts.vertices[1] |= {"day": 13}
    async with postgres_pool.connection() as connection:
        await connection.execute(
            f"ALTER TABLE {table(VertexKind.ENTITY)} ADD CONSTRAINT poison CHECK (day <> 13)".encode()
        )
    try:
        applied = await PostgresGraphWriter(postgres_pool).apply(facts.batch(7, 9))
    finally:
        async with postgres_pool.connection() as connection:
            await connection.execute(f"ALTER TABLE {table(VertexKind.ENTITY)} DROP CONSTRAINT poison".encode())
    listed = await PostgresRefusedFacts(postgres_pool).list()
    assert len(listed) == len(applied.refused) == 2
    vertex = next(one for one in listed if not one.end_id)
    assert (vertex.kind, vertex.id, vertex.origin, vertex.source) == (
        "Entity",
        facts.vertices[1]["id"],
        Origin(STREAM, 7, 9),
        "app",
    )
    assert "CheckViolation" in vertex.reason
    assert "secret-value" not in repr(listed)


async def test_a_fact_goes_with_its_last_record_and_its_times_follow_those_that_are_left(
    stored_bench: MakingBench,
) -> None:
    await stored_bench.journal.append([frame([log("192.0.2.1"), log("192.0.2.1", at_ns=HOUR_NS, user="bob")])])
    await stored_bench.journal.append(
        [frame([log("192.0.2.9", user="bob"), log("192.0.2.1", source="web", user="bob")])]
    )
    await stored_bench.follow()
    expected_gone = {"192.0.2.9"}
    assert "192.0.2.9" in str(await stored_bench.graph())
    await stored_bench.delete("user:bob", number=1)
    await stored_bench.follow()
    left = await stored_bench.graph()
    assert not any(one in str(left) for one in expected_gone)
    assert "web" not in str([row for row in left if row[0] == "Sighting"])
    (entity,) = [row for row in left if row[0] == "Entity" and "192.0.2.1" in str(row)]
    assert TIME_NS in entity
    assert TIME_NS + HOUR_NS not in entity
