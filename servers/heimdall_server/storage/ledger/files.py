"""The files of a chain: segments that only grow, and a sidecar that says where the chain ends. Blocking; see `chain` for the rest.

    <20 digits>.chain   a segment (see `lines`); the digits are the number of its first entry
    HEAD                two slots, written in turn: number and digest of the last entry that was acknowledged

An append is three steps: the lines are durable, then the head is, then the caller hears. So what a crash tore behind the head
was never acknowledged and is cut on open; whatever is missing or changed up to the head was, and open refuses it. A tail that
was cut off on purpose is noticed that way, too. Who can write these files can make up a whole chain and a head: keep the last
digest somewhere else (`verify` gives it), and compare.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from heimdall_server.domain.errors import ChainBrokenError, ConfigurationError, StoreError
from heimdall_server.storage.ledger.lines import (
    SLOT_BYTES,
    ChainEntry,
    Head,
    decode_entry,
    decode_slot,
    encode_entry,
    encode_slot,
    head_behind,
    read_header,
    segment_header,
    walk,
)

SEGMENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""A segment that has so many bytes gets no further group of entries. Reading keeps one segment in memory."""

_HEAD: Final = "HEAD"
_SUFFIX: Final = ".chain"
_SLOTS: Final = 2


class ChainFiles:
    """A chain in a folder. Appends are for one thread at a time, reading for any number beside it."""

    def __init__(
        self,
        directory: Path,
        purpose: str,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Open a chain, or begin one.

        Args:
            directory: Its folder; made, for its owner only, if it isn't there.
            purpose: What is kept in it, one word; hashed with every entry, so that chains can't be swapped.
            segment_bytes_max: See `SEGMENT_BYTES_MAX`.
            sync: Makes a file's bytes durable.

        Raises:
            ConfigurationError: Another process has it open.
            ChainBrokenError: Something that was acknowledged is missing or was changed.
            StoreError: The folder can't be used.
        """
        self._directory = directory
        self._purpose = purpose
        self._segment_bytes_max = segment_bytes_max
        self._sync = sync
        self._lock = threading.Lock()
        self._segment = -1
        self._size = 0
        self._slot = 0
        self._dirty = False
        self._acknowledged = Head()
        with contextlib.ExitStack() as undo, self._disk_errors("open"):
            self._make_directory()
            self._head_file = os.open(directory / _HEAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._head_file)
            self._take_lock()
            self._tail = self._acknowledged = self._read_head()
            self._recover()
            undo.callback(lambda: os.close(self._segment) if self._segment >= 0 else None)
            undo.pop_all()

    @property
    def head(self) -> Head:
        """The last entry."""
        return self._tail

    def append(self, payloads: Sequence[Mapping[str, Any]], time_ns: int) -> list[ChainEntry]:
        """Write entries as one group; they are durable when this returns.

        Raises:
            StoreError: They aren't. They may be there all the same after a restart, as acts that weren't acknowledged.
            ValueError: A payload can't be written; none was.
        """
        lines: list[bytes] = []
        entries: list[ChainEntry] = []
        tail = self._tail
        for payload in payloads:
            line, entry = encode_entry(self._purpose, tail, time_ns, payload)
            lines.append(line)
            entries.append(entry)
            tail = Head(entry.sequence, entry.digest)
        with self._lock, self._disk_errors("write"):
            self._repair()
            if self._segment < 0 or self._size >= self._segment_bytes_max:
                self._begin_segment()
            data = b"".join(lines)
            self._dirty = True
            _write_fully(self._segment, data, self._size)
            self._sync(self._segment)
            self._dirty = False
            self._size += len(data)
            self._tail = tail
            self._write_head(tail)
        return entries

    def entries(self, after: int, through: Head) -> Iterator[list[ChainEntry]]:
        """Entries behind a number, a segment at a time.

        Args:
            after: 0: from the first one on.
            through: A `head`, up to which is read.

        Raises:
            ChainBrokenError: One of the segments that are read was changed.
            StoreError: It can't be read.
        """
        firsts = self._firsts()
        begin = max((first for first in firsts if first <= after + 1), default=1)
        tail: Head | None = Head() if begin == 1 else None
        for first in (first for first in firsts if begin <= first <= through.sequence):
            if tail is None:
                tail = read_header(self._purpose, first, self._read_segment(first))[0]
            found: list[ChainEntry] = []
            for before, line in self._segment_lines(first, tail, through):
                if before.sequence >= after:
                    found.append(decode_entry(self._purpose, before, line))
                tail = head_behind(before, line)
            if found:
                yield found
        if (tail or Head()).sequence < through.sequence:
            raise self._broken((tail or Head()).sequence + 1, "it is missing, and what was behind it")

    def verify(self) -> ChainEntry | None:
        """Walk the whole chain, up to what is the last entry now.

        Returns:
            The last entry; None: there is none.

        Raises:
            ChainBrokenError: An entry was changed, removed or put in; names the first.
            StoreError: The files can't be read.
        """
        with self._lock, self._disk_errors("verify"):
            head, acknowledged = self._tail, self._acknowledged
            slot = os.pread(self._head_file, SLOT_BYTES, self._slot * SLOT_BYTES)
        if decode_slot(self._purpose, slot) != acknowledged:
            raise self._broken(acknowledged.sequence, f"{_HEAD} says something else")
        last: ChainEntry | None = None
        for found in self.entries(0, head):
            last = found[-1]
        if last is not None and last.digest != head.digest:
            raise self._broken(head.sequence, "it isn't the one that was written last")
        return last

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        with self._lock:
            for descriptor in (self._segment, self._head_file):
                if descriptor >= 0:
                    os.close(descriptor)
            self._segment = self._head_file = -1

    def _segment_lines(self, first: int, tail: Head, through: Head) -> Iterator[tuple[Head, bytes]]:
        """The checked lines of a segment that must follow `tail`."""
        data = self._read_segment(first)
        said, start = read_header(self._purpose, first, data)
        if first != tail.sequence + 1 or said != tail:
            raise self._broken(tail.sequence + 1, "it is missing, or the segment behind it belongs elsewhere")
        for before, line, _ in walk(self._purpose, tail, data, start):
            yield before, line
            if before.sequence + 1 >= through.sequence:
                return

    def _recover(self) -> None:
        """Find the end of the chain, and cut what was never acknowledged."""
        head = self._tail
        firsts = self._firsts()
        while firsts and firsts[-1] == head.sequence + 1 and not self._continues(firsts[-1], head):
            self._path(firsts.pop()).unlink()
            self._sync_directory()
        if firsts and firsts[-1] > head.sequence + 1:
            raise self._broken(head.sequence, f"{_HEAD} ends with it, but there are segments behind it")
        if not firsts:
            if head.sequence:
                raise self._broken(1, "it is missing, and all behind it")
            return
        first = firsts[-1]
        data = self._read_segment(first)
        tail, end = read_header(self._purpose, first, data)
        if tail.sequence == head.sequence and tail != head:
            raise self._broken(head.sequence, f"{_HEAD} has another digest of it")
        try:
            for before, line, next_start in walk(self._purpose, tail, data, end):
                tail, end = head_behind(before, line), next_start
                if tail.sequence == head.sequence and tail != head:
                    raise self._broken(head.sequence, f"{_HEAD} has another digest of it")
        except ChainBrokenError:
            if tail.sequence < head.sequence or (tail.sequence == head.sequence and tail != head):
                raise
        if tail.sequence < head.sequence:
            raise self._broken(tail.sequence + 1, "it is missing, and all behind it")
        self._segment = os.open(self._path(first), os.O_RDWR | os.O_CLOEXEC)
        if end < len(data):
            os.ftruncate(self._segment, end)
            self._sync(self._segment)
        self._size = end
        if tail != head:
            self._tail = tail
            self._write_head(tail)

    def _continues(self, first: int, head: Head) -> bool:
        """Whether a segment that begins behind the head has at least its first line."""
        try:
            return read_header(self._purpose, first, self._read_segment(first))[0] == head
        except ChainBrokenError:
            return False

    def _begin_segment(self) -> None:
        path = self._path(self._tail.sequence + 1)
        header = segment_header(self._purpose, self._tail)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, 0)
            _write_fully(descriptor, header, 0)
            self._sync(descriptor)
            self._sync_directory()
        except BaseException:
            os.close(descriptor)
            raise
        if self._segment >= 0:
            os.close(self._segment)
        self._segment, self._size = descriptor, len(header)

    def _repair(self) -> None:
        """After a failed write: take back what may stand behind the last good entry."""
        if self._head_file < 0:
            raise StoreError(self._purpose, "it was closed")
        if self._dirty:
            os.ftruncate(self._segment, self._size)
            self._sync(self._segment)
            self._dirty = False

    def _read_head(self) -> Head:
        data = os.pread(self._head_file, _SLOTS * SLOT_BYTES, 0)
        if len(data) < _SLOTS * SLOT_BYTES and not self._firsts():
            # A chain in the making: it has no entry that anybody was told of.
            for slot in range(_SLOTS):
                _write_fully(self._head_file, encode_slot(self._purpose, Head()), slot * SLOT_BYTES)
            self._sync(self._head_file)
            self._sync_directory()
            return Head()
        slots = [
            (found.sequence, slot, found)
            for slot in range(_SLOTS)
            if (found := decode_slot(self._purpose, data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES])) is not None
        ]
        if not slots:
            raise ChainBrokenError(self._purpose, f"{_HEAD} doesn't say where the chain ends")
        _, self._slot, head = max(slots, key=lambda one: one[:2])
        return head

    def _write_head(self, head: Head) -> None:
        slot = (self._slot + 1) % _SLOTS
        _write_fully(self._head_file, encode_slot(self._purpose, head), slot * SLOT_BYTES)
        self._sync(self._head_file)
        self._slot, self._acknowledged = slot, head

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._head_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = f"{self._directory} is in use by another process; stop it, or configure another directory"
            raise ConfigurationError((problem,)) from error

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True)
            _sync_path(self._directory.parent)

    def _firsts(self) -> list[int]:
        stems = (path.stem for path in self._directory.iterdir() if path.suffix == _SUFFIX)
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _path(self, first: int) -> Path:
        return self._directory / f"{first:020d}{_SUFFIX}"

    def _read_segment(self, first: int) -> bytes:
        with self._disk_errors("read"):
            return self._path(first).read_bytes()

    def _sync_directory(self) -> None:
        _sync_path(self._directory)

    @contextlib.contextmanager
    def _disk_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(self._purpose, f"{action}: {error.strerror or error}") from error

    def _broken(self, sequence: int, problem: str) -> ChainBrokenError:
        return ChainBrokenError(f"{self._purpose}, entry {sequence}", problem)


def _write_fully(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sync_path(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
