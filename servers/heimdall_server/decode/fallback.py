"""What becomes of lines that a columnar decoder refuses: found one by one, in the chunk that holds them only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.domain.decoding import RowError
from heimdall_server.domain.records import RECORD_BYTES_MAX

Explain = Callable[[bytes], tuple[str, str]]
"""A refused line → (reason without the line's values, field or "")."""

EXPLAINED_MAX: Final = 1000
"""Refused records of a chunk that get a diagnosis of their own: it is slow, and holds the GIL."""


def is_utf8(chunk: bytes) -> bool:
    """Whether bytes are UTF-8. Some GB/s, without the GIL, without a copy."""
    bounds = pa.py_buffer(np.array([0, len(chunk)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, bounds, pa.py_buffer(chunk)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def invalid_utf8(chunk: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which lines of a chunk aren't UTF-8.

    Args:
        chunk: The bytes.
        starts: Offset of each line.
        ends: Offset behind each line; lines ascend and don't overlap.
    """
    bad = np.zeros(len(starts), np.bool_)
    if is_utf8(chunk):
        return bad
    for line, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        try:
            chunk[start:end].decode()
        except UnicodeDecodeError:
            bad[line] = True
    return bad


def row_errors(
    chunk: bytes,
    rows: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    explain: Explain,
) -> list[RowError]:
    """Say what is wrong with each refused line.

    Args:
        chunk: The bytes that the offsets count in.
        rows: Index of each refused record among the chunk's records.
        starts: Offset of each refused record.
        ends: Offset behind it, its line end not counted.
        explain: The format's own diagnosis. What is true of any format is said here: too long, not UTF-8.
    """
    errors: list[RowError] = []
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        raw = chunk[start : min(end, start + RECORD_BYTES_MAX)]
        if len(errors) < EXPLAINED_MAX:
            reason, field = _any_format(raw, end - start) or explain(raw)
        else:
            reason, field = f"malformed, as the {EXPLAINED_MAX} records refused before it", ""
        errors.append(RowError(row=row, offset=start, reason=reason, field=field, raw=raw))
    return errors


def _any_format(raw: bytes, size: int) -> tuple[str, str] | None:
    if size > RECORD_BYTES_MAX:
        return f"a record of {size} bytes is over the limit of {RECORD_BYTES_MAX}", ""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the record", ""
    return None
