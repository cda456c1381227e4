"""The bytes of a segment file: its head, the headers of its frames, and the foot of a sealed one.

Pure functions between bytes and values; who reads, writes and seals is told elsewhere.

    segment  = head · frame* · (foot | anything)
    head     = fixed part · Arrow schema message · zeros up to a multiple of 4,096
    frame    = header (64 bytes) · sealed control · sealed record batch
    foot     = offset of each frame and of the end · trailer

All numbers are little-endian. Each segment has a random *marker*, repeated in each of its headers: what a
reused file still holds of its former life never looks like a frame of the present one. The header names the
last position that was durable when it was written. So where a damaged frame is followed by a good one, it can
be told which it is: torn together with it by one crash (nothing was acknowledged), or damaged later.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import Final

import google_crc32c

from heimdall_server.crypto.envelope import WRAPPED_KEY_BYTES

FORMAT_VERSION: Final = 1
"""Of the directory, its segments and frames. A folder with a newer one is refused."""
HEAD_ALIGN: Final = 4096
MARKER_BYTES: Final = 8

_HEAD: Final = struct.Struct(f"<8sHHI16sQQq{MARKER_BYTES}s{WRAPPED_KEY_BYTES}sII")
_HEAD_MAGIC: Final = b"HMDLSEG\0"
_FRAME: Final = struct.Struct(f"<4sHH{MARKER_BYTES}sQqQIIIHHI")
_FRAME_MAGIC: Final = b"HMFR"
_TRAILER: Final = struct.Struct(f"<8sHH{MARKER_BYTES}sQQqqQQI")
_TRAILER_MAGIC: Final = b"HMDLEND\0"
_CRC: Final = struct.Struct("<I")

FRAME_HEADER_BYTES: Final = _FRAME.size + _CRC.size
TRAILER_BYTES: Final = _TRAILER.size + _CRC.size
MARKER_OFFSET: Final = 8
"""Of the marker within a frame header."""

_FLAG_SNAPSHOT: Final = 1
_FLAG_BATCH: Final = 2


def _crc(data: bytes | memoryview) -> int:
    return int(google_crc32c.value(bytes(data)))


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """What stands at the start of a segment."""

    journal_id: bytes
    """16 bytes."""
    sequence: int
    """Number of the segment, from 1; its file's name."""
    first_position: int
    created_ns: int
    marker: bytes
    wrapped_key: bytes
    schema_version: int
    schema: bytes
    """The Arrow schema message that all its batches follow."""
    format_version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        """Where the first frame begins."""
        return -(-(_HEAD.size + len(self.schema) + _CRC.size) // HEAD_ALIGN) * HEAD_ALIGN

    @property
    def context(self) -> bytes:
        """What binds the segment's key, and its frames, to this journal and segment."""
        return self.journal_id + self.sequence.to_bytes(8, "little")

    def pack(self) -> bytes:
        """The head's bytes, `size_bytes` of them."""
        fixed = _HEAD.pack(
            _HEAD_MAGIC,
            self.format_version,
            self.schema_version,
            self.size_bytes,
            self.journal_id,
            self.sequence,
            self.first_position,
            self.created_ns,
            self.marker,
            self.wrapped_key,
            len(self.schema),
            0,
        )
        body = fixed + self.schema
        return (body + _CRC.pack(_crc(body))).ljust(self.size_bytes, b"\0")


def peek_format_version(data: bytes) -> int | None:
    """The format version of a segment's first bytes, even of one too new for `unpack_head`; None: no segment."""
    if len(data) < _HEAD.size or data[:8] != _HEAD_MAGIC:
        return None
    return int.from_bytes(data[8:10], "little")


def unpack_head(data: bytes) -> SegmentHead | None:
    """Read a head.

    Args:
        data: The first bytes of a file; enough of them (the schema is a few KiB).

    Returns:
        The head; None if these bytes aren't one, or are damaged.
    """
    if len(data) < _HEAD.size:
        return None
    (magic, version, schema_version, size, journal_id, sequence, first, created, marker, key, schema_bytes, _) = (
        _HEAD.unpack_from(data)
    )
    end = _HEAD.size + schema_bytes
    if magic != _HEAD_MAGIC or len(data) < end + _CRC.size or _CRC.unpack_from(data, end)[0] != _crc(data[:end]):
        return None
    head = SegmentHead(
        journal_id, sequence, first, created, marker, key, schema_version, data[_HEAD.size : end], version
    )
    return head if head.size_bytes == size else None


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What stands before a frame's sealed blobs."""

    marker: bytes
    position: int
    time_ns: int
    durable_through: int
    """Last position that was durable when this frame was written."""
    control_bytes: int
    """Of the sealed control, tag included."""
    batch_bytes: int
    """Of the sealed batch, tag included; 0 where there is none."""
    row_count: int
    schema_version: int
    has_batch: bool
    is_snapshot: bool

    @property
    def size_bytes(self) -> int:
        """Of the whole frame."""
        return FRAME_HEADER_BYTES + self.control_bytes + self.batch_bytes

    def pack(self) -> bytes:
        """The header's 64 bytes."""
        fixed = _FRAME.pack(
            _FRAME_MAGIC,
            FORMAT_VERSION,
            (_FLAG_SNAPSHOT if self.is_snapshot else 0) | (_FLAG_BATCH if self.has_batch else 0),
            self.marker,
            self.position,
            self.time_ns,
            self.durable_through,
            self.control_bytes,
            self.batch_bytes,
            self.row_count,
            self.schema_version,
            0,
            0,
        )
        return fixed + _CRC.pack(_crc(fixed))


def unpack_frame_header(data: bytes | memoryview, marker: bytes) -> FrameHeader | None:
    """Read a frame header.

    Args:
        data: 64 bytes or more.
        marker: The segment's.

    Returns:
        The header; None if these bytes aren't one of this segment, or are damaged.
    """
    if len(data) < FRAME_HEADER_BYTES:
        return None
    magic, version, flags, found, position, time_ns, durable, control, batch, rows, schema_version, _, _ = (
        _FRAME.unpack_from(data)
    )
    crc = _CRC.unpack_from(data, _FRAME.size)[0]
    if magic != _FRAME_MAGIC or version != FORMAT_VERSION or found != marker or crc != _crc(data[: _FRAME.size]):
        return None
    return FrameHeader(
        marker=found,
        position=position,
        time_ns=time_ns,
        durable_through=durable,
        control_bytes=control,
        batch_bytes=batch,
        row_count=rows,
        schema_version=schema_version,
        has_batch=bool(flags & _FLAG_BATCH),
        is_snapshot=bool(flags & _FLAG_SNAPSHOT),
    )


@dataclass(frozen=True, slots=True)
class SegmentFoot:
    """What a sealed segment says about itself, so that opening it costs one read."""

    marker: bytes
    offsets: array[int]
    """Unsigned 64 bit: where each frame begins, and where the last one ends."""
    record_count: int
    first_time_ns: int
    """Of the first frame; 0 without frames."""
    last_time_ns: int
    snapshot_position: int
    """Of the last snapshot frame; 0: none."""

    @property
    def frame_count(self) -> int:
        """Frames of the segment."""
        return len(self.offsets) - 1

    def pack(self) -> bytes:
        """The foot's bytes, to stand right behind the last frame."""
        index = self.offsets.tobytes()
        trailer = _TRAILER.pack(
            _TRAILER_MAGIC,
            FORMAT_VERSION,
            0,
            self.marker,
            self.frame_count,
            self.record_count,
            self.first_time_ns,
            self.last_time_ns,
            self.snapshot_position,
            self.offsets[-1],
            0,
        )
        return index + trailer + _CRC.pack(_crc(index + trailer))


def foot_bytes(trailer: bytes, marker: bytes) -> int | None:
    """The size of the foot that these last bytes of a file belong to.

    Returns:
        Bytes up to the end of the file; None if these aren't the end of a sealed segment with this marker.
    """
    if len(trailer) != TRAILER_BYTES:
        return None
    magic, version, _, found, frame_count = _TRAILER.unpack_from(trailer)[:5]
    if magic != _TRAILER_MAGIC or version != FORMAT_VERSION or found != marker:
        return None
    return int(frame_count + 1) * 8 + TRAILER_BYTES


def unpack_foot(data: bytes) -> SegmentFoot | None:
    """Read a foot of the size that `foot_bytes` told.

    Returns:
        The foot; None if it is damaged.
    """
    if len(data) < TRAILER_BYTES + 8 or _CRC.unpack_from(data, len(data) - _CRC.size)[0] != _crc(data[: -_CRC.size]):
        return None
    _, _, _, marker, _, records, first_time, last_time, snapshot, end, _ = _TRAILER.unpack_from(
        data, len(data) - TRAILER_BYTES
    )
    offsets: array[int] = array("Q")
    offsets.frombytes(data[:-TRAILER_BYTES])
    if offsets[-1] != end:
        return None
    return SegmentFoot(marker, offsets, records, first_time, last_time, snapshot)
