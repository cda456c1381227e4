"""What every journal promises, whatever the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import DrainingError, InvalidArgumentError, NotFoundError
from heimdall_server.ports.journal import Entry, Frame, Journal
from tests.support.journal import LastOffsets, ManualClock, full_entry, make_batch, make_entry, name_of, read_all
from tests.support.journal_adapters import ADAPTERS, JournalAdapter

Open = Callable[[], AbstractAsyncContextManager[Journal]]


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def open_journal(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Open:
    adapter: JournalAdapter = request.param
    case = request.node.originalname
    if case in adapter.skipped:
        pytest.skip(f"{adapter.name}: {adapter.skipped[case]}")
    return lambda: adapter.open(tmp_path / "journal", clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_entries_come_back_as_they_went_in(open_journal: Open) -> None:
    entries = [full_entry("a"), make_entry("b"), Entry(None, resolved_letters=("9/1",)), Entry(make_batch([]))]
    async with open_journal() as journal:
        positions = await journal.append(entries)
        frames = await read_all(journal)
    assert [frame.position for frame in frames] == list(positions)
    for frame, entry in zip(frames, entries, strict=True):
        assert frame.entry == entry
        assert frame.row_count == (entry.batch.num_rows if entry.batch is not None else 0)
        if frame.entry.batch is not None:
            frame.entry.batch.validate(full=True)


async def test_positions_are_dense_from_one(open_journal: Open) -> None:
    async with open_journal() as journal:
        assert journal.head() == {0: 0}
        assert journal.tail() == {0: 1}
        assert list(await journal.append([make_entry("a"), make_entry("b")])) == [1, 2]
        assert list(await journal.append([make_entry("c")])) == [3]
        assert journal.head() == {0: 3}


async def test_no_entries_are_no_frames(open_journal: Open) -> None:
    async with open_journal() as journal:
        assert list(await journal.append([])) == []
        assert journal.head() == {0: 0}


async def test_a_journal_opened_again_is_the_same(open_journal: Open) -> None:
    async with open_journal() as journal:
        name = journal.journal_id
        await journal.append([make_entry("a")])
    for count in (1, 2, 3):
        async with open_journal() as journal:
            assert journal.journal_id == name
            assert journal.head() == {0: count}
            assert [name_of(frame) for frame in await read_all(journal)] == ["a"] * count
            await journal.append([make_entry("a")])


async def test_concurrent_appends_take_effect_in_the_order_of_the_calls(open_journal: Open) -> None:
    async with open_journal() as journal:
        calls = [asyncio.ensure_future(journal.append([make_entry(f"{i}/{k}") for k in range(3)])) for i in range(60)]
        positions = await asyncio.gather(*calls)
        assert [list(p) for p in positions] == [[3 * i + 1, 3 * i + 2, 3 * i + 3] for i in range(60)]
        frames = await read_all(journal)
    assert [name_of(frame) for frame in frames] == [f"{i}/{k}" for i in range(60) for k in range(3)]


async def test_a_cancelled_append_leaves_the_journal_whole(open_journal: Open) -> None:
    async with open_journal() as journal:
        calls = [asyncio.ensure_future(journal.append([make_entry(str(i))])) for i in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await journal.append([make_entry("last")])
        names = [name_of(frame) for frame in await read_all(journal)]
    assert names[-1] == "last"
    assert set(names) >= {str(i) for i in range(1, 20, 2)}
    assert names[:-1] == sorted(names[:-1], key=int)


async def test_readers_start_and_stop_where_they_say(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.append([make_entry(str(i)) for i in range(1, 51)])
        for after, through in ((0, 50), (0, 1), (49, 50), (20, 30), (50, 50), (10, 5)):
            names = [name_of(frame) async for frame in journal.read(0, after=after, through=through)]
            assert names == [str(i) for i in range(after + 1, through + 1)]


async def test_many_readers_follow_while_a_writer_writes(open_journal: Open) -> None:
    async def follow(journal: Journal, after: int) -> list[str]:
        return [name_of(frame) async for frame in journal.read(0, after=after, through=200)]

    async with open_journal() as journal:
        await journal.append([make_entry("1"), make_entry("2")])
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(follow(journal, after)) for after in (0, 0, 1, 2)]
            for i in range(3, 201):
                await journal.append([make_entry(str(i))])
        for reader, after in zip(readers, (0, 0, 1, 2), strict=True):
            assert reader.result() == [str(i) for i in range(after + 1, 201)]


async def test_an_endless_reader_ends_when_the_journal_closes(open_journal: Open) -> None:
    seen = asyncio.Event()

    async def follow(journal: Journal) -> int:
        count = 0
        async for _ in journal.read(0, after=0):
            count += 1
            seen.set()
        return count

    async with open_journal() as journal:
        reader = asyncio.create_task(follow(journal))
        await journal.append([make_entry("a")])
        await seen.wait()
    assert await asyncio.wait_for(reader, 5) == 1


async def test_a_reader_that_stops_early_or_is_cancelled_disturbs_nobody(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.append([make_entry(str(i)) for i in range(30)])
        async for frame in journal.read(0, after=0):
            assert name_of(frame) == "0"
            break
        waiting = asyncio.ensure_future(anext(journal.read(0, after=30)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await journal.append([make_entry("30")])
        assert len(await read_all(journal)) == 31


async def test_positions_that_are_not_held_are_not_found(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.append([make_entry("a")])
        with pytest.raises(NotFoundError):
            await anext(journal.read(0, after=2))
        with pytest.raises(NotFoundError):
            await anext(journal.read(7, after=0))
        with pytest.raises(NotFoundError):
            await anext(journal.read_control(0, after=2))


async def test_wait_tells_whether_the_head_passed(open_journal: Open) -> None:
    async with open_journal() as journal:
        assert not await journal.wait(0, after=0, timeout_s=0.01)
        waiting = asyncio.create_task(journal.wait(0, after=1, timeout_s=10))
        await journal.append([make_entry("a")])
        assert await journal.wait(0, after=0, timeout_s=0)
        assert not waiting.done()
        await journal.append([make_entry("b")])
        assert await waiting


async def test_control_is_read_without_records(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.append([full_entry(str(i)) for i in range(10)])
        frames = [frame async for frame in journal.read_control(0, after=3, through=8)]
        assert [frame.position for frame in frames] == [4, 5, 6, 7, 8]
        for frame in frames:
            whole = full_entry(name_of(frame))
            assert frame.entry.batch is None
            assert frame.row_count == 2
            assert frame.entry.dead_letters == whole.dead_letters
            assert frame.entry.sources == whole.sources
        assert len([frame async for frame in journal.read_control(0, after=0)]) == 10


async def test_foreign_columns_are_refused_and_nothing_is_written(open_journal: Open) -> None:
    async with open_journal() as journal:
        with pytest.raises(InvalidArgumentError):
            await journal.append([make_entry("a"), Entry(pa.record_batch({"body": ["x"]}))])
        assert journal.head() == {0: 0}
        await journal.append([make_entry("a")])


async def test_a_closed_journal_refuses_appends(open_journal: Open) -> None:
    async with open_journal() as journal:
        pass
    with pytest.raises(DrainingError):
        await journal.append([make_entry("a")])
    await journal.close()


async def test_close_writes_what_was_handed_in(open_journal: Open) -> None:
    async with open_journal() as journal:
        calls = [asyncio.ensure_future(journal.append([make_entry(str(i))])) for i in range(10)]
        await asyncio.sleep(0)
    assert [list(p) for p in await asyncio.gather(*calls)] == [[i] for i in range(1, 11)]


async def test_trimmed_frames_are_gone_and_the_rest_stays(open_journal: Open) -> None:
    async with open_journal() as journal:
        for i in range(1, 101):
            await journal.append([make_entry(str(i))])
        await journal.trim({0: 60})
        tail = journal.tail()[0]
        assert 1 < tail <= 61
        with pytest.raises(NotFoundError):
            await anext(journal.read(0, after=0))
        assert [name_of(frame) for frame in await read_all(journal, after=tail - 1)] == [
            str(i) for i in range(tail, 101)
        ]
        state = journal.state()
        assert state.tail == {0: tail}
        assert state.frame_count == 101 - tail
        await journal.trim({0: 10})
        assert journal.tail() == {0: tail}
    async with open_journal() as journal:
        assert journal.tail() == {0: tail}
        assert journal.head() == {0: 100}
        assert list(await journal.append([make_entry("next")])) == [101]


async def test_state_counts_what_is_held(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.append([make_entry("a", rows=3), Entry(None)])
        await journal.append([make_entry("b", rows=4)])
        before = journal.state()
        assert (before.frame_count, before.record_count) == (3, 7)
        assert before.journal_id == journal.journal_id
        assert before.size_bytes > 0
    async with open_journal() as journal:
        after = journal.state()
        assert (after.frame_count, after.record_count, after.head, after.tail) == (3, 7, {0: 3}, {0: 1})


async def test_times_never_go_back(open_journal: Open, clock: ManualClock) -> None:
    async with open_journal() as journal:
        for step in (5.0, -3.0, 1.0, 60.0):
            clock.advance(step)
            await journal.append([make_entry("a")])
    async with open_journal() as journal:
        clock.advance(-600)
        await journal.append([make_entry("a")])
        times = [frame.time_ns for frame in await read_all(journal)]
    assert times == sorted(times)


async def test_a_control_state_is_kept_up_to_date_and_found_again(open_journal: Open) -> None:
    expected: dict[str, int] = {}
    for life in range(3):
        state = LastOffsets()
        async with open_journal() as journal:
            await journal.maintain(state)
            assert state.offsets == expected
            for i in range(60):
                name = f"{i % 7}"
                await journal.append([make_entry(name, rows=life * 100 + i)])
                expected[name] = life * 100 + i
                assert state.offsets == expected
        assert state.applied == sorted(set(state.applied))
    late = LastOffsets()
    async with open_journal() as journal:
        await journal.maintain(late)
        assert late.offsets == expected
        assert late.restored
        assert len(late.applied) < journal.state().frame_count / 2


async def test_snapshots_are_frames_without_records(open_journal: Open) -> None:
    async with open_journal() as journal:
        await journal.maintain(LastOffsets())
        for i in range(60):
            await journal.append([make_entry(str(i))])
        frames = await read_all(journal)
    snapshots = [frame for frame in frames if frame.entry.snapshot is not None]
    assert [frame.position for frame in frames] == list(range(1, len(frames) + 1))
    assert snapshots
    assert all(frame.row_count == 0 and frame.entry.batch is None for frame in snapshots)
    assert all(_through(frame) < frame.position for frame in snapshots)
    assert [name_of(frame) for frame in frames if frame.entry.snapshot is None] == [str(i) for i in range(60)]


async def test_trim_keeps_what_the_newest_snapshot_needs(open_journal: Open) -> None:
    state = LastOffsets()
    async with open_journal() as journal:
        await journal.maintain(state)
        for i in range(200):
            await journal.append([make_entry(str(i % 30), rows=1 + i % 3)])
            await journal.trim(journal.head())
        assert journal.tail()[0] > 100
    found = LastOffsets()
    async with open_journal() as journal:
        await journal.maintain(found)
    assert found.offsets == state.offsets


def _through(frame: Frame) -> int:
    assert frame.entry.snapshot is not None
    return frame.entry.snapshot.through
