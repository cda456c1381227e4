"""A projection whose checkpoint or store isn't what it left: every record is there once, or it says what is gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.errors import ConfigurationError, CorruptionError
from heimdall_server.domain.records import RECORD_SCHEMA, with_position
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.log_store import FrameRange, LogStore
from heimdall_server.projections import warm
from heimdall_server.projections.checkpoint import Checkpoint, CheckpointFile, Intent
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.resume import Resumed, resume
from heimdall_server.projections.warm import WarmProgress, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import opened, read_all, small_config
from tests.support.log_stores import asked, counted, frame, opened_store, rollup_counts, rows_of
from tests.support.warm_process import SystemClock

ROWS = 40
DATASETS = (Dataset("logs"),)


@dataclass
class Projected:
    """A journal, a store and the checkpoint between them."""

    folder: Path
    engine: ChdbEngine
    database: str
    count: int = 0
    """Frames that were appended."""

    @property
    def file(self) -> Path:
        return self.folder / "warm.json"

    @contextlib.asynccontextmanager
    async def journal(self) -> AsyncIterator[EmbeddedJournal]:
        async with opened(small_config(self.folder / "journal")) as journal:
            yield journal

    def store(self) -> contextlib.AbstractAsyncContextManager[ClickHouseLogStore]:
        return opened_store(self.engine, self.database, datasets=DATASETS)

    async def append(self, journal: EmbeddedJournal, count: int) -> None:
        for _ in range(count):
            self.count += 1
            batch = frame(self.count, ROWS)
            columns = batch.columns[: len(RECORD_SCHEMA)]
            await journal.append([Entry(pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))])

    def project(self, journal: EmbeddedJournal, store: ClickHouseLogStore) -> WarmProjection:
        limits = ReadLimits(batch_rows=2 * ROWS, linger_s=0.01)
        return WarmProjection(journal, store, CheckpointFile(self.file), SystemClock(), limits=limits)

    async def follow(self, journal: EmbeddedJournal, store: ClickHouseLogStore) -> WarmProgress:
        """Project what there is, in batches of two frames."""
        projection = self.project(journal, store)
        following = asyncio.create_task(projection.run())
        reached = asyncio.create_task(projection.wait_through(journal.head(), timeout_s=60))
        await asyncio.wait({following, reached}, return_when=asyncio.FIRST_COMPLETED)
        progress = projection.progress
        for task in (following, reached):
            task.cancel()
        await asyncio.wait({following, reached})
        if not following.cancelled() and (error := following.exception()) is not None:
            raise error
        assert progress.visible_through == journal.head()
        return progress

    async def run(self, *, more: int = 2) -> WarmProgress:
        """Start again, with some more frames, and check that everything is there once."""
        async with self.journal() as journal, self.store() as store:
            await self.append(journal, more)
            progress = await self.follow(journal, store)
            after = journal.tail()[0] - 1 if progress.records_gone else 0
            await self.check(store, after)
        return progress

    async def check(self, store: ClickHouseLogStore, after: int = 0) -> None:
        rows = await rows_of(store, asked(None, counted("position", "row")))
        found = {(row["position"], row["row"]): row["n"] for row in rows}
        expected = {(position, row) for position in range(after + 1, self.count + 1) for row in range(ROWS)}
        assert set(found) == expected, "records are lost, or come from nowhere"
        assert set(found.values()) == {1}, "records are there twice"
        counts = await rollup_counts(store, "logs")
        assert counts["rollup severity"] == counts["scan severity"]
        assert counts["rollup host"] == counts["scan host"]


@pytest.fixture
async def projected(tmp_path: Path, chdb_engine: ChdbEngine, request: pytest.FixtureRequest) -> Projected:
    """Six frames that are in the store; `older.json` is the checkpoint after four of them."""
    projected = Projected(tmp_path, chdb_engine, f"faults_{abs(hash(request.node.nodeid))}")
    assert (await projected.run(more=4)).notice == ""
    shutil.copy(projected.file, tmp_path / "older.json")
    assert (await projected.run(more=2)).notice == ""
    return projected


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def deleted(file: Path) -> None:
    file.unlink()


def older(file: Path) -> None:
    shutil.copy(file.with_name("older.json"), file)


FAULTS = (torn, deleted, older)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_checkpoint_that_is_and_half_a_batch_in_the_store(
    fault: Callable[[Path], None], projected: Projected
) -> None:
    async with projected.journal() as journal, projected.store() as store:
        await projected.append(journal, 2)
        frames = (await read_all(journal))[-2:]
        batches = [
            with_position(each.entry.batch, shard=0, position=each.position)
            for each in frames
            if each.entry.batch is not None
        ]
        await store.insert(FrameRange(0, 7, 8), [batches[0], batches[1].slice(0, 10)], token="half")
    fault(projected.file)
    progress = await projected.run()
    assert "inserted again" in progress.notice
    assert not progress.records_gone
    async with projected.journal() as journal, projected.store() as store:
        assert (await projected.follow(journal, store)).notice == "", "once"


async def test_a_projection_that_dies_while_it_is_rebuilt_is_rebuilt(projected: Projected) -> None:
    torn(projected.file)
    async with projected.journal() as journal, projected.store() as store:
        await resume(journal, store, CheckpointFile(projected.file))
    checkpoint = CheckpointFile(projected.file).load(journal.journal_id)
    assert checkpoint.position(0) == 0
    assert checkpoint.generation == 2
    await projected.run()


async def test_a_checkpoint_of_an_older_version_is_taken_over(projected: Projected) -> None:
    file = CheckpointFile(projected.file)
    async with projected.journal() as journal:
        stored = file.load(journal.journal_id)
    file.store(Checkpoint(stored.journal_id, stored.positions))
    assert (await projected.run()).notice == ""
    assert file.load(stored.journal_id).store_id == stored.store_id


async def test_a_checkpoint_of_another_journal_is_refused(projected: Projected) -> None:
    CheckpointFile(projected.file).store(Checkpoint("f" * 32, {0: 3}, Intent(0, 4, 5, 80, "t")))
    with pytest.raises(ConfigurationError, match=f"belongs to journal {'f' * 32}"):
        await projected.run()


async def test_a_store_of_another_journal_is_refused_and_left_alone(projected: Projected) -> None:
    shutil.move(projected.folder / "journal", projected.folder / "former")
    projected.file.unlink()
    async with projected.journal() as journal, projected.store() as store:
        with pytest.raises(ConfigurationError, match="store holds records of journal"):
            await asyncio.wait_for(projected.project(journal, store).run(), 30)
    async with projected.store() as store:
        await projected.check(store)


async def test_a_journal_that_is_older_than_its_store_is_refused(projected: Projected) -> None:
    shutil.copytree(projected.folder / "journal", projected.folder / "former")
    await projected.run()
    shutil.rmtree(projected.folder / "journal")
    shutil.move(projected.folder / "former", projected.folder / "journal")
    projected.file.unlink()
    with pytest.raises(CorruptionError, match=r"ends at position 6, the .* store holds records of later ones"):
        async with projected.journal() as journal, projected.store() as store:
            await projected.follow(journal, store)


async def drop(projected: Projected) -> None:
    """Delete the store."""
    connection = projected.engine.connect()
    connection.command(f"DROP DATABASE `{projected.database}` SYNC")
    connection.close()


@pytest.mark.parametrize("with_checkpoint", [True, False])
async def test_a_deleted_store_is_filled_from_the_journal(projected: Projected, with_checkpoint: bool) -> None:
    await drop(projected)
    if not with_checkpoint:
        projected.file.unlink()
    progress = await projected.run()
    assert ("from position 1 on are inserted again" in progress.notice) == with_checkpoint
    assert not progress.records_gone


@pytest.mark.parametrize("with_checkpoint", [True, False])
async def test_a_deleted_store_whose_journal_was_trimmed_says_what_is_gone(
    projected: Projected, with_checkpoint: bool
) -> None:
    async with projected.journal() as journal, projected.store() as store:
        await projected.append(journal, 6)
        await projected.follow(journal, store)
        await journal.trim({0: 8})
        tail = journal.tail()[0]
        assert 1 < tail <= 9
    await drop(projected)
    if not with_checkpoint:
        projected.file.unlink()
    progress = await projected.run()
    assert progress.records_gone
    assert f"records of positions 1 to {tail - 1} are gone" in progress.notice
    async with projected.journal() as journal, projected.store() as store:
        assert (await projected.follow(journal, store)).notice == "", "once"
        await projected.check(store, tail - 1)


async def believe(journal: Journal, store: LogStore, file: CheckpointFile) -> Resumed:
    """What a projection does that looks at its checkpoint alone."""
    identity = await store.identify()
    try:
        found = file.load(journal.journal_id)
    except CorruptionError:
        found = Checkpoint(journal.journal_id)
    return Resumed(Checkpoint(found.journal_id, found.positions, found.intent, found.generation, identity.store_id))


@pytest.mark.parametrize("fault", [*FAULTS, None])
async def test_a_projection_that_believes_its_checkpoint_is_found_out(
    fault: Callable[[Path], None] | None, projected: Projected, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault is None:
        await drop(projected)
    else:
        fault(projected.file)
    monkeypatch.setattr(warm, "resume", believe)
    with pytest.raises(AssertionError, match="records are"):
        await projected.run()
