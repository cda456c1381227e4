"""The projection with budgets and warninglists: steps end in the same graph, what is cut is told, what is listed is believed less."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.canonical.identity import entity_ids
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_ids import entity_ids as graph_entity_ids
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Entry
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.wanted import Wanted
from heimdall_server.projections.graph.warninglists.files import packaged
from heimdall_server.projections.graph.warninglists.matching import Warninglists
from heimdall_server.projections.graph.work import Budgets, FactWork
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.graphs import canonical_dump
from tests.support.journal import opened, small_config
from tests.support.random_records import TIME_NS, record
from tests.support.warm_process import SystemClock

pytestmark = pytest.mark.usefixtures("postgres_clean")
PACKAGED = Warninglists(packaged())
QUICK = ReadLimits(batch_rows=100, linger_s=0.02)


class NoSealer:
    """There are no tokens here."""

    def open(self, value: object) -> str:
        raise AssertionError(value)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as found:
        yield found


def frame(number: int) -> Entry:
    rows = [
        record(
            row,
            source="app" if row % 2 else "quiet-1",
            time=TIME_NS + number * 3600 * 10**9 + row,
            body=" ".join(f"45.{number % 3}.{row}.{one}" for one in range(8)) + " by 8.8.8.8",
            dump="forum" if number % 4 == 0 else "",
            record_number=number * 10 + row + 1 if number % 4 == 0 else 0,
            attributes={"client_ip": f"45.9.9.{row}"},
        )
        for row in range(6)
    ]
    return Entry(pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA))


@contextlib.asynccontextmanager
async def running(journal: EmbeddedJournal, pool: PostgresPool, budgets: Budgets) -> AsyncIterator[GraphProjection]:
    async def applied(_: int) -> bool:
        return True

    identities = Identities(
        PostgresVault(pool),
        NoSealer(),  # type: ignore[arg-type]
        lambda message: hashlib.sha256(message).digest(),
        wait_applied=applied,
    )
    work = FactWork(journal.journal_id, budgets)
    found = GraphProjection(journal, PostgresGraphWriter(pool), identities, SystemClock(), work=work, read=QUICK)
    task = asyncio.create_task(found.run())
    try:
        assert await found.wait_applied(journal.head()[0], 30)
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


async def graph_of(journal: EmbeddedJournal, pool: PostgresPool, budgets: Budgets) -> list[tuple[object, ...]]:
    """The graph that is made, which is then forgotten; without the notes of what was applied."""
    async with running(journal, pool, budgets):
        pass
    found = await canonical_dump(pool)
    await PostgresGraphWriter(pool).forget()
    return [row for row in found if row[0] != "graph_applied"]


async def test_many_values_are_taken_in_steps_and_end_in_the_same_graph(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    for number in (0, 1, 4):
        await journal.append([frame(number)])
    lists = lambda: PACKAGED
    at_once = await graph_of(journal, postgres_pool, Budgets(lists=lists))
    for per_batch in (60, 20):  # single frames, parts of one
        assert await graph_of(journal, postgres_pool, Budgets(Wanted(per_batch_max=per_batch), lists)) == at_once


async def test_what_is_off_is_left_out_what_is_cut_is_told_and_what_is_listed_is_believed_less(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    await journal.append([frame(1)])
    budgets = Budgets(Wanted({"quiet-*": ()}, per_record_max=4), lambda: PACKAGED, nice=5)
    async with running(journal, postgres_pool, budgets) as found:
        assert "left out 18 values of records that hold more than 4" in found.progress.notice
    reader = PostgresGraphReader(postgres_pool)

    async def confidence(value: str) -> int | None:
        (id_,) = graph_entity_ids(entity_ids("ipv4", pa.array([value]))).to_pylist()
        vertices = await reader.get([id_], tlp_max=Tlp.RED)
        return vertices[id_].seen.confidence if id_ in vertices else None

    assert await confidence("45.9.9.1") == 50  # a whole field comes before what stands in a text
    assert await confidence("45.9.9.2") is None  # of a source that is off
    await journal.append(
        [Entry(pa.RecordBatch.from_pylist([record(1, source="app", body="8.8.8.8")], schema=RECORD_SCHEMA))]
    )
    async with running(journal, postgres_pool, budgets):
        assert await confidence("8.8.8.8") == 10
