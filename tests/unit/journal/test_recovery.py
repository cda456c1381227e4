from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import ConfigurationError, CorruptionError, KeyMismatchError, NotFoundError
from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal.files import stored_fingerprint
from heimdall_server.storage.journal.framing import FORMAT_VERSION
from tests.support.journal import KEY, OTHER_KEY, crash, make_entry, name_of, opened, read_all, small_config
from tests.support.journal_directory import Crashed, crashed, recovered

HEAD_BYTES = 4096


@pytest.fixture
async def control_only(tmp_path: Path) -> Crashed:
    """Six small frames, each acknowledged before the next."""
    return await crashed(tmp_path / "original", [[Entry(None, resolved_letters=(f"{i}/0",))] for i in range(6)])


@pytest.fixture
async def with_records(tmp_path: Path) -> Crashed:
    """Six frames with records, each acknowledged before the next."""
    return await crashed(tmp_path / "original", [[make_entry(str(i))] for i in range(6)])


async def test_a_killed_journal_opens_with_everything(with_records: Crashed) -> None:
    async with opened(small_config(with_records.path)) as journal:
        assert [name_of(frame) for frame in await read_all(journal)] == [str(i) for i in range(6)]
        assert list(await journal.append([make_entry("6")])) == [7]


@pytest.mark.parametrize("shortened", [True, False])
def test_a_tail_torn_at_any_byte_is_cut_after_the_last_whole_frame(
    tmp_path: Path, control_only: Crashed, shortened: bool
) -> None:
    first, end = control_only.offsets[3], control_only.offsets[6]
    written = control_only.segment.read_bytes()
    for cut in range(first, end + 1):
        torn = control_only.copy(tmp_path / "copy")
        if shortened:
            os.truncate(torn.segment, cut)
        else:
            torn.write(cut, bytes(end - cut))
        # What is encrypted may end with zeros by itself: one frame in 256 does, and is whole without them.
        whole = sum(offset <= cut or not (shortened or any(written[cut:offset])) for offset in control_only.offsets[1:])
        with recovered(torn.path) as found:
            assert found.head == whole, cut
            assert found.segments[0].frame_count == whole
            assert (found.cut_bytes > 0) == (cut - control_only.offsets[whole] >= 16), cut
        with recovered(torn.path) as again:
            assert (again.head, again.cut_bytes) == (whole, 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_tail_of_records_torn_anywhere_keeps_what_is_whole(
    tmp_path: Path, with_records: Crashed, data: st.DataObject
) -> None:
    torn = with_records.copy(tmp_path / "copy")
    cut = data.draw(st.integers(HEAD_BYTES, with_records.offsets[-1]))
    torn.write(cut, data.draw(st.binary(max_size=64)).ljust(with_records.offsets[-1] - cut, b"\0"))
    whole = sum(offset <= cut for offset in with_records.offsets[1:])
    with recovered(torn.path) as found:
        # A draw may happen to write what stood there.
        assert whole <= found.head <= whole + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_in_the_middle_is_reported_with_its_place(
    tmp_path: Path, with_records: Crashed, data: st.DataObject
) -> None:
    damaged = with_records.copy(tmp_path / "copy")
    offset = data.draw(st.integers(HEAD_BYTES, with_records.offsets[5] - 1))
    damaged.flip(offset, data.draw(st.integers(0, 7)))
    position = sum(start <= offset for start in with_records.offsets)
    before = damaged.segment.read_bytes()
    with pytest.raises(CorruptionError) as caught, recovered(damaged.path):
        pass
    assert f"{damaged.segment.name}, offset {with_records.offsets[position - 1]}, position {position}" in str(
        caught.value
    )
    assert damaged.segment.read_bytes() == before, "what is damaged isn't touched"


async def test_a_flipped_bit_in_a_sealed_segment_is_reported_when_it_is_read(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await journal.append([make_entry(str(i)) for i in range(6)])
        active = journal._shelf.active
        offsets = list(active.offsets or ())
    Crashed(config.path, active.path, offsets).flip(offsets[4] - 1)
    async with opened(config) as journal:
        frames = journal.read(0, after=0)
        assert [name_of(await anext(frames)) for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(CorruptionError, match=rf"offset {offsets[3]}, position 4"):
            await anext(frames)
        assert len([frame async for frame in journal.read(0, after=4, through=6)]) == 2
        assert len([frame async for frame in journal.read_control(0, after=0)]) == 6


async def test_frames_of_one_torn_group_are_no_damage(tmp_path: Path) -> None:
    # Written in one go and never acknowledged: the disk may have kept the last frames and lost the first.
    torn = await crashed(tmp_path / "journal", [[make_entry("0")], [make_entry(str(i)) for i in range(1, 5)]])
    torn.write(torn.offsets[1] + 100, bytes(200))
    with recovered(torn.path) as found:
        assert found.head == 1
        assert found.cut_bytes == torn.offsets[5] - torn.offsets[1]
    async with opened(small_config(torn.path)) as journal:
        await journal.append([make_entry("again")])
        assert [name_of(frame) for frame in await read_all(journal)] == ["0", "again"]


async def test_what_a_reused_file_held_before_is_no_frame(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        for i in range(40):
            await journal.append([make_entry(str(i))])
        await journal.trim({0: 40})
        for i in range(40, 60):
            await journal.append([make_entry(str(i))])
        assert not list(config.path.glob("*.spare")), "the spare was used"
        await crash(journal)
    async with opened(config) as journal:
        after = journal.tail()[0] - 1
        names = [name_of(frame) for frame in await read_all(journal, after=after)]
        assert names == [str(i) for i in range(after, 60)]


async def test_a_damaged_foot_costs_a_walk_and_nothing_else(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        for i in range(60):
            await journal.append([make_entry(str(i), rows=1 + i % 3)])
        before = journal.state()
    for path in sorted(config.path.glob("*.segment")):
        with path.open("r+b") as file:
            file.seek(-30, os.SEEK_END)
            file.write(b"\xff")
    async with opened(config) as journal:
        after = journal.state()
        assert (after.frame_count, after.record_count) == (before.frame_count, before.record_count)
        assert [name_of(frame) for frame in await read_all(journal)] == [str(i) for i in range(60)]


async def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        for i in range(80):
            await journal.append([make_entry(str(i))])
    sorted(config.path.glob("*.segment"))[1].unlink()
    with pytest.raises(CorruptionError, match="missing"):
        async with opened(config):
            pass


@pytest.mark.parametrize("offset", [0, 8, 40, 80, 500, 2000])
async def test_a_damaged_segment_head_is_reported(with_records: Crashed, offset: int) -> None:
    with_records.flip(offset, 5)
    with pytest.raises((CorruptionError, ConfigurationError)):
        async with opened(small_config(with_records.path)):
            pass


async def test_another_key_is_refused(with_records: Crashed) -> None:
    assert stored_fingerprint(with_records.path) == KEY.fingerprint
    with pytest.raises(KeyMismatchError) as caught:
        async with opened(small_config(with_records.path), key=OTHER_KEY):
            pass
    assert caught.value.expected_fingerprint == KEY.fingerprint
    async with opened(small_config(with_records.path)) as journal:
        assert journal.head() == {0: 6}


def test_an_absent_directory_has_no_fingerprint(tmp_path: Path) -> None:
    assert stored_fingerprint(tmp_path / "journal") is None


async def test_newer_formats_are_refused(with_records: Crashed) -> None:
    meta = with_records.path / "journal.json"
    text = meta.read_text()
    meta.write_text(text.replace('"format_version": 1', f'"format_version": {FORMAT_VERSION + 1}'))
    with pytest.raises(ConfigurationError, match="upgrade"):
        async with opened(small_config(with_records.path)):
            pass
    meta.write_text(text)
    with_records.write(8, bytes([FORMAT_VERSION + 1]))
    with pytest.raises(ConfigurationError, match="upgrade"):
        async with opened(small_config(with_records.path)):
            pass


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b"[]"])
async def test_segments_without_their_description_are_refused(with_records: Crashed, content: bytes | None) -> None:
    meta = with_records.path / "journal.json"
    meta.unlink()
    if content is not None:
        meta.write_bytes(content)
    with pytest.raises(CorruptionError):
        async with opened(small_config(with_records.path)):
            pass


async def test_a_second_owner_is_refused_and_told_the_first(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config):
        with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
            async with opened(config):
                pass
    async with opened(config):
        pass


async def test_leftovers_of_a_crash_are_cleared_away(with_records: Crashed) -> None:
    directory = with_records.path
    (directory / "00000000000000000002.new").write_bytes(b"half made")
    (directory / "00000000000000000000.retired").write_bytes(bytes(8192))
    for number in (7, 8, 9):
        (directory / f"{number:020d}.spare").write_bytes(bytes(8192))
    async with opened(small_config(directory)) as journal:
        assert journal.head() == {0: 6}
        assert not list(directory.glob("*.new"))
        assert not list(directory.glob("*.retired"))
        assert len(list(directory.glob("*.spare"))) <= 1


async def test_opening_without_appending_leaves_no_segments_behind(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    for _ in range(4):
        async with opened(config) as journal:
            assert journal.state().segment_count == 1
            assert len(list(config.path.glob("*.segment"))) == 1


async def test_a_sealed_segment_that_breaks_while_it_is_held_is_reported_to_readers(tmp_path: Path) -> None:
    config = small_config(tmp_path / "journal")
    async with opened(config) as journal:
        await journal.append([make_entry(str(i)) for i in range(6)])
        path, offsets = journal._shelf.active.path, list(journal._shelf.active.offsets or ())
    async with opened(config) as journal:
        sealed = Crashed(config.path, path, offsets)
        sealed.flip(path.stat().st_size - 10)
        sealed.flip(offsets[3] + 20)
        frames = journal.read(0, after=0)
        assert [name_of(await anext(frames)) for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(CorruptionError, match=rf"offset {offsets[3]}, position 4"):
            await anext(frames)
        os.truncate(path, offsets[1] + 70)
        with pytest.raises(CorruptionError):
            await read_all(journal, after=1)
        path.unlink()
        with pytest.raises(NotFoundError):
            await read_all(journal)


async def test_large_control_is_read_whole(tmp_path: Path) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        ids = tuple(f"{i}/0" for i in range(5000))
        await journal.append([Entry(make_entry("a").batch, resolved_letters=ids)])
        (frame,) = [frame async for frame in journal.read_control(0, after=0)]
        assert frame.entry.resolved_letters == ids
