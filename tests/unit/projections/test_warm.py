"""The projection into a warm store, over a real journal and a store that fails when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import ConfigurationError, FormatError, StoreError
from heimdall_server.ports.journal import Entry, Positions
from heimdall_server.ports.log_store import FrameRange, StoreIdentity
from heimdall_server.projections.checkpoint import Checkpoint, CheckpointFile, Intent
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import (
    Applied,
    ProjectionState,
    RefusedRecord,
    RetryPolicy,
    WarmHooks,
    WarmProjection,
)
from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import make_batch, opened, small_config
from tests.support.warm_process import SystemClock

LIMITS = ReadLimits(batch_rows=10, linger_s=0.01, held_rows_max=30)


class ScriptedStore:
    """Keeps rows by (position, row); `failing` decides about each insert."""

    name = "scripted"

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], str] = {}
        self.calls: list[tuple[int, int]] = []
        self.tokens: list[str] = []
        self.settled_through: list[dict[int, int]] = []
        self.recovered: list[tuple[FrameRange, int]] = []
        self.failing: Callable[[Sequence[pa.RecordBatch]], Exception | None] = lambda _: None
        self.keeps_of_failed = 0
        self.recovery_failures = 0
        self.store_id, self.journal_id = "s1", ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def identify(self) -> StoreIdentity:
        return StoreIdentity(self.store_id, self.journal_id)

    async def claim(self, journal_id: str) -> None:
        self.journal_id = journal_id

    async def holds_beyond(self, shard: int, position: int) -> bool:
        return shard == 0 and any(key[0] > position for key in self.rows)

    async def insert(self, range_: FrameRange, batches: Sequence[pa.RecordBatch], *, token: str) -> None:
        await self.gate.wait()
        self.calls.append((range_.first, range_.last))
        self.tokens.append(token)
        table = pa.Table.from_batches(batches).select(["position", "row", "body"]).to_pylist()
        error = self.failing(batches)
        if error is not None:
            self._keep(table[: self.keeps_of_failed if isinstance(error, StoreError) else 0])
            raise error
        self._keep(table)

    def _keep(self, table: Sequence[dict[str, object]]) -> None:
        for row in table:
            key = (int(str(row["position"])), int(str(row["row"])))
            assert key not in self.rows, "stored twice"
            self.rows[key] = str(row["body"])

    async def recover(self, range_: FrameRange, expected_rows: int) -> bool:
        self.recovered.append((range_, expected_rows))
        if self.recovery_failures:
            self.recovery_failures -= 1
            raise StoreError("scripted", "not yet")
        found = [key for key in self.rows if range_.first <= key[0] <= range_.last]
        if len(found) == expected_rows:
            return True
        for key in found:
            del self.rows[key]
        return False

    def settled(self, through: Positions) -> None:
        self.settled_through.append(dict(through))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as journal:
        yield journal


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


def project(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path, hooks: WarmHooks | None = None
) -> WarmProjection:
    return WarmProjection(
        journal,
        store,  # type: ignore[arg-type]  # the projection only inserts and recovers
        CheckpointFile(tmp_path / "warm.json"),
        SystemClock(),
        limits=LIMITS,
        retry=RetryPolicy(first_wait_s=0.001, wait_s_max=0.01),
        hooks=hooks,
    )


@contextlib.asynccontextmanager
async def running(projection: WarmProjection) -> AsyncIterator[None]:
    task = asyncio.create_task(projection.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells when it changes
            await asyncio.sleep(0.005)


def entry(position: int, count: int = 4) -> Entry:
    return Entry(make_batch([f"{position}/{row}" for row in range(count)]))


def everything(frames: dict[int, int]) -> dict[tuple[int, int], str]:
    return {(position, row): f"{position}/{row}" for position, count in frames.items() for row in range(count)}


async def test_every_record_is_stored_once_and_seen_by_who_waits(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    applied: list[Applied] = []
    trimmed: list[dict[int, int]] = []

    async def advanced(through: Positions) -> None:
        trimmed.append(dict(through))

    projection = project(journal, store, tmp_path, WarmHooks(on_applied=applied.append, on_advanced=advanced))
    await journal.append([entry(position) for position in range(1, 6)])
    async with running(projection):
        assert await projection.wait_through({0: 5}, 5)
        await journal.append([entry(6), Entry(None), entry(8, 25), Entry(make_batch([]))])
        assert await projection.wait_through({0: 9}, 5)
        assert not await projection.wait_through({0: 10}, 0.02)
        progress = projection.progress
    assert store.rows == everything({1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 4, 8: 25})
    assert store.calls[0] == (1, 2)
    assert all(last - first < 3 for first, last in store.calls)
    assert (progress.state, progress.row_count, progress.lag_positions) == (ProjectionState.RUNNING, 49, 0)
    assert sum(each.row_count for each in applied) == 49
    assert trimmed[-1] == store.settled_through[-1] == {0: 9}
    assert projection.progress.state is ProjectionState.STOPPED


async def test_second_run_goes_on_where_the_first_ended(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    await journal.append([entry(1), entry(2)])
    first = project(journal, store, tmp_path)
    async with running(first):
        assert await first.wait_through({0: 2}, 5)
    second = project(journal, store, tmp_path)
    async with running(second):
        assert await second.wait_through({0: 2}, 5)
        await journal.append([entry(3)])
        assert await second.wait_through({0: 3}, 5)
    assert store.rows == everything({1: 4, 2: 4, 3: 4})
    assert store.settled_through.count({0: 2}) >= 2


@pytest.mark.parametrize("kept", [0, 3, 8])
async def test_store_that_fails_in_the_middle_is_asked_what_is_there(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path, kept: int
) -> None:
    failures = iter([StoreError("scripted", "disk"), StoreError("scripted", "disk again")])
    store.failing = lambda _: next(failures, None)
    store.keeps_of_failed = kept
    store.recovery_failures = 2
    await journal.append([entry(1), entry(2)])
    projection = project(journal, store, tmp_path)
    async with running(projection):
        assert await projection.wait_through({0: 2}, 5)
        assert projection.progress.state is ProjectionState.RUNNING
        assert projection.progress.retry_count >= 3
    assert store.rows == everything({1: 4, 2: 4})
    assert len(set(store.tokens)) == len(store.tokens)


async def test_trouble_is_visible_while_it_lasts(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    store.failing = lambda _: StoreError("scripted", "no space")
    await journal.append([entry(1)])
    projection = project(journal, store, tmp_path)
    async with running(projection):
        await until(lambda: projection.progress.retry_count >= 2)
        progress = projection.progress
        assert progress.state is ProjectionState.RETRYING
        assert "no space" in progress.problem
        assert (progress.lag_positions, progress.visible_through) == (1, {})
        assert progress.lag_s > 0
        store.failing = lambda _: None
        assert await projection.wait_through({0: 1}, 5)
    assert store.rows == everything({1: 4})


async def test_refused_records_become_dead_letters_and_the_others_are_stored(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    bad = {(1, 2), (2, 0), (2, 3)}

    def refuse(batches: Sequence[pa.RecordBatch]) -> Exception | None:
        table = pa.Table.from_batches(batches)
        keys = zip(table.column("position").to_pylist(), table.column("row").to_pylist(), strict=True)
        return FormatError("what the store takes", "TOO_ODD") if bad & set(keys) else None

    store.failing = refuse
    letters: list[RefusedRecord] = []

    async def keep(refused: Sequence[RefusedRecord]) -> None:
        letters.extend(refused)

    await journal.append([entry(1), entry(2), entry(3)])
    projection = project(journal, store, tmp_path, WarmHooks(on_refused=keep))
    async with running(projection):
        assert await projection.wait_through({0: 3}, 5)
        assert projection.progress.refused_count == 3
        assert projection.progress.row_count == 9
    wanted = everything({1: 4, 2: 4, 3: 4})
    assert store.rows == {key: body for key, body in wanted.items() if key not in bad}
    assert [(letter.position, letter.row) for letter in letters] == sorted(bad)
    assert all("TOO_ODD" in letter.reason and letter.record.num_rows == 1 for letter in letters)
    assert store.recovered == []


@pytest.mark.parametrize("found", [0, 5, 8])
async def test_intent_of_a_dead_process_is_settled_before_anything_else(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path, found: int
) -> None:
    await journal.append([entry(1), entry(2), entry(3)])
    store.rows = dict(list(everything({1: 4, 2: 4}).items())[:found])
    intent = Intent(0, 1, 2, 8, "dead")
    CheckpointFile(tmp_path / "warm.json").store(Checkpoint(journal.journal_id, intent=intent))
    projection = project(journal, store, tmp_path)
    async with running(projection):
        assert await projection.wait_through({0: 3}, 5)
    assert store.recovered == [(FrameRange(0, 1, 2), 8)]
    assert store.rows == everything({1: 4, 2: 4, 3: 4})
    assert store.calls[0] == ((3, 3) if found == 8 else (1, 2))


async def test_reading_goes_on_while_an_insert_runs_but_not_without_bound(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    store.gate.clear()
    await journal.append([entry(position, 10) for position in range(1, 12)])
    projection = project(journal, store, tmp_path)
    async with running(projection):
        await until(lambda: projection.progress.lag_rows >= 30)
        await asyncio.sleep(0.05)
        assert projection.progress.lag_rows == 30
        store.gate.set()
        assert await projection.wait_through({0: 11}, 5)
    assert len(store.rows) == 110


async def test_checkpoint_of_another_journal_stops_the_projection(
    journal: EmbeddedJournal, store: ScriptedStore, tmp_path: Path
) -> None:
    CheckpointFile(tmp_path / "warm.json").store(Checkpoint("another", {0: 7}))
    projection = project(journal, store, tmp_path)
    with pytest.raises(ConfigurationError):
        await projection.run()
    assert projection.progress.state is ProjectionState.FAILED
    assert projection.progress.problem
