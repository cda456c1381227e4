from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from heimdall_server.domain.errors import ConfigurationError, JournalFullError, NotFoundError
from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import LastOffsets, ManualClock, make_entry, name_of, opened, read_all, small_config

SEGMENT = 64 * 1024


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def journal(tmp_path: Path, clock: ManualClock) -> AsyncIterator[EmbeddedJournal]:
    """Keeps what may go for a hundred seconds, or up to four segments; eight at most."""
    config = small_config(
        tmp_path / "journal", bytes_max=8 * SEGMENT, retain_bytes=4 * SEGMENT, age_max_s=100.0, retry_after_s=3.0
    )
    async with opened(config, clock=clock) as journal:
        yield journal


async def fill(journal: EmbeddedJournal, size_bytes: int) -> None:
    while journal.state().size_bytes < size_bytes:
        await journal.append([make_entry("a", body_bytes=4000)])


async def test_what_may_go_is_kept_while_there_is_room_and_it_is_young(journal: EmbeddedJournal) -> None:
    await fill(journal, 3 * SEGMENT)
    await journal.trim(journal.head())
    assert journal.tail() == {0: 1}


async def test_what_may_go_goes_beyond_the_bytes_kept(journal: EmbeddedJournal) -> None:
    await fill(journal, 6 * SEGMENT)
    assert journal.tail() == {0: 1}
    await journal.trim(journal.head())
    assert journal.tail()[0] > 1
    assert 3 * SEGMENT < journal.state().size_bytes <= 4 * SEGMENT
    await fill(journal, 5 * SEGMENT - 8192)


async def test_what_may_go_goes_when_it_is_old_the_segment_being_written_too(
    journal: EmbeddedJournal, clock: ManualClock
) -> None:
    await fill(journal, 2 * SEGMENT)
    await journal.trim(journal.head())
    clock.advance(99)
    await journal.trim(journal.head())
    assert journal.tail() == {0: 1}
    clock.advance(2)
    await journal.trim(journal.head())
    state = journal.state()
    assert (state.frame_count, state.segment_count, state.tail[0]) == (0, 1, state.head[0] + 1)


async def test_what_may_not_go_stays_however_old(journal: EmbeddedJournal, clock: ManualClock) -> None:
    await fill(journal, 2 * SEGMENT)
    clock.advance(10_000)
    await journal.trim({0: 3})
    assert journal.tail() == {0: 1}


async def test_a_segment_takes_frames_for_a_twelfth_of_the_age(journal: EmbeddedJournal, clock: ManualClock) -> None:
    for _ in range(20):
        await journal.append([Entry(None)])
        clock.advance(1)
    assert journal.state().segment_count == 3


async def test_an_old_quiet_journal_with_a_control_state_lets_its_frames_go(tmp_path: Path, clock: ManualClock) -> None:
    state = LastOffsets()
    config = small_config(tmp_path / "journal", age_max_s=100.0)
    async with opened(config, clock=clock) as journal:
        await journal.maintain(state)
        for i in range(10):
            await journal.append([make_entry(f"{i}")])
        last = journal.head()[0]
        clock.advance(101)
        await journal.trim(journal.head())
        assert await journal.wait(0, after=last, timeout_s=10), "a snapshot takes the old ones' place"
        await journal.trim(journal.head())
        assert journal.tail()[0] > last
    found = LastOffsets()
    async with opened(config, clock=clock) as journal:
        await journal.maintain(found)
    assert found.offsets == state.offsets


async def test_a_full_journal_refuses_until_frames_may_go(
    journal: EmbeddedJournal, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JournalFullError) as caught:
        await fill(journal, 9 * SEGMENT)
    assert caught.value.bound == "journal_bytes_max"
    assert caught.value.retry_after_s == 3.0
    before = journal.state()
    assert before.size_bytes <= 8 * SEGMENT
    with pytest.raises(JournalFullError):
        await journal.append([make_entry("a", body_bytes=4000)])
    assert journal.state() == before
    assert before.refusing == "journal_bytes_max"
    assert [record.message for record in caplog.records] == ["journal refuses appends"]
    await journal.trim({0: journal.head()[0] // 2})
    assert list(await journal.append([make_entry("b")])) == [before.head[0] + 1]
    assert not journal.state().refusing


async def test_at_the_bound_whatever_may_go_goes(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal", bytes_max=4 * SEGMENT, retain_bytes=4 * SEGMENT)
    async with opened(config) as journal:
        await fill(journal, 3 * SEGMENT)
        await journal.trim(journal.head())
        assert journal.tail() == {0: 1}
        for i in range(100):
            await journal.append([make_entry(str(i), body_bytes=4000)])
            await journal.trim(journal.head())
        assert journal.state().size_bytes <= 4 * SEGMENT


def statvfs_with(free_bytes: list[int]) -> object:
    return lambda _: SimpleNamespace(f_bavail=free_bytes[0] // 4096, f_frsize=4096)


async def test_the_disk_reserve_is_left_alone(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1 << 30]
    monkeypatch.setattr(os, "statvfs", statvfs_with(free))
    config = small_config(tmp_path / "journal", disk_reserve_bytes=1 << 29, disk_check_s=1.0)
    async with opened(config, clock=clock) as journal:
        await journal.append([make_entry("a")])
        free[0] = 1 << 28
        await journal.append([make_entry("still believed")])
        clock.advance(1)
        with pytest.raises(JournalFullError) as caught:
            await journal.append([make_entry("b"), make_entry("c")])
        assert caught.value.bound == "disk_reserve_bytes"
        await journal.trim(journal.head())
        free[0] = 1 << 30
        clock.advance(1)
        await journal.append([make_entry("d")])
        assert [name_of(frame) for frame in await read_all(journal)] == ["a", "still believed", "d"]


async def test_a_disk_without_room_for_a_segment_refuses_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "journal", spare_segments=0)
    allocate = os.posix_fallocate

    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    async with opened(config) as journal:
        await fill(journal, SEGMENT - 16384)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(JournalFullError):
            await fill(journal, 2 * SEGMENT)
        head = journal.head()[0]
        with pytest.raises(JournalFullError):
            await journal.append([make_entry("a")])
        assert not list(config.path.glob("*.new"))
        monkeypatch.setattr(os, "posix_fallocate", allocate)
        assert list(await journal.append([make_entry("b"), make_entry("c")])) == [head + 1, head + 2]
        assert len(await read_all(journal)) == head + 2
    async with opened(config) as journal:
        assert len(await read_all(journal)) == head + 2


async def test_a_file_system_that_cannot_allocate_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    config = small_config(tmp_path / "journal")
    for count in (1, 2):
        async with opened(config) as journal:
            await fill(journal, count * 3 * SEGMENT)
            assert [frame.position for frame in await read_all(journal)] == list(range(1, journal.head()[0] + 1))


async def test_an_entry_larger_than_a_segment_gets_one_of_its_size(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal", group_bytes_max=SEGMENT)
    async with opened(config) as journal:
        await journal.append([make_entry("a")])
        await journal.append([make_entry("giant", rows=400, body_bytes=1000)])
        await journal.append([make_entry("b")])
        assert [name_of(frame) for frame in await read_all(journal)] == ["a", "giant", "b"]
    async with opened(config) as journal:
        assert [frame.row_count for frame in await read_all(journal)] == [2, 400, 2]


async def test_a_reader_whose_frames_go_is_told(journal: EmbeddedJournal) -> None:
    await fill(journal, 7 * SEGMENT)
    frames = journal.read(0, after=0)
    await anext(frames)
    await journal.trim(journal.head())
    with pytest.raises(NotFoundError):
        async for _ in frames:
            pass


async def test_a_segment_that_is_being_read_is_not_reused(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await fill(journal, 3 * SEGMENT)
        journal._shelf.segments[0].pin_count += 1
        await journal.trim({0: journal._shelf.segments[0].last_position})
        assert not list(config.path.glob("*.spare"))
        await journal.trim({0: journal._shelf.segments[0].last_position})
        assert len(list(config.path.glob("*.spare"))) == 1


async def test_nothing_that_could_be_decrypted_is_left_in_a_spare(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await fill(journal, 2 * SEGMENT)
        wrapped = journal._shelf.segments[0].head.wrapped_key
        await journal.trim(journal.head())
    (spare,) = config.path.glob("*.spare")
    assert wrapped not in spare.read_bytes()


def test_impossible_limits_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JournalConfig(tmp_path, segment_bytes=1, age_max_s=0, reader_threads=0)
    assert len(caught.value.problems) == 3
