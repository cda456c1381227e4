"""Opening a directory: finish what a crash left half done, cut a torn tail, refuse damage.

    1. The lock, then the directory's own description: its format, its key.
    2. Names that a former process gave are made durable before anything is built on them. Leftovers: segments in
       the making go, segments on their way out go all the way.
    3. Every segment but the last was sealed before the next was begun. One whose foot is damaged is walked.
       Where one ends the next must begin.
    4. The last one may have no foot. It, foot or frames, is read as the disk has it, not as the page cache has it (after a
       failed fsync the two differ), up to the first frame that isn't whole. If a frame behind it was written
       when the broken one was already durable, that is damage. Otherwise it was torn by the crash, before it
       was acknowledged, and the file is cut there and sealed.

Nothing is ever appended to a segment of a former process, so no nonce is used twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.domain.errors import CorruptionError, KeyMismatchError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Snapshot
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.disk import OS_DISK, Disk
from heimdall_server.storage.journal.files import (
    DirectoryLock,
    JournalMeta,
    make_directory,
    make_meta,
    numbered_files,
    read_meta,
    retire,
)
from heimdall_server.storage.journal.framing import FRAME_HEADER_BYTES, MARKER_BYTES, MARKER_OFFSET, unpack_frame_header
from heimdall_server.storage.journal.reading import read_run
from heimdall_server.storage.journal.segment import Segment, load_offsets, open_segment, place, read_foot, walk
from heimdall_server.storage.journal.segment_file import seal

_log = logging.getLogger(__name__)
_SCAN_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Recovered:
    """What a directory holds."""

    meta: JournalMeta
    lock: DirectoryLock
    segments: list[Segment]
    """With frames, all sealed, in order."""
    empty: list[Segment]
    """Without frames; they carry the head's position until a new segment does."""
    spares: list[Path]
    head: int
    """Last position."""
    last_sequence: int
    disk: Disk = OS_DISK
    snapshot: Snapshot | None = None
    cut_bytes: int = field(default=0)
    """How much was torn."""


def recover(config: JournalConfig, key: RootKey, clock: Clock, disk: Disk = OS_DISK) -> Recovered:
    """Open a directory, made if missing. Blocks; keeps the lock.

    Raises:
        ConfigurationError: Another process has it, or a newer version wrote it.
        KeyMismatchError: It was written under another key.
        CorruptionError: Something that was durable is damaged or gone.
        OSError: The disk failed.
    """
    directory = config.path
    make_directory(directory, disk)
    lock = DirectoryLock(directory, disk)
    try:
        disk.sync_directory(directory)
        with contextlib.suppress(PermissionError):
            # The folder above need not be ours. Where it is, a process may have died before it synced our name.
            disk.sync_directory(directory.parent)
        meta = read_meta(directory, disk)
        if meta is None:
            meta = make_meta(directory, key_fingerprint=key.fingerprint, now_ns=clock.now_ns(), disk=disk)
        if meta.key_fingerprint != key.fingerprint:
            raise KeyMismatchError(meta.key_fingerprint, key.fingerprint)
        spares = _clear_leftovers(config, disk)
        recovered = Recovered(meta, lock, [], [], spares, head=0, last_sequence=0, disk=disk)
        _open_segments(recovered, directory, key)
        recovered.snapshot = _newest_snapshot(recovered.segments)
    except BaseException:
        lock.release()
        raise
    return recovered


def _clear_leftovers(config: JournalConfig, disk: Disk) -> list[Path]:
    for path in numbered_files(config.path, "new", disk):
        disk.unlink(path)
    for path in numbered_files(config.path, "retired", disk):
        retire(path, keep_spare=False, disk=disk)
    spares = numbered_files(config.path, "spare", disk)
    for path in spares[config.spare_segments :]:
        disk.unlink(path)
    return spares[: config.spare_segments]


def _open_segments(recovered: Recovered, directory: Path, key: RootKey) -> None:
    journal_id = bytes.fromhex(recovered.meta.journal_id)
    disk = recovered.disk
    paths = numbered_files(directory, "segment", disk)
    expected: int | None = None
    for path in paths:
        with _opened(disk, path) as descriptor:
            segment = open_segment(path, descriptor, key, journal_id, disk)
            if expected is not None and segment.first_position != expected:
                problem = f"the segment begins at position {segment.first_position}, frames from {expected} are missing"
                raise CorruptionError(place(path, 0), problem)
            if path == paths[-1]:
                # What the page cache has must reach the disk and come back from there: a process that saw its
                # sync fail leaves pages that look written and aren't.
                disk.fsync(descriptor)
                disk.forget(descriptor)
            foot = read_foot(descriptor, segment)
            if foot is not None:
                segment.take(foot)
            elif path == paths[-1]:
                recovered.cut_bytes += _recover_last(descriptor, segment)
            else:
                segment.take(walk(descriptor, segment, verify=False).foot(segment.head.marker))
        (recovered.segments if segment.frame_count else recovered.empty).append(segment)
        expected = segment.last_position + 1
        recovered.head = segment.last_position
        recovered.last_sequence = segment.head.sequence


def _recover_last(descriptor: int, segment: Segment) -> int:
    tally = walk(descriptor, segment, verify=True)
    position = segment.first_position + tally.frame_count
    torn = _check_tail(descriptor, segment, tally.end, position)
    seal(descriptor, segment, tally)
    segment.take(tally.foot(segment.head.marker))
    if torn:
        _log.warning(
            "journal tail cut",
            extra={"segment": segment.path.name, "offset": tally.end, "position": position, "torn_bytes": torn},
        )
    return torn


def _check_tail(descriptor: int, segment: Segment, offset: int, position: int) -> int:
    """How many bytes behind the last whole frame a torn write left; raises if it is no torn write."""
    marker = segment.head.marker
    torn = 0
    for found in _find(descriptor, segment, offset):
        header = unpack_frame_header(segment.disk.pread(descriptor, FRAME_HEADER_BYTES, found - MARKER_OFFSET), marker)
        torn = found + FRAME_HEADER_BYTES - offset
        if header is None or header.position < position:
            continue
        torn = found - MARKER_OFFSET + header.size_bytes - offset
        if header.durable_through >= position:
            problem = f"the frame is damaged, though frame {header.position} behind it is whole"
            raise CorruptionError(place(segment.path, offset, position), problem)
    return torn


def _find(descriptor: int, segment: Segment, offset: int) -> Iterator[int]:
    """Where the segment's marker stands, from an offset on."""
    needle = segment.head.marker
    base = offset
    carried = b""
    while chunk := segment.disk.pread(descriptor, _SCAN_BYTES, base):
        window = carried + chunk
        at = window.find(needle)
        while at >= 0:
            yield base - len(carried) + at
            at = window.find(needle, at + 1)
        base += len(chunk)
        carried = window[-(MARKER_BYTES - 1) :]


def _newest_snapshot(segments: list[Segment]) -> Snapshot | None:
    for segment in reversed(segments):
        if not segment.snapshot_position:
            continue
        with _opened(segment.disk, segment.path) as descriptor:
            offsets = load_offsets(descriptor, segment)
        index = segment.snapshot_position - segment.first_position
        run = read_run(segment, list(offsets[index : index + 2]), segment.snapshot_position, with_batch=False)
        if run.error is not None:
            raise run.error
        return run.frames[0].entry.snapshot
    return None


def discard_empty(recovered: Recovered) -> None:
    """Remove segments without frames, once a new segment carries their position."""
    for segment in recovered.empty:
        recovered.disk.unlink(segment.path)
    if recovered.empty:
        recovered.disk.sync_directory(recovered.empty[0].path.parent)


@contextlib.contextmanager
def _opened(disk: Disk, path: Path) -> Iterator[int]:
    descriptor = disk.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        disk.close(descriptor)
