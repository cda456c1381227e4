"""The segment that is being written: made, filled, synced, sealed. For the writer's thread only."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from heimdall_server.crypto.envelope import DataCipher, RootKey
from heimdall_server.domain.records import RECORD_SCHEMA, SCHEMA_VERSION
from heimdall_server.storage.journal.files import fsync_directory, segment_path
from heimdall_server.storage.journal.frame_cipher import FrameCipher
from heimdall_server.storage.journal.framing import MARKER_BYTES, FrameHeader, SegmentHead
from heimdall_server.storage.journal.segment import Segment, Tally, place

_BUFFER_BYTES: Final = 1024 * 1024
_NO_FALLOCATE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class WriteBuffer:
    """Memory that frames are sealed into; kept, since fresh pages cost more than the cipher."""

    def __init__(self, kept_bytes_max: int) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._memory = bytearray(min(_BUFFER_BYTES, kept_bytes_max))
        self.used = 0

    def room(self, size: int) -> memoryview:
        """The next `size` bytes; what was handed out before stays as it is."""
        wanted = self.used + size
        if wanted > len(self._memory):
            grown = bytearray(max(wanted, min(2 * len(self._memory), self._kept_bytes_max)))
            grown[: self.used] = memoryview(self._memory)[: self.used]
            self._memory = grown
        start, self.used = self.used, wanted
        return memoryview(self._memory)[start:wanted]

    def content(self) -> memoryview:
        """What was written since `clear`."""
        return memoryview(self._memory)[: self.used]

    def clear(self) -> None:
        """Begin again; give back what a giant needed."""
        self.used = 0
        if len(self._memory) > self._kept_bytes_max:
            self._memory = bytearray(self._kept_bytes_max)


class SegmentFile:
    """One segment open for writing."""

    def __init__(self, descriptor: int, segment: Segment, size_bytes: int) -> None:
        self._descriptor = descriptor
        self.segment = segment
        self.size_bytes = size_bytes
        """Allocated."""
        self.tally = Tally.start(segment.head.size_bytes)
        self._written = segment.head.size_bytes

    @classmethod
    def create(
        cls, directory: Path, key: RootKey, head: SegmentHead, size_bytes: int, spare: Path | None
    ) -> SegmentFile:
        """Make a segment: allocated, its head and its name durable.

        Args:
            directory: Where.
            key: What the head's key is wrapped under.
            head: As `new_head` made it.
            size_bytes: To allocate.
            spare: A former segment to make it of; it is gone afterwards, whatever happens.

        Raises:
            OSError: The disk is full, or failed. Nothing is left behind.
        """
        draft = segment_path(directory, head.sequence, "new")
        path = segment_path(directory, head.sequence)
        if spare is not None:
            spare.replace(draft)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size > size_bytes:
                os.ftruncate(descriptor, size_bytes)
            _allocate(descriptor, size_bytes)
            os.pwrite(descriptor, head.pack(), 0)
            os.fsync(descriptor)
            draft.replace(path)
            fsync_directory(directory)
        except BaseException:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise
        cipher = FrameCipher(head, key, place=place(path, 0))
        segment = Segment(path, head, cipher, RECORD_SCHEMA, end=head.size_bytes)
        return cls(descriptor, segment, size_bytes)

    def fits(self, size: int) -> bool:
        """Is there room for this many bytes more?"""
        return self.tally.end + size <= self.size_bytes

    def seal(self, header: FrameHeader, control: bytes, batch: memoryview | None, buffer: WriteBuffer) -> int:
        """Encrypt a frame into the buffer, to be written behind the last one.

        Returns:
            Its offset in the file.
        """
        self.segment.cipher.seal(header, control, batch, buffer.room(header.size_bytes))
        offset = self.tally.end
        self.tally.add(header)
        return offset

    def flush(self, buffer: WriteBuffer) -> None:
        """Write what the buffer holds, durably.

        Raises:
            OSError: What of it is on the disk is unknown.
        """
        content = buffer.content()
        while content:
            count = os.pwrite(self._descriptor, content, self._written)
            self._written += count
            content = content[count:]
        os.fdatasync(self._descriptor)
        buffer.clear()

    def finish(self) -> None:
        """Seal the segment: foot behind the last frame, the rest of the allocation given back."""
        os.ftruncate(self._descriptor, self._written)
        os.pwrite(self._descriptor, self.tally.foot(self.segment.head.marker).pack(), self._written)
        os.fsync(self._descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def new_head(key: RootKey, journal_id: bytes, *, sequence: int, first_position: int, now_ns: int) -> SegmentHead:
    """The head of a new segment, with a new key and marker."""
    context = journal_id + sequence.to_bytes(8, "little")
    return SegmentHead(
        journal_id=journal_id,
        sequence=sequence,
        first_position=first_position,
        created_ns=now_ns,
        marker=os.urandom(MARKER_BYTES),
        wrapped_key=key.wrap(DataCipher.new_key(), context=context),
        schema_version=SCHEMA_VERSION,
        schema=RECORD_SCHEMA.serialize().to_pybytes(),
    )


def _allocate(descriptor: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        # A file system that can't allocate ahead is slower, not less safe.
        if error.errno not in _NO_FALLOCATE:
            raise
