"""The segment that is being written: made, filled, synced, sealed. For the writer's thread only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from heimdall_server.crypto.envelope import DataCipher, RootKey
from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.records import RECORD_SCHEMA, SCHEMA_VERSION
from heimdall_server.storage.journal.disk import OS_DISK, Disk, write_fully
from heimdall_server.storage.journal.files import segment_path
from heimdall_server.storage.journal.frame_cipher import FrameCipher
from heimdall_server.storage.journal.framing import MARKER_BYTES, FrameHeader, SegmentHead
from heimdall_server.storage.journal.segment import Segment, Tally, place, walk

_BUFFER_BYTES: Final = 1024 * 1024


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
        self._disk = segment.disk
        self.segment = segment
        self.size_bytes = size_bytes
        """Allocated."""
        self.tally = Tally.start(segment.head.size_bytes)
        self._written = segment.head.size_bytes

    @classmethod
    def create(
        cls,
        directory: Path,
        key: RootKey,
        head: SegmentHead,
        size_bytes: int,
        spare: Path | None,
        disk: Disk = OS_DISK,
    ) -> SegmentFile:
        """Make a segment: allocated, its head and its name durable.

        Args:
            directory: Where.
            key: What the head's key is wrapped under.
            head: As `new_head` made it.
            size_bytes: To allocate.
            spare: A former segment to make it of; it is gone afterwards, whatever happens.
            disk: What `directory` is on.

        Raises:
            OSError: The disk is full, or failed. What is left behind is empty, and no segment or the last one.
        """
        draft = segment_path(directory, head.sequence, "new")
        path = segment_path(directory, head.sequence)
        if spare is not None:
            disk.rename(spare, draft)
        descriptor = disk.open(draft, os.O_RDWR | os.O_CREAT)
        try:
            if disk.size(descriptor) > size_bytes:
                disk.truncate(descriptor, size_bytes)
            disk.allocate(descriptor, size_bytes)
            write_fully(disk, descriptor, head.pack(), 0)
            disk.fsync(descriptor)
            disk.rename(draft, path)
            disk.sync_directory(directory)
        except BaseException:
            disk.close(descriptor)
            with contextlib.suppress(OSError):
                disk.unlink(draft)
            raise
        cipher = FrameCipher(head, key, place=place(path, 0))
        segment = Segment(path, head, cipher, RECORD_SCHEMA, end=head.size_bytes, disk=disk)
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
            OSError: What of it is on the disk is unknown, and stays so: nothing may be written behind it.
        """
        content = buffer.content()
        write_fully(self._disk, self._descriptor, content, self._written)
        self._disk.fdatasync(self._descriptor)
        self._written += len(content)
        buffer.clear()

    def finish(self) -> None:
        """Seal the segment: foot behind the last frame, the rest of the allocation given back.

        Raises:
            OSError: The frames are durable, the foot may be.
        """
        self._seal(self.tally)

    def mend(self, through: int) -> None:
        """After a failure: seal the segment behind its last acknowledged frame, as the disk has it.

        What was written behind that frame is cut, whether it is whole or not. After a failed sync the page cache
        shows what the disk doesn't have, so every frame is read back from the disk and opened.

        Args:
            through: Position of the last acknowledged frame of the journal.

        Raises:
            OSError: The disk still fails; call again later.
            CorruptionError: An acknowledged frame isn't on the disk any more.
        """
        disk, segment = self._disk, self.segment
        disk.fsync(self._descriptor)
        disk.forget(self._descriptor)
        tally = walk(self._descriptor, segment, verify=True, through=through)
        position = segment.first_position + tally.frame_count
        if position <= through:
            raise CorruptionError(place(segment.path, tally.end, position), "the disk lost an acknowledged frame")
        self._seal(tally)

    def abandon(self) -> None:
        """Close the file as it is. Idempotent."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1

    def _seal(self, tally: Tally) -> None:
        seal(self._descriptor, self.segment, tally)
        self.abandon()


def seal(descriptor: int, segment: Segment, tally: Tally) -> None:
    """Cut a segment behind its last frame and write its foot there, durably."""
    disk = segment.disk
    disk.truncate(descriptor, tally.end)
    write_fully(disk, descriptor, tally.foot(segment.head.marker).pack(), tally.end)
    disk.fsync(descriptor)


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
