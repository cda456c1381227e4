"""One segment: what is known of it, and how its frames are found and read.

A sealed segment ends in a foot with the offset of each frame. One that was being written when the process
ended has none; `walk` goes from frame to frame instead.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from heimdall_server.crypto.envelope import TAG_BYTES, RootKey, UnsealError
from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.records import SCHEMA_VERSION
from heimdall_server.storage.journal.disk import OS_DISK, Disk, read_fully
from heimdall_server.storage.journal.files import newer_format
from heimdall_server.storage.journal.frame_cipher import FrameCipher
from heimdall_server.storage.journal.framing import (
    FORMAT_VERSION,
    FRAME_HEADER_BYTES,
    HEAD_ALIGN,
    TRAILER_BYTES,
    FrameHeader,
    SegmentFoot,
    SegmentHead,
    foot_bytes,
    peek_format_version,
    unpack_foot,
    unpack_frame_header,
    unpack_head,
)

_HEAD_BYTES_MAX: Final = 64 * HEAD_ALIGN


@dataclass(slots=True)
class Tally:
    """What adds up while frames are written or walked."""

    offsets: array[int]
    """Where each frame begins, and where the last one ends."""
    record_count: int = 0
    first_time_ns: int = 0
    last_time_ns: int = 0
    snapshot_position: int = 0

    @classmethod
    def start(cls, offset: int) -> Tally:
        """No frame yet; the first will begin at this offset."""
        return cls(array("Q", (offset,)))

    @property
    def frame_count(self) -> int:
        """Frames so far."""
        return len(self.offsets) - 1

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offsets[-1]

    def add(self, header: FrameHeader) -> None:
        """Count one frame in."""
        if not self.frame_count:
            self.first_time_ns = header.time_ns
        self.last_time_ns = header.time_ns
        self.record_count += header.row_count
        if header.is_snapshot:
            self.snapshot_position = header.position
        self.offsets.append(self.end + header.size_bytes)

    def foot(self, marker: bytes) -> SegmentFoot:
        """What a sealed segment says."""
        return SegmentFoot(
            marker, self.offsets, self.record_count, self.first_time_ns, self.last_time_ns, self.snapshot_position
        )


@dataclass(slots=True)
class Segment:
    """A segment that readers may see. Belongs to the event loop, but for what never changes."""

    path: Path
    head: SegmentHead
    cipher: FrameCipher
    schema: pa.Schema
    frame_count: int = 0
    record_count: int = 0
    end: int = 0
    """Where its last frame ends."""
    first_time_ns: int = 0
    last_time_ns: int = 0
    snapshot_position: int = 0
    offsets: array[int] | None = field(default=None, repr=False)
    """While it is being written; a sealed one has them in its foot."""
    pin_count: int = 0
    """Reads under way."""
    disk: Disk = OS_DISK
    """Where its file is."""

    @property
    def first_position(self) -> int:
        """Of its first frame, also when there is none yet."""
        return self.head.first_position

    @property
    def last_position(self) -> int:
        """Of its last frame; one before the first when there is none."""
        return self.head.first_position + self.frame_count - 1

    def take(self, foot: SegmentFoot) -> None:
        """Know of these frames."""
        self.frame_count = foot.frame_count
        self.record_count = foot.record_count
        self.end = foot.offsets[-1]
        self.first_time_ns = foot.first_time_ns
        self.last_time_ns = foot.last_time_ns
        self.snapshot_position = foot.snapshot_position


def place(path: Path, offset: int, position: int | None = None) -> str:
    """How an error names a place."""
    at = f"journal segment {path.name}, offset {offset}"
    return at if position is None else f"{at}, position {position}"


def open_segment(path: Path, descriptor: int, key: RootKey, journal_id: bytes, disk: Disk = OS_DISK) -> Segment:
    """Read a segment's head.

    Raises:
        ConfigurationError: A newer version wrote it.
        CorruptionError: The head is damaged, or of another journal or segment.
    """
    data = disk.pread(descriptor, _HEAD_BYTES_MAX, 0)
    version = peek_format_version(data)
    if version is not None and version > FORMAT_VERSION:
        raise newer_format(f"segment {path.name}", version)
    head = unpack_head(data)
    if head is None:
        raise CorruptionError(place(path, 0), "the head of the segment is damaged")
    if head.journal_id != journal_id or head.sequence != int(path.stem):
        raise CorruptionError(place(path, 0), "the segment belongs to another journal, or was renamed")
    if head.schema_version > SCHEMA_VERSION:
        raise newer_format(f"segment {path.name} (records)", head.schema_version)
    cipher = FrameCipher(head, key, place=place(path, 0))
    schema = pa.ipc.read_schema(pa.py_buffer(head.schema))
    return Segment(path, head, cipher, schema, end=head.size_bytes, disk=disk)


def read_foot(descriptor: int, segment: Segment) -> SegmentFoot | None:
    """The foot of a sealed segment; None if it has none, or a damaged one."""
    disk = segment.disk
    size = disk.size(descriptor)
    if size < TRAILER_BYTES:
        return None
    wanted = foot_bytes(disk.pread(descriptor, TRAILER_BYTES, size - TRAILER_BYTES), segment.head.marker)
    if wanted is None or wanted > size:
        return None
    return unpack_foot(disk.pread(descriptor, wanted, size - wanted))


def walk(descriptor: int, segment: Segment, *, verify: bool, through: int | None = None) -> Tally:
    """Go from frame to frame, up to the first that isn't right.

    Args:
        descriptor: The open file.
        segment: Its head.
        verify: Decrypt each frame, too.
        through: Last position wanted; None: as far as there are frames.

    Returns:
        The frames that are right. Its `end` is where the first wrong one begins, if there is one.
    """
    disk = segment.disk
    size = disk.size(descriptor)
    tally = Tally.start(segment.head.size_bytes)
    body = bytearray()
    while True:
        if through is not None and segment.first_position + tally.frame_count > through:
            return tally
        packed = disk.pread(descriptor, FRAME_HEADER_BYTES, tally.end)
        header = unpack_frame_header(packed, segment.head.marker)
        if header is None or header.position != segment.first_position + tally.frame_count:
            return tally
        if tally.end + header.size_bytes > size or header.control_bytes < TAG_BYTES:
            return tally
        if verify:
            length = header.size_bytes - FRAME_HEADER_BYTES
            if len(body) < length:
                body = bytearray(length)
            view = memoryview(body)[:length]
            begin = tally.end + FRAME_HEADER_BYTES
            if not read_fully(disk, descriptor, view, begin) or not _is_whole(segment, header, view):
                return tally
        tally.add(header)


def _is_whole(segment: Segment, header: FrameHeader, body: memoryview) -> bool:
    try:
        segment.cipher.open_control(header, body[: header.control_bytes])
        if header.has_batch:
            segment.cipher.open_batch(header, body[header.control_bytes :])
    except UnsealError:
        return False
    return True


def load_offsets(descriptor: int, segment: Segment) -> array[int]:
    """Where the frames of a sealed segment begin, and where the last one ends."""
    foot = read_foot(descriptor, segment)
    return foot.offsets if foot is not None else walk(descriptor, segment, verify=False).offsets
