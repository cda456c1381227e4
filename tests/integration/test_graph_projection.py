"""The graph follows the journal: through restarts, a store that is away, and frames that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.graph import Provenance
from heimdall_server.domain.graph_batches import Applied, Flags, GraphBatch, Numbers, Origin
from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Deletion, Entry
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import ProjectionState, RetryPolicy
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.graphs import canonical_dump
from tests.support.journal import opened, small_config
from tests.support.random_records import TIME_NS, record
from tests.support.warm_process import SystemClock

QUICK = ReadLimits(batch_rows=20, linger_s=0.01, held_rows_max=100)
PATIENT = RetryPolicy(first_wait_s=0.01, wait_s_max=0.05)


class NoSealer:
    """There are no tokens here."""

    def open(self, value: object) -> str:
        raise AssertionError(value)


class Unsteady:
    """A writer that fails every other time, before or after it has kept the batch."""

    def __init__(self, writer: PostgresGraphWriter) -> None:
        self._writer = writer
        self.calls = 0

    async def missing(self, origin: Origin) -> Sequence[tuple[int, int]]:
        return await self._writer.missing(origin)

    async def knows(self, provenance: Provenance, numbers: Numbers, hashes: Hashes) -> Flags:
        return await self._writer.knows(provenance, numbers, hashes)

    async def rewind(self, stream: str, through: int, *, parts: str) -> Sequence[tuple[int, int]]:
        return await self._writer.rewind(stream, through, parts=parts)

    async def apply(self, batch: GraphBatch) -> Applied:
        self.calls += 1
        if self.calls % 4 == 1:
            raise StoreError("postgres", "it is away")
        applied = await self._writer.apply(batch)
        if self.calls % 4 == 3:
            raise StoreError("postgres", "the connection was lost")
        return applied

    async def forget(self) -> None:
        await self._writer.forget()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as found:
        yield found


def frame(number: int) -> Entry:
    rows = [
        record(
            row,
            source=f"app-{row % 2}",
            time=TIME_NS + number * 3600 * 10**9 + row,
            body=f"10.0.{number % 3}.{row} asked host-{row}.example",
            dump="forum" if number % 4 == 0 else "",
            record_number=number * 10 + row + 1 if number % 4 == 0 else 0,
            attributes={"client_ip": f"192.0.2.{row}"},
        )
        for row in range(6)
    ]
    return Entry(pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA))


def projection(journal: EmbeddedJournal, pool: PostgresPool, writer: object = None) -> GraphProjection:
    async def applied(_: int) -> bool:
        return True

    identities = Identities(
        PostgresVault(pool),
        NoSealer(),  # type: ignore[arg-type]
        lambda message: hashlib.sha256(message).digest(),
        wait_applied=applied,
    )
    return GraphProjection(
        journal,
        writer or PostgresGraphWriter(pool),  # type: ignore[arg-type]
        identities,
        SystemClock(),
        read=QUICK,
        retry=PATIENT,
    )


@contextlib.asynccontextmanager
async def running(found: GraphProjection) -> AsyncIterator[GraphProjection]:
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


async def uninterrupted(journal: EmbeddedJournal, pool: PostgresPool) -> Sequence[tuple[object, ...]]:
    """The graph as one run makes it, which is then forgotten."""
    async with running(projection(journal, pool)) as found:
        assert await found.wait_applied(journal.head()[0], 20)
    graph = await canonical_dump(pool)
    await PostgresGraphWriter(pool).forget()
    return graph


@pytest.mark.usefixtures("postgres_clean")
async def test_a_projection_that_is_stopped_anywhere_and_a_store_that_fails_end_in_the_same_graph(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    for number in range(24):
        await journal.append([frame(number)])
    expected = await uninterrupted(journal, postgres_pool)
    writer = Unsteady(PostgresGraphWriter(postgres_pool))
    for turn in range(40):
        async with running(projection(journal, postgres_pool, writer)) as found:
            done = await found.wait_applied(journal.head()[0], 0.03 * (turn + 1))
        if done:
            break
    assert done
    assert await canonical_dump(postgres_pool) == expected
    assert found.progress.retry_count or writer.calls > 4


@pytest.mark.usefixtures("postgres_clean")
async def test_it_goes_on_with_what_comes_and_says_how_far_it_is(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    async with running(projection(journal, postgres_pool)) as found:
        await journal.append([frame(1)])
        assert await found.wait_applied(1, 10)
        await journal.append([Entry(None), frame(2)])
        assert await found.wait_applied(3, 10)
        progress = found.progress
        assert (progress.state, progress.applied, progress.lag_positions) == (ProjectionState.RUNNING, 3, 0)
        assert progress.vertex_count > 0
        assert progress.refused_count == 0


@pytest.mark.usefixtures("postgres_clean")
async def test_a_frame_with_more_facts_than_a_batch_may_hold_is_applied_in_parts(
    journal: EmbeddedJournal, postgres_pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.append([frame(number) for number in range(8)])
    expected = await uninterrupted(journal, postgres_pool)
    monkeypatch.setattr("heimdall_server.projections.graph.follower.ROWS_MAX", 40)
    monkeypatch.setattr("heimdall_server.projections.graph.follower._PART_ROWS", 2)
    async with running(projection(journal, postgres_pool)) as found:
        assert await found.wait_applied(8, 20)
    assert _without_progress(await canonical_dump(postgres_pool)) == _without_progress(expected)


@pytest.mark.usefixtures("postgres_clean")
async def test_nothing_is_made_of_records_that_were_deleted_before_it_came_to_them(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    await journal.append([frame(1), frame(2)])
    deletion = Deletion("d-1", "10.0.1.3", None, TIME_NS + 3600 * 10**9 + 10, ("logs",), through=2)
    await journal.append([Entry(None, deletions=[deletion])])
    await journal.append([frame(4)])
    async with running(projection(journal, postgres_pool)) as found:
        assert await found.wait_applied(4, 10)
    values = {str(row) for row in await canonical_dump(postgres_pool) if row[0] == "Entity"}
    held = {address for address in ("10.0.1.2", "10.0.1.3", "10.0.2.3") if any(f'"{address}"' in row for row in values)}
    assert held == {"10.0.1.2", "10.0.1.3", "10.0.2.3"}, "frame 4 has 10.0.1.3 again, which was not meant"
    counts = [row for row in await canonical_dump(postgres_pool) if row[0] == "Entity" and '"10.0.1.3"' in str(row)]
    assert len(counts) == 1
    first_ns = TIME_NS + 4 * 3600 * 10**9 + 3
    assert str(first_ns) in str(counts[0]), "it was seen in frame 4 first: what frame 1 said was deleted"


@pytest.mark.usefixtures("postgres_clean")
async def test_frames_that_the_journal_let_go_are_passed_over_and_said(
    journal: EmbeddedJournal, postgres_pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.append([frame(number) for number in range(4)])
    monkeypatch.setattr(journal, "tail", lambda: {0: 3})
    async with running(projection(journal, postgres_pool)) as found:
        assert await found.wait_applied(4, 10)
        assert "misses what journal positions 1 to 2 held" in found.progress.notice
    # What it passed over stays missing, and is no reason to read again what was applied behind it.
    await journal.append([frame(number) for number in range(4, 7)])
    async with running(projection(journal, postgres_pool)) as found:
        assert await found.wait_applied(7, 10)
        assert found.progress.state is ProjectionState.RUNNING


@contextlib.asynccontextmanager
async def restored(folder: Path, pool: PostgresPool) -> AsyncIterator[EmbeddedJournal]:
    """A journal of two frames, put back from a backup after the graph had come to five."""
    journal, backup = folder / "journal", folder / "backup"
    async with opened(small_config(journal)) as newer:
        await newer.append([frame(1)])
        await newer.append([frame(2)])
    shutil.copytree(journal, backup)
    async with opened(small_config(journal)) as newer:
        for number in range(3, 6):
            await newer.append([frame(number)])
        async with running(projection(newer, pool)) as found:
            assert await found.wait_applied(5, 10)
            assert not found.progress.notice
    shutil.rmtree(journal)
    shutil.move(backup, journal)
    async with opened(small_config(journal)) as older:
        assert older.head() == {0: 2}
        yield older


def new_frame(number: int) -> Entry:
    """One whose address no other has."""
    rows = [record(row, source="late", body=f"198.51.100.{number} asked for {row}") for row in range(6)]
    return Entry(pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA))


async def late_addresses(pool: PostgresPool) -> int:
    graph = str([row for row in await canonical_dump(pool) if row[0] == "Entity"])
    return sum(f'"198.51.100.{number}"' in graph for number in range(10))


@pytest.mark.usefixtures("postgres_clean")
@pytest.mark.parametrize("in_parts", [False, True])
async def test_what_comes_into_a_restored_journal_is_not_taken_for_applied(
    tmp_path: Path, postgres_pool: PostgresPool, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    if in_parts:
        monkeypatch.setattr("heimdall_server.projections.graph.follower.ROWS_MAX", 20)
        monkeypatch.setattr("heimdall_server.projections.graph.follower._PART_ROWS", 2)
    told = "journal positions 3 to 5"
    async with restored(tmp_path, postgres_pool) as journal:
        async with running(projection(journal, postgres_pool)) as found:
            assert await found.wait_applied(2, 10)
            await journal.append([new_frame(0)])
            assert await found.wait_applied(3, 10)
            assert await late_addresses(postgres_pool) == 1
            assert told in found.progress.notice
        before = await canonical_dump(postgres_pool)
        async with running(projection(journal, postgres_pool)) as found:
            assert await found.wait_applied(3, 10)
            assert told in found.progress.notice, "what the lost records told stands still"
        assert await canonical_dump(postgres_pool) == before, "nothing is applied twice"
        await PostgresGraphWriter(postgres_pool).forget()
        async with running(projection(journal, postgres_pool)) as found:
            assert await found.wait_applied(3, 10)
            assert not found.progress.notice


@pytest.mark.usefixtures("postgres_clean")
async def test_where_a_restored_journal_ended_counts_however_long_the_graph_is_away(
    tmp_path: Path, postgres_pool: PostgresPool
) -> None:
    class Away(Unsteady):
        is_away = True
        asked = asyncio.Event()

        async def rewind(self, stream: str, through: int, *, parts: str) -> Sequence[tuple[int, int]]:
            self.asked.set()
            if self.is_away:
                raise StoreError("postgres", "it can't be reached")
            return await super().rewind(stream, through, parts=parts)

    writer = Away(PostgresGraphWriter(postgres_pool))
    async with restored(tmp_path, postgres_pool) as journal:
        found = projection(journal, postgres_pool, writer)
        async with running(found):
            await asyncio.wait_for(writer.asked.wait(), 10)
            for number in range(5):
                await journal.append([new_frame(number)])
        async with running(found):  # as when a rebuild couldn't be begun
            writer.is_away = False
            assert await found.wait_applied(7, 10)
    assert await late_addresses(postgres_pool) == 5


def _without_progress(graph: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Parts of a frame are noted apart."""
    return [row for row in graph if row[0] != "graph_applied"]
