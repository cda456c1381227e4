"""Reading frames back from a segment, in a thread: one file, consecutive frames, errors as values."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
from google.protobuf.message import DecodeError

from heimdall_server.crypto.envelope import TAG_BYTES, UnsealError
from heimdall_server.domain.errors import CorruptionError, HeimdallError, NotFoundError, StoreError
from heimdall_server.ports.journal import Frame
from heimdall_server.storage.journal.control import decode_control
from heimdall_server.storage.journal.disk import read_fully
from heimdall_server.storage.journal.files import STORE
from heimdall_server.storage.journal.frame_cipher import decode_batch
from heimdall_server.storage.journal.framing import FRAME_HEADER_BYTES, FrameHeader, unpack_frame_header
from heimdall_server.storage.journal.segment import Segment, place

SHARD: Final = 0
"""An embedded journal has one."""
_CONTROL_GUESS_BYTES: Final = 4096
"""Header and control are read in one go up to this size."""


@dataclass(slots=True)
class Run:
    """Consecutive frames, and why there aren't more."""

    frames: list[Frame] = field(default_factory=list)
    error: HeimdallError | None = None


def gone(position: int) -> NotFoundError:
    """The error for frames that aren't held."""
    return NotFoundError("journal position", str(position))


def read_run(segment: Segment, offsets: Sequence[int], first_position: int, *, with_batch: bool) -> Run:
    """Read consecutive frames of a segment. Thread-safe, blocks.

    Args:
        segment: Only what never changes of it is used.
        offsets: Where each frame begins, and where the last one ends.
        first_position: Of the first frame.
        with_batch: Read the records, too; otherwise only the control is touched.

    Returns:
        The frames; fewer, with an error, if one is damaged or the file is gone.
    """
    run = Run()
    try:
        descriptor = segment.disk.open(segment.path, os.O_RDONLY)
    except FileNotFoundError:
        run.error = gone(first_position)
        return run
    except OSError as error:
        run.error = StoreError(STORE, f"open {segment.path.name}: {error.strerror}")
        return run
    scratch = bytearray(max(b - a for a, b in itertools.pairwise(offsets)) if with_batch else 0)
    try:
        for index, offset in enumerate(offsets[:-1]):
            position = first_position + index
            size = offsets[index + 1] - offset
            try:
                if with_batch:
                    frame = _read_whole(descriptor, segment, position, offset, memoryview(scratch)[:size])
                else:
                    frame = _read_control(descriptor, segment, position, offset, size)
            except (UnsealError, DecodeError, pa.ArrowInvalid) as error:
                run.error = CorruptionError(place(segment.path, offset, position), str(error))
                break
            except OSError as error:
                run.error = StoreError(STORE, f"read {segment.path.name}: {error.strerror}")
                break
            run.frames.append(frame)
    finally:
        segment.disk.close(descriptor)
    return run


def _header(segment: Segment, position: int, size: int, packed: memoryview | bytes) -> FrameHeader:
    header = unpack_frame_header(packed, segment.head.marker)
    if header is None or header.position != position or header.size_bytes != size or header.control_bytes < TAG_BYTES:
        msg = "the header of the frame is damaged"
        raise UnsealError(msg)
    return header


def _read_whole(descriptor: int, segment: Segment, position: int, offset: int, out: memoryview) -> Frame:
    if not read_fully(segment.disk, descriptor, out, offset):
        msg = "the file ends within the frame"
        raise UnsealError(msg)
    header = _header(segment, position, len(out), out[:FRAME_HEADER_BYTES])
    body = FRAME_HEADER_BYTES + header.control_bytes
    batch = None
    if header.has_batch:
        batch = decode_batch(segment.cipher.open_batch(header, out[body:]), segment.schema)
    entry = decode_control(segment.cipher.open_control(header, out[FRAME_HEADER_BYTES:body]), batch)
    return Frame(SHARD, position, header.time_ns, entry, header.size_bytes, header.row_count)


def _read_control(descriptor: int, segment: Segment, position: int, offset: int, size: int) -> Frame:
    data = segment.disk.pread(descriptor, min(size, _CONTROL_GUESS_BYTES), offset)
    header = _header(segment, position, size, data[:FRAME_HEADER_BYTES])
    sealed = bytearray(header.control_bytes)
    known = data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + header.control_bytes]
    sealed[: len(known)] = known
    rest = memoryview(sealed)[len(known) :]
    if not read_fully(segment.disk, descriptor, rest, offset + FRAME_HEADER_BYTES + len(known)):
        msg = "the file ends within the frame"
        raise UnsealError(msg)
    entry = decode_control(segment.cipher.open_control(header, memoryview(sealed)), None)
    return Frame(SHARD, position, header.time_ns, entry, header.size_bytes, header.row_count)
