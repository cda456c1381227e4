"""The one writer of a journal: turns groups of calls into frames, one fsync a group. Blocks; one thread.

A call's frames never straddle two segments, so that a refused call has written nothing. After a failed write
or sync nothing is known about what was written: its calls fail, and the segment is *mended* before anything else
is written: read back from the disk, cut behind the last acknowledged frame, sealed. The next frames go into a
new one, under a new key. While the disk refuses that, too, every call fails.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from heimdall_server.crypto.envelope import TAG_BYTES, RootKey
from heimdall_server.domain.errors import HeimdallError, InvalidArgumentError, JournalFullError, StoreError
from heimdall_server.domain.records import SCHEMA_VERSION
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Entry, Frame
from heimdall_server.storage.journal.config import FRAME_BYTES_MAX, SEGMENTS_PER_AGE, JournalConfig
from heimdall_server.storage.journal.control import encode_control
from heimdall_server.storage.journal.files import STORE, disk_errors, retire
from heimdall_server.storage.journal.frame_cipher import encode_batch
from heimdall_server.storage.journal.framing import FRAME_HEADER_BYTES, FrameHeader
from heimdall_server.storage.journal.reading import SHARD
from heimdall_server.storage.journal.recovery import Recovered
from heimdall_server.storage.journal.segment import Segment
from heimdall_server.storage.journal.segment_file import SegmentFile, WriteBuffer, new_head

_log = logging.getLogger(__name__)
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True)
class Written:
    """A frame that became durable."""

    segment: Segment
    offset: int
    header: FrameHeader
    frame: Frame


@dataclass(slots=True)
class Commit:
    """What became of a group of calls."""

    outcomes: list[list[int] | HeimdallError]
    """Of each call: the positions of its entries, or why it wrote nothing."""
    written: list[Written] = field(default_factory=list)
    opened: list[Segment] = field(default_factory=list)
    """New segments; those before are sealed."""


@dataclass(slots=True)
class _Plain:
    entry: Entry
    control: bytes
    batch: memoryview | None

    @property
    def size_bytes(self) -> int:
        body = 0 if self.batch is None else len(self.batch) + TAG_BYTES
        return FRAME_HEADER_BYTES + len(self.control) + TAG_BYTES + body


class JournalWriter:
    """Owns the segment that is being written."""

    def __init__(self, config: JournalConfig, key: RootKey, clock: Clock, recovered: Recovered) -> None:
        self._config = config
        self._key = key
        self._clock = clock
        self._journal_id = bytes.fromhex(recovered.meta.journal_id)
        self._position = recovered.head
        self._durable = recovered.head
        self._sequence = recovered.last_sequence
        self._time_ns = max((segment.last_time_ns for segment in recovered.segments), default=0)
        self._spares = list(recovered.spares)
        self._disk = recovered.disk
        self._leaving: deque[tuple[Path, bool]] = deque()
        self._broken: SegmentFile | None = None
        self._buffer = WriteBuffer(config.group_bytes_max + config.group_bytes_max // 4)
        self._file: SegmentFile | None = None
        self._disk_checked_s = float("-inf")
        self._disk_low = False

    def start(self) -> Segment:
        """Make the first segment of this process.

        Raises:
            OSError: The disk is full, or failed.
        """
        self._file = self._create(0)
        return self._file.segment

    def commit(self, calls: Sequence[Sequence[Entry]], *, roll: bool) -> Commit:
        """Make the entries of several calls durable, in their order.

        Args:
            calls: Each is written whole or not at all.
            roll: Begin a new segment first.

        Raises:
            CorruptionError: The disk lost what was acknowledged. The writer must not be used again, but for `stop`.
        """
        commit = Commit([])
        self._time_ns = max(self._time_ns, self._clock.now_ns())
        try:
            self._mend()
            low = self._is_disk_low()
            if roll and self._file is not None and self._file.tally.frame_count:
                self._finish()
            for entries in calls:
                commit.outcomes.append(self._refused() if low and entries else self._write_call(entries, commit))
            self._flush()
            if self._file is None and not low:
                # After a roll. Where there is no room for it, the next call asks again, and is told.
                self._open_file(0, commit)
        except OSError as error:
            self._fail(calls, commit, error)
        return commit

    def take_away(self, segments: Sequence[Segment], *, reusable: Sequence[bool]) -> None:
        """Delete segments, or keep them for reuse, in their order; those first that couldn't be deleted before.

        Were a later one gone and an earlier one still there, its frames would be missed when the journal is opened.

        Raises:
            StoreError: The disk failed; the journal is as whole as before.
        """
        self._leaving.extend(zip((segment.path for segment in segments), reusable, strict=True))
        with disk_errors("delete"):
            while self._leaving:
                path, may_keep = self._leaving[0]
                keep = may_keep and len(self._spares) < self._config.spare_segments and not self._is_disk_low()
                spare = retire(path, keep_spare=keep, disk=self._disk)
                self._leaving.popleft()
                if spare is not None:
                    self._spares.append(spare)

    def stop(self, *, seal: bool) -> None:
        """Close the file, sealed unless the disk failed.

        Raises:
            StoreError: The disk failed.
        """
        file, self._file = self._file or self._broken, None
        if file is None:
            return
        try:
            with disk_errors("seal"):
                if seal and file is self._broken:
                    file.mend(self._durable)
                elif seal:
                    file.finish()
        finally:
            file.abandon()

    def _fail(self, calls: Sequence[Sequence[Entry]], commit: Commit, error: OSError) -> None:
        """Take back what isn't durable of a group, and tell its callers."""
        detail = f"write: {error.strerror or error}"
        if self._broken is None:
            _log.error("journal write failed", extra={"detail": detail, "durable_through": self._durable})
        self._broken, self._file = self._broken or self._file, None
        self._buffer.clear()
        self._position = self._durable
        commit.written = [written for written in commit.written if written.header.position <= self._durable]
        try:
            self._mend()
        except OSError as again:
            # What was written may still be there; the next group tries again.
            error = again

        def failure() -> HeimdallError:
            return self._no_room() if error.errno in _NO_SPACE and self._broken is None else StoreError(STORE, detail)

        for index, outcome in enumerate(commit.outcomes):
            if isinstance(outcome, list) and outcome and outcome[-1] > self._durable:
                commit.outcomes[index] = failure()
        commit.outcomes += [failure() if entries else [] for entries in calls[len(commit.outcomes) :]]

    def _mend(self) -> None:
        if self._broken is not None:
            self._broken.mend(self._durable)
            self._broken = None

    def _write_call(self, entries: Sequence[Entry], commit: Commit) -> list[int] | HeimdallError:
        if not entries:
            return []
        try:
            plains = [self._prepare(entry) for entry in entries]
        except (ValueError, TypeError, pa.ArrowException) as error:
            return InvalidArgumentError("entry", f"can't be written: {type(error).__name__}")
        except InvalidArgumentError as error:
            return error
        size = sum(plain.size_bytes for plain in plains)
        if self._file is not None and (not self._file.fits(size) or self._is_file_old()):
            self._finish()
        file = self._file or self._open_file(size, commit)
        if file is None:
            return self._no_room()
        return [self._seal(file, plain, commit) for plain in plains]

    def _prepare(self, entry: Entry) -> _Plain:
        plain = _Plain(entry, encode_control(entry), None if entry.batch is None else encode_batch(entry.batch))
        if plain.size_bytes > FRAME_BYTES_MAX:
            rule = f"at most {FRAME_BYTES_MAX} bytes; this is {plain.size_bytes}"
            raise InvalidArgumentError("entry", rule)
        return plain

    def _seal(self, file: SegmentFile, plain: _Plain, commit: Commit) -> int:
        entry = plain.entry
        self._position += 1
        header = FrameHeader(
            marker=file.segment.head.marker,
            position=self._position,
            time_ns=self._time_ns,
            durable_through=self._durable,
            control_bytes=len(plain.control) + TAG_BYTES,
            batch_bytes=0 if plain.batch is None else len(plain.batch) + TAG_BYTES,
            row_count=0 if entry.batch is None else entry.batch.num_rows,
            schema_version=SCHEMA_VERSION,
            has_batch=entry.batch is not None,
            is_snapshot=entry.snapshot is not None,
        )
        offset = file.seal(header, plain.control, plain.batch, self._buffer)
        frame = Frame(SHARD, self._position, self._time_ns, entry, header.size_bytes, header.row_count)
        commit.written.append(Written(file.segment, offset, header, frame))
        return self._position

    def _flush(self) -> None:
        if self._file is not None and self._buffer.used:
            self._file.flush(self._buffer)
            self._durable = self._position

    def _finish(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.finish()
            self._file = None

    def _open_file(self, size: int, commit: Commit) -> SegmentFile | None:
        """Begin a segment; None if the disk has no room for it."""
        try:
            file = self._create(size)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            return None
        self._file = file
        commit.opened.append(file.segment)
        return file

    def _create(self, size: int) -> SegmentFile:
        spare = self._spares.pop() if self._spares else None
        head = new_head(
            self._key,
            self._journal_id,
            sequence=self._sequence + 1,
            first_position=self._position + 1,
            now_ns=max(self._time_ns, self._clock.now_ns()),
        )
        size_bytes = max(self._config.segment_bytes, head.size_bytes + size)
        file = SegmentFile.create(self._config.path, self._key, head, size_bytes, spare, self._disk)
        self._sequence += 1
        return file

    def _is_file_old(self) -> bool:
        if self._file is None or not self._file.tally.frame_count:
            return False
        age_ns = self._time_ns - self._file.tally.first_time_ns
        return age_ns > self._config.age_max_s / SEGMENTS_PER_AGE * 1e9

    def _is_disk_low(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s - self._disk_checked_s >= self._config.disk_check_s:
            self._disk_low = self._disk.free_bytes(self._config.path) < self._config.disk_reserve_bytes
            self._disk_checked_s = now_s
            if self._disk_low:
                self._drop_spares()
        return self._disk_low

    def _drop_spares(self) -> None:
        while self._spares:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(self._spares[-1])
            self._spares.pop()

    def _refused(self) -> JournalFullError:
        return JournalFullError(self._config.retry_after_s, "disk_reserve_bytes")

    def _no_room(self) -> JournalFullError:
        return JournalFullError(self._config.retry_after_s, "the end of the disk")
