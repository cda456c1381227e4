"""Journals with one thing wrong each, to see that the schedules find it.

A mutant is either a disk that leaves out what the journal relies on (which is what a journal would be that
doesn't ask for it), or a change of one function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from heimdall_server.crypto import envelope
from heimdall_server.crypto.envelope import TAG_BYTES, DataCipher
from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.journal import files, framing, recovery, segment, writer
from heimdall_server.storage.journal.disk import Disk, write_fully
from heimdall_server.storage.journal.framing import HEAD_ALIGN
from heimdall_server.storage.journal.segment import Segment
from heimdall_server.storage.journal.segment_file import SegmentFile
from heimdall_server.storage.journal.writer import JournalWriter
from tests.simulation.journal_schedule import MakeDisk
from tests.support.simulated_disk import SimDisk, SimFile

Patch = Callable[[pytest.MonkeyPatch], None]


def _is_segment(file: SimFile) -> bool:
    """Or will be one; the journal's description and its lock are much smaller."""
    return len(file.cache) >= HEAD_ALIGN


class AcknowledgesBeforeTheSync(SimDisk):
    def fdatasync(self, descriptor: int) -> None:
        if not _is_segment(self._open_file(descriptor)):
            super().fdatasync(descriptor)


class BelievesAFailedSync(SimDisk):
    def _sync(self, file: SimFile) -> None:
        try:
            super()._sync(file)
        except OSError:
            if not _is_segment(file):
                raise


class ForgetsTheDirectory(SimDisk):
    def sync_directory(self, directory: Path) -> None:
        self._directory(directory)


class BelievesTheNamesItFinds(SimDisk):
    """Opening doesn't sync the names that a former process gave."""

    unsynced = 0

    def lock(self, descriptor: int) -> None:
        super().lock(descriptor)
        self.unsynced = 2

    def sync_directory(self, directory: Path) -> None:
        if self.unsynced:
            self.unsynced -= 1
            self._directory(directory)
        else:
            super().sync_directory(directory)


class IgnoresShortWrites(SimDisk):
    def pwrite(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        count = super().pwrite(descriptor, data, offset)
        return len(data) if _is_segment(self._open_file(descriptor)) else count


class BelievesThePageCache(SimDisk):
    def forget(self, descriptor: int) -> None:
        self._open_file(descriptor)


def opens_frames_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment, "_is_whole", lambda *_: True)


def cuts_in_the_middle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "_check_tail", lambda *_: 0)


def reads_without_checking(patch: pytest.MonkeyPatch) -> None:
    """Neither a header's checksum nor a seal is looked at."""
    made = DataCipher.__init__

    def keep_key(self: DataCipher, data_key: bytes) -> None:
        made(self, data_key)
        self.__dict__["key"] = data_key

    def decrypt(
        self: DataCipher, sealed: memoryview, out: memoryview, *, lane: int, counter: int, context: bytes
    ) -> None:
        del context  # What it would be checked with.
        first_block = envelope._nonce(lane, counter) + (2).to_bytes(4, "big")
        decryptor = Cipher(AES256(self.__dict__["key"]), CTR(first_block)).decryptor()
        out[:] = decryptor.update(bytes(sealed[: len(sealed) - TAG_BYTES]))

    patch.setattr(DataCipher, "__init__", keep_key)
    patch.setattr(DataCipher, "open_into", decrypt)
    patch.setattr(framing, "_crc", lambda _: 0)


def goes_on_after_a_failed_write(patch: pytest.MonkeyPatch) -> None:
    """The segment is closed as it is, what is behind its last acknowledged frame isn't cut."""
    patch.setattr(SegmentFile, "mend", lambda self, _: self.abandon())


def writes_on_in_the_same_segment(patch: pytest.MonkeyPatch) -> None:
    """What failed is written over, under the key and the numbers that it had."""
    failed = JournalWriter._fail

    def fail(self: JournalWriter, *arguments: object) -> None:
        file = self._file
        failed(self, *arguments)  # type: ignore[arg-type]  # as they came
        if file is not None and file._descriptor >= 0:
            self._file, self._broken = file, None

    def keep(self: SegmentFile, through: int) -> None:
        self.tally = segment.walk(self._descriptor, self.segment, verify=True, through=through)
        self._written = self.tally.end

    patch.setattr(JournalWriter, "_fail", fail)
    patch.setattr(SegmentFile, "mend", keep)


def gives_up_on_deletions(patch: pytest.MonkeyPatch) -> None:
    take_away = JournalWriter.take_away

    def once(self: JournalWriter, segments: Sequence[Segment], *, reusable: Sequence[bool]) -> None:
        try:
            take_away(self, segments, reusable=reusable)
        except StoreError:
            self._leaving.clear()

    patch.setattr(JournalWriter, "take_away", once)


def destroys_the_key_before_the_name(patch: pytest.MonkeyPatch) -> None:
    retire = files.retire

    def destroy(path: Path, *, keep_spare: bool, disk: Disk) -> Path | None:
        descriptor = disk.open(path, 2)
        write_fully(disk, descriptor, bytes(HEAD_ALIGN), 0)
        disk.fdatasync(descriptor)
        disk.close(descriptor)
        return retire(path, keep_spare=keep_spare, disk=disk)

    patch.setattr(writer, "retire", destroy)


def forgets_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """Segments that the newest snapshot needs go with the others."""
    patch.setattr(recovery, "_newest_snapshot", lambda _: None)


DISKS: dict[str, MakeDisk] = {
    "acknowledges before the sync": AcknowledgesBeforeTheSync,
    "believes a failed sync": BelievesAFailedSync,
    "forgets the directory": ForgetsTheDirectory,
    "believes the names it finds": BelievesTheNamesItFinds,
    "ignores short writes": IgnoresShortWrites,
    "believes the page cache": BelievesThePageCache,
}
PATCHES: dict[str, Patch] = {
    patch.__name__.replace("_", " "): patch
    for patch in (
        opens_frames_unchecked,
        cuts_in_the_middle,
        reads_without_checking,
        goes_on_after_a_failed_write,
        writes_on_in_the_same_segment,
        gives_up_on_deletions,
        destroys_the_key_before_the_name,
        forgets_the_snapshot,
    )
}


@contextlib.contextmanager
def broken(name: str) -> Iterator[MakeDisk]:
    """A mutant for the length of a block."""
    with pytest.MonkeyPatch.context() as patch:
        if name in PATCHES:
            PATCHES[name](patch)
        yield DISKS.get(name, SimDisk)
