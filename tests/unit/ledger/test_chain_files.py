"""A chain in files: any change of what was acknowledged is found, and what wasn't is cut after a crash."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import ChainBrokenError, ConfigurationError, StoreError
from heimdall_server.storage.ledger import lines
from heimdall_server.storage.ledger.files import ChainFiles

PURPOSE = "test"
SEGMENT_BYTES = 700


def written(directory: Path, groups: int = 6, size: int = 3) -> None:
    """A chain of several small segments."""
    files = ChainFiles(directory, PURPOSE, segment_bytes_max=SEGMENT_BYTES)
    for group in range(groups):
        files.append([{"group": group, "number": number} for number in range(size)], 1_000 + group)
    files.close()


def check(directory: Path) -> int:
    """Open and walk a chain; its length."""
    files = ChainFiles(directory, PURPOSE, segment_bytes_max=SEGMENT_BYTES)
    try:
        last = files.verify()
        return 0 if last is None else last.sequence
    finally:
        files.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chain") / "original"
    written(directory)
    return directory


def changed(original: Path, change: Callable[[Path], object]) -> None:
    """Make a change to a copy, which must be found."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(original, copy)
        change(copy)
        with pytest.raises(ChainBrokenError):
            check(copy)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.chain"))


def test_entries_come_back_in_order_over_segments_and_restarts(tmp_path: Path) -> None:
    written(tmp_path / "c")
    files = ChainFiles(tmp_path / "c", PURPOSE, segment_bytes_max=SEGMENT_BYTES)
    files.append([{"last": True}], 2_000)
    assert len(segments(tmp_path / "c")) > 3
    for after in (0, 1, 7, 17, 18, 19):
        found = [entry for some in files.entries(after, files.head) for entry in some]
        assert [entry.sequence for entry in found] == list(range(after + 1, 20))
    whole = [entry for some in files.entries(0, files.head) for entry in some]
    assert [entry.previous for entry in whole[1:]] == [entry.digest for entry in whole[:-1]]
    assert whole[0].previous == lines.NO_DIGEST
    assert whole[-1].payload == {"last": True}
    last = files.verify()
    assert last is not None
    assert last.sequence == 19
    files.close()


def test_files_are_for_their_owner_only(original: Path) -> None:
    assert stat.S_IMODE(original.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in original.iterdir()} == {0o600}


def test_a_digest_can_be_checked_with_sha256sum(original: Path) -> None:
    first = segments(original)[0].read_bytes().splitlines()
    digest, _, text = first[1].partition(b" ")
    hashed = PURPOSE.encode() + b"\0" + bytes(32) + text
    said = subprocess.run(["sha256sum"], input=hashed, capture_output=True, check=True).stdout
    assert said.split()[0] == digest
    assert json.loads(text)["n"] == 1


def test_any_flipped_bit_of_any_segment_is_found(original: Path) -> None:
    """Every byte, one bit each: the bit goes round, so that all eight are tried."""
    sizes = [(path.name, path.stat().st_size) for path in segments(original)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(original, copy)
        for name, size in sizes:
            good = (copy / name).read_bytes()
            for index in range(size):
                bad = bytearray(good)
                bad[index] ^= 1 << (index % 8)
                (copy / name).write_bytes(bad)
                with pytest.raises(ChainBrokenError):
                    check(copy)
            (copy / name).write_bytes(good)
        assert check(copy) == 18


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_lines_and_segments_removed_swapped_doubled_or_put_in_are_found(original: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(segments(original)))
    kind = data.draw(st.sampled_from(["remove", "swap", "double", "cut", "unlink", "other segment", "no line feed"]))
    number = data.draw(st.integers(0, len(path.read_bytes().splitlines()) - 1))
    other = data.draw(st.sampled_from([one for one in segments(original) if one != path]))

    def change(copy: Path) -> None:
        file = copy / path.name
        kept = file.read_bytes().splitlines(keepends=True)
        if kind == "unlink":
            file.unlink()
            return
        if kind == "remove":
            del kept[number]
        elif kind == "double":
            # Behind the very last line it would be what a crash leaves: it is cut, and nothing is lost.
            kept.insert(number, kept[number] if number + 1 < len(kept) else kept[0])
        elif kind == "cut":
            del kept[number:]
        elif kind == "swap":
            place = (number + 1) % len(kept)
            kept[number], kept[place] = kept[place], kept[number]
        elif kind == "other segment":
            kept = [other.read_bytes()]
        else:
            kept[number] = kept[number].rstrip(b"\n")
        file.write_bytes(b"".join(kept))

    changed(original, change)


def test_a_lost_or_older_head_is_found(original: Path) -> None:
    changed(original, lambda copy: (copy / "HEAD").unlink())
    changed(original, lambda copy: (copy / "HEAD").write_bytes(b""))
    changed(original, lambda copy: (copy / "HEAD").write_bytes(bytes(1024)))


def test_a_chain_cut_at_its_end_is_refused_and_says_what_is_missing(tmp_path: Path) -> None:
    written(tmp_path / "c")
    last = segments(tmp_path / "c")[-1]
    kept = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(kept[:-1]))
    with pytest.raises(ChainBrokenError, match=r"test, entry 18: it is missing"):
        ChainFiles(tmp_path / "c", PURPOSE)


def test_what_was_never_acknowledged_is_cut_and_what_is_whole_is_kept(tmp_path: Path) -> None:
    written(tmp_path / "c")
    before = (tmp_path / "c" / "HEAD").read_bytes()
    written(tmp_path / "c", groups=1)
    # The head of the time before: a crash came between the lines and the head.
    (tmp_path / "c" / "HEAD").write_bytes(before)
    last = segments(tmp_path / "c")[-1]
    with last.open("ab") as file:
        file.write(b'0123 {"torn')
    assert check(tmp_path / "c") == 21
    assert last.read_bytes().endswith(b"\n")
    assert check(tmp_path / "c") == 21


@pytest.mark.parametrize("torn", [b"", b"heimdall-ch"])
def test_a_segment_whose_first_line_was_torn_goes(tmp_path: Path, torn: bytes) -> None:
    written(tmp_path / "c")
    path = tmp_path / "c" / f"{19:020d}.chain"
    path.write_bytes(torn)
    assert check(tmp_path / "c") == 18
    assert not path.exists()


def test_chains_of_another_purpose_cannot_be_swapped(original: Path) -> None:
    with pytest.raises(ChainBrokenError):
        ChainFiles(original, "other")


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    files = ChainFiles(tmp_path / "c", PURPOSE)
    with pytest.raises(ConfigurationError, match="in use"):
        ChainFiles(tmp_path / "c", PURPOSE)
    files.close()
    files.close()
    with pytest.raises(StoreError, match="closed"):
        files.append([{}], 1)


class BrokenSync:
    """Syncs, but for the ones whose turn is named."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail: set[int] = set()

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls in self.fail:
            raise OSError(5, "Input/output error")
        os.fdatasync(descriptor)


@settings(max_examples=60, deadline=None)
@given(fail=st.sets(st.integers(1, 40), max_size=12), segment_bytes=st.sampled_from([1, 400, 100_000]))
def test_after_failing_syncs_the_chain_goes_on_and_holds_all_that_was_acknowledged(
    fail: set[int], segment_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sync = BrokenSync()
        files = ChainFiles(Path(folder) / "c", PURPOSE, segment_bytes_max=segment_bytes, sync=sync)
        sync.fail = {sync.calls + number for number in fail}
        acknowledged: list[int] = []
        for number in range(12):
            try:
                files.append([{"number": number}], number)
            except StoreError:
                continue
            acknowledged.append(number)
        sync.fail.clear()
        files.append([{"number": 99}], 99)
        files.verify()
        files.close()
        files = ChainFiles(Path(folder) / "c", PURPOSE)
        files.verify()
        kept = [entry.payload["number"] for some in files.entries(0, files.head) for entry in some]
        assert set(acknowledged) | {99} <= set(kept)
        assert kept == sorted(kept)
        files.close()


@given(st.binary(max_size=600))
def test_no_bytes_but_ours_are_a_slot(data: bytes) -> None:
    assert lines.decode_slot(PURPOSE, data) is None


@given(st.integers(0, 2**63), st.binary(min_size=32, max_size=32))
def test_slots_come_back(sequence: int, digest: bytes) -> None:
    head = lines.Head(sequence, digest)
    data = lines.encode_slot(PURPOSE, head)
    assert len(data) == lines.SLOT_BYTES
    assert lines.decode_slot(PURPOSE, data) == head
    assert lines.decode_slot("other", data) is None
