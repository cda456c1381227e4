from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from heimdall_server.domain.errors import InvalidArgumentError, JournalFullError, StoreError
from heimdall_server.ports.journal import Entry, Frame
from tests.support.journal import LastOffsets, make_entry, name_of, opened, read_all, small_config


class FlakyDisk:
    """Makes one system call fail while `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        self.broken = False
        self.count = 0
        real: Callable[..., object] = getattr(os, call)

        def flaky(*args: object) -> object:
            self.count += 1
            if self.broken:
                raise OSError(5, "Input/output error")
            return real(*args)

        monkeypatch.setattr(os, call, flaky)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
async def test_what_a_failed_write_was_for_is_refused_and_cut_and_the_next_goes_into_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk = FlakyDisk(monkeypatch, call)
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await journal.append([make_entry("durable")])
        first = journal._shelf.active
        disk.broken = True
        lost = [asyncio.ensure_future(journal.append([make_entry("lost")])) for _ in range(3)]
        for outcome in await asyncio.gather(*lost, return_exceptions=True):
            assert isinstance(outcome, StoreError)
        assert journal.state().refusing
        disk.broken = False
        assert list(await journal.append([make_entry("after")])) == [2]
        assert not journal.state().refusing
        assert journal._shelf.active is not first, "no page that a failed write touched is written again"
        assert [name_of(frame) for frame in await read_all(journal)] == ["durable", "after"]
    async with opened(config) as journal:
        assert [name_of(frame) for frame in await read_all(journal)] == ["durable", "after"]


async def test_a_disk_that_stays_broken_refuses_everything_until_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([make_entry("durable")])
        disks = [FlakyDisk(monkeypatch, call) for call in ("fdatasync", "fsync")]
        for disk in disks:
            disk.broken = True
        for _ in range(3):
            with pytest.raises(StoreError):
                await journal.append([make_entry("lost")])
            await journal.trim({0: 1})
            assert [name_of(frame) for frame in await read_all(journal)] == ["durable"], "readers go on"
        for disk in disks:
            disk.broken = False
        assert list(await journal.append([make_entry("after")])) == [2]


async def test_a_file_system_that_runs_out_of_room_under_a_write_refuses_as_full_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    full = True

    def limited(descriptor: int, data: memoryview, offset: int) -> int:
        if full and len(data) > 512:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, offset)

    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([make_entry("durable")])
        monkeypatch.setattr(os, "pwrite", limited)
        for _ in range(2):
            with pytest.raises(JournalFullError):
                await journal.append([make_entry("refused")])
        full = False
        assert list(await journal.append([make_entry("after")])) == [2]
        assert [name_of(frame) for frame in await read_all(journal)] == ["durable", "after"]


async def test_calls_that_wait_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FlakyDisk(monkeypatch, "fdatasync")
    async with opened(small_config(tmp_path / "journal", segment_bytes=4 << 20)) as journal:
        before = disk.count
        await asyncio.gather(*(journal.append([make_entry(str(i))]) for i in range(100)))
        assert disk.count - before <= 2


async def test_a_group_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FlakyDisk(monkeypatch, "fdatasync")
    config = small_config(tmp_path / "journal", segment_bytes=4 << 20, group_bytes_max=20_000)
    async with opened(config) as journal:
        before = disk.count
        await asyncio.gather(*(journal.append([make_entry(str(i), body_bytes=4000)]) for i in range(20)))
        assert disk.count - before >= 10


async def test_a_call_that_cannot_be_encoded_fails_alone(tmp_path: Path) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        bad = Entry(None, resolved_letters=("\ud800",))
        calls = [[make_entry("a")], [make_entry("b"), bad], [make_entry("c")]]
        outcomes = await asyncio.gather(*(journal.append(call) for call in calls), return_exceptions=True)
        assert isinstance(outcomes[1], InvalidArgumentError)
        assert [outcomes[0], outcomes[2]] == [[1], [2]]
        assert [name_of(frame) for frame in await read_all(journal)] == ["a", "c"]


async def test_a_control_state_that_fails_stops_the_journal(tmp_path: Path) -> None:
    class Broken(LastOffsets):
        def apply(self, frame: Frame) -> None:
            raise ZeroDivisionError(frame.position)

    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await journal.maintain(Broken())
        with pytest.raises(StoreError):
            await journal.append([make_entry("a")])
        with pytest.raises(StoreError):
            await journal.append([make_entry("b")])
    async with opened(config) as journal:
        assert name_of((await read_all(journal))[-1]) == "a"


async def test_one_control_state_is_maintained(tmp_path: Path) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.maintain(LastOffsets())
        with pytest.raises(RuntimeError):
            await journal.maintain(LastOffsets())


async def test_a_snapshot_larger_than_a_segment_makes_no_endless_chain(tmp_path: Path) -> None:
    class Large(LastOffsets):
        def snapshot(self) -> bytes:
            return b"x=1\n" * 40_000

    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.maintain(Large())
        for i in range(10):
            await journal.append([make_entry(str(i))])
        assert journal.state().frame_count <= 20


async def test_frames_at_the_head_are_read_without_the_disk(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal", cache_bytes=1 << 20)
    async with opened(config) as journal:
        await journal.append([make_entry(str(i)) for i in range(20)])
        for path in config.path.glob("*.segment"):
            # One that is recycled in the background meanwhile has another name by now.
            path.unlink(missing_ok=True)
        assert [name_of(frame) for frame in await read_all(journal)] == [str(i) for i in range(20)]


async def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    slow = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fdatasync

    def wait(descriptor: int) -> None:
        asyncio.run_coroutine_threadsafe(slow.wait(), loop).result(10)
        real(descriptor)

    async with opened(small_config(tmp_path / "journal")) as journal:
        monkeypatch.setattr(os, "fdatasync", wait)
        call = asyncio.ensure_future(journal.append([make_entry("a")]))
        for _ in range(50):
            await asyncio.sleep(0.001)
            turns += 1
        assert not call.done()
        assert journal.head() == {0: 0}, "nobody sees what isn't durable"
        slow.set()
        assert list(await call) == [1]
    assert turns == 50
