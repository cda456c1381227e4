"""Octet-counted syslog frames (RFC 6587, section 3.4.1): `MSG-LEN SP SYSLOG-MSG`, one after the other.

Bytes that aren't a frame are passed over up to the next `MSG-LEN SP <PRI>` and become one error; a line end between
frames is ignored, since some senders put one there. Finding frames is a chain (each length says where the next one
begins), so it is a loop, of 0.4 µs a frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.domain.errors import RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX

NO_FRAME_REASON: Final = "bytes that aren't an octet-counted syslog frame"
OVERSIZE_REASON: Final = f"the frame is longer than {RECORD_BYTES_MAX} bytes"
CUT_REASON: Final = "the source ended in the middle of a frame"

_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,8}) ")
_START: Final = re.compile(rb"[1-9][0-9]{0,8} <[0-9]{1,3}>")
_START_BYTES_MAX: Final = 15
_LINE_ENDS: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames found in a buffer. Those with a problem have no message."""

    bounds: npt.NDArray[np.int64]
    """Shape (frame + 1,). Frame i is [bounds[i], bounds[i + 1]), its length included."""
    message_starts: npt.NDArray[np.int64]
    """Shape (frame,)."""
    problems: dict[int, str]

    @property
    def length(self) -> int:
        """Bytes of all whole frames."""
        return int(self.bounds[-1])


def complete_length(buffer: bytes, *, final: bool, frames_max: int | None = None) -> int:
    """How many leading bytes are whole frames (and garbage that has come to its end).

    Args:
        buffer: From the start of a frame.
        final: Nothing comes after the buffer: all of it is whole.
        frames_max: Most frames to take; None: all.

    Raises:
        RecordTooLargeError: The buffer begins with an unfinished frame (or garbage) over `RECORD_BYTES_MAX`:
            `oversize_prefix` tells how much to pass over.
    """
    length = find_frames(buffer, final=final, frames_max=frames_max).length
    if length == 0 and len(buffer) > RECORD_BYTES_MAX:
        raise RecordTooLargeError(len(buffer), RECORD_BYTES_MAX)
    return length


def oversize_prefix(buffer: bytes, *, final: bool) -> tuple[int, bool]:
    """After `RecordTooLargeError`: how many bytes to pass over, and whether the bad part then ends.

    A frame's length is known from its beginning: the count may go beyond the buffer, and what comes next is passed
    over to that extent, too.
    """
    match = _LENGTH.match(buffer)
    if match is not None:
        return match.end() + int(match[1]), True
    start = _START.search(buffer)
    if start is not None:
        return start.start(), True
    return (len(buffer), True) if final else (max(0, len(buffer) - _START_BYTES_MAX), False)


def find_frames(data: bytes, *, final: bool, frames_max: int | None = None) -> Frames:
    """Find the whole frames from the start of a buffer.

    Args:
        data: From the start of a frame.
        final: What is left at the end won't be completed, and is an error.
        frames_max: Most frames to find; None: all.
    """
    bounds, starts = [0], list[int]()
    problems: dict[int, str] = {}
    position, size = 0, len(data)
    while position < size and len(starts) != frames_max:
        match = _LENGTH.match(data, position)
        if match is not None:
            begin = match.end()
            end = begin + int(match[1])
            if end > size:
                if not final:
                    break
                problems[len(starts)] = CUT_REASON
                end = size
            elif end - position > RECORD_BYTES_MAX:
                problems[len(starts)] = OVERSIZE_REASON
        else:
            found = _START.search(data, position)
            if found is None and not final:
                break
            begin, end = position, found.start() if found is not None else size
            if data[begin:end].strip(_LINE_ENDS):
                problems[len(starts)] = NO_FRAME_REASON
        while end < size and data[end] in _LINE_ENDS:
            end += 1
        starts.append(begin)
        bounds.append(end)
        position = end
    return Frames(np.array(bounds, np.int64), np.array(starts, np.int64), problems)
