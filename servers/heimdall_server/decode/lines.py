"""Cutting bytes into lines and lines into records, for formats whose records begin at the start of a line.

The same rules decide where a stream may be cut (`complete_length`) and how a chunk is cut (`split`), and each
looks at one line and at bytes after the record's start only, so that any cut gives the same records:

1. A line begins a record if the caller's test says so.
2. A line over `RECORD_BYTES_MAX` is a record of its own, and so begins what follows it.
3. A record that lines are joined to ends before the line with which it would pass `RECORD_BYTES_MAX`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.domain.errors import RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX

OVERSIZE_REASON: Final = f"the line is longer than {RECORD_BYTES_MAX} bytes"
_NEWLINE: Final = 10
_TAIL_BYTES: Final = 32 * 1024

StartTest = Callable[[pl.Series], npt.NDArray[np.bool_]]
"""Lines (with their line ends) → which of them begin a record."""
_Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Records:
    """A chunk cut into records."""

    text: pl.Series
    """Shape (record,). Each record's lines with their line ends; invalid bytes replaced by U+FFFD."""
    offsets: _Offsets
    """Shape (record + 1,). Bytes of the chunk: record i is [offsets[i], offsets[i + 1])."""
    head_sizes: _Offsets
    """Shape (record,). Bytes of the first line, its line end included, in `text`."""
    damaged: npt.NDArray[np.bool_]
    """Shape (record,). Held bytes that aren't UTF-8."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Records that can't be read → reason."""

    def __len__(self) -> int:
        return len(self.text)

    def heads(self) -> pl.Series:
        """Each record's first line without its line end."""
        raw = self.text
        if (self.head_sizes != raw.str.len_bytes().to_numpy()).any():
            raw = sliced(raw, pl.lit(0), pl.Series(self.head_sizes))
        return raw.str.strip_chars_end("\r\n")

    def rests(self, skipped: pl.Series | None = None) -> pl.Series:
        """What follows, without the last line ends.

        Args:
            skipped: Bytes to leave out at each record's beginning; None: the first line.
        """
        offset = pl.Series(self.head_sizes) if skipped is None else skipped
        return joined_lines(sliced(self.text, offset, None))

    def without_prefix(self, sizes: pl.Series) -> Records:
        """The records without bytes at their beginning (that `offsets` go on counting)."""
        left = np.maximum(self.head_sizes - sizes.to_numpy(), 0)
        return replace(self, text=sliced(self.text, sizes, None), head_sizes=left)

    def only(self, rows: npt.NDArray[np.intp]) -> Records:
        """Some of the records, none of which has a problem; `offsets` is then only where they begin."""
        return Records(
            self.text.gather(rows),
            np.append(self.offsets[:-1][rows], self.offsets[-1]),
            self.head_sizes[rows],
            self.damaged[rows],
        )


def joined_lines(text: pl.Series) -> pl.Series:
    """The text without the line ends at its end, and with plain ones inside."""
    stripped = text.str.strip_chars_end("\r\n")
    inner = stripped.str.contains("\r\n", literal=True)
    return stripped.str.replace_all("\r\n", "\n", literal=True) if inner.any() else stripped


def sliced(text: pl.Series, offset: pl.Series | pl.Expr, length: pl.Series | None) -> pl.Series:
    """Slices by bytes, at characters' edges (polars' own slice of strings counts characters)."""
    frame = text.alias("text").to_frame()
    start = offset if isinstance(offset, pl.Expr) else pl.lit(offset)
    cut = pl.col("text").cast(pl.Binary).bin.slice(start, None if length is None else pl.lit(length))
    return frame.select(cut.cast(pl.String)).to_series()


def line_ends(data: bytes) -> _Offsets:
    """Where each line ends, its line end included; what follows the last newline is a line, too."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    if len(data) and (not ends.size or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    return ends.astype(np.int64, copy=False)


def text_column(data: bytes, offsets: _Offsets) -> pl.Series:
    """Slices of UTF-8 bytes as a column of strings, without copying them.

    Args:
        data: Valid UTF-8; the cuts lie between characters.
        offsets: Shape (row + 1,).
    """
    array = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    column = pl.from_arrow(array)
    if not isinstance(column, pl.Series):
        msg = "an Arrow array became no Series"
        raise TypeError(msg)
    return column


def same_size_text(data: bytes) -> tuple[bytes, bool]:
    """The bytes with what isn't UTF-8 replaced byte by byte (so that offsets hold), and whether anything was."""
    if data.isascii():
        return data, False
    try:
        data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="surrogateescape")
        return "".join("?" if "\udc80" <= char <= "\udcff" else char for char in text).encode(), True
    return data, False


def complete_length(buffer: bytes, begins: StartTest, *, final: bool) -> int:
    """How many leading bytes are whole records.

    The last record is held until the next one begins, since a line may still join it.

    Args:
        buffer: From the start of a record.
        begins: Tells the lines that begin one.
        final: Nothing comes after the buffer.

    Raises:
        RecordTooLargeError: The buffer begins with an unfinished line over `RECORD_BYTES_MAX`:
            `oversize_prefix` tells how much to pass over.
    """
    if final or not buffer:
        return len(buffer)
    cut = _last_start(buffer, begins)
    if cut == 0 and len(buffer) > RECORD_BYTES_MAX:
        raise RecordTooLargeError(len(buffer), RECORD_BYTES_MAX)
    return cut


def oversize_prefix(buffer: bytes, *, final: bool) -> tuple[int, bool]:
    """After `RecordTooLargeError`: how many leading bytes belong to the line, and whether it ends there.

    The caller drops them (but for what goes to the dead letters) and asks again with what comes next,
    until it ends. So one endless line is one error, and memory is bounded.
    """
    newline = buffer.find(b"\n")
    if newline >= 0:
        return newline + 1, True
    return len(buffer), final


def split(chunk: bytes, begins: StartTest) -> Records:
    """Cut a chunk of whole records.

    Args:
        chunk: As `complete_length` cut it.
        begins: The same test.
    """
    text, _ = same_size_text(chunk)
    ends = line_ends(text)
    if not ends.size:
        return cut(chunk, np.zeros(1, np.int64))
    bounds = _with_zero(ends)
    first_lines = np.flatnonzero(_starts(ends, begins(text_column(text, bounds))))
    offsets = np.append(bounds[first_lines], len(chunk))
    # Only a single line can be so long: rule 3 cut what was joined.
    long = np.flatnonzero(np.diff(offsets) > RECORD_BYTES_MAX)
    return cut(chunk, offsets, ends[first_lines], dict.fromkeys(long.tolist(), OVERSIZE_REASON))


def cut(
    chunk: bytes, offsets: _Offsets, first_ends: _Offsets | None = None, problems: Mapping[int, str] | None = None
) -> Records:
    """Make records of known bounds.

    Args:
        chunk: The bytes.
        offsets: Shape (record + 1,). From 0 to the chunk's end.
        first_ends: Shape (record,). Where each record's first line ends; None: it has but one.
        problems: Records that can't be read.
    """
    first_sizes = np.diff(offsets) if first_ends is None else first_ends - offsets[:-1]
    reasons = problems or {}
    if chunk.isascii() or _is_utf8(chunk):
        clean = np.zeros(len(first_sizes), np.bool_)
        return Records(text_column(chunk, offsets), offsets, first_sizes, clean, reasons)
    pieces = [chunk[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]
    damaged = np.array([not _is_utf8(piece) for piece in pieces], np.bool_)
    sizes = first_sizes.copy()
    for row in np.flatnonzero(damaged).tolist():
        sizes[row] = len(pieces[row][: sizes[row]].decode(errors="replace").encode())
    text = pl.Series([piece.decode(errors="replace") for piece in pieces], dtype=pl.String)
    return Records(text, offsets, sizes, damaged, reasons)


def _with_zero(ends: _Offsets) -> _Offsets:
    out = np.zeros(len(ends) + 1, np.int64)
    out[1:] = ends
    return out


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _last_start(buffer: bytes, begins: StartTest) -> int:
    tail_from = buffer.find(b"\n", max(0, len(buffer) - _TAIL_BYTES)) + 1
    if tail_from > 0:
        # A line that the test takes for a start is one whatever stands before it: no need to look further.
        tail = buffer[tail_from:]
        cut = _last_start_in(tail, begins, first_begins=False)
        if cut >= 0:
            return tail_from + cut
    return _last_start_in(buffer, begins, first_begins=True)


def _last_start_in(buffer: bytes, begins: StartTest, *, first_begins: bool) -> int:
    """Offset of the last start; -1 if none (only where the first line needn't be one)."""
    text, _ = same_size_text(buffer)
    ends = line_ends(text)
    if not ends.size:
        return 0 if first_begins else -1
    unfinished = not buffer.endswith(b"\n")
    mask = begins(text_column(text, _with_zero(ends)))
    if unfinished:
        # Its beginning may look like a start and its whole not, or the other way round.
        mask[-1] = False
    if not first_begins:
        starts = np.flatnonzero(mask)
        return int(_with_zero(ends)[starts[-1]]) if starts.size else -1
    starts = np.flatnonzero(_starts(ends, mask))
    last = int(_with_zero(ends)[starts[-1]])
    if not unfinished and len(buffer) - int(_with_zero(ends)[-2]) > RECORD_BYTES_MAX:
        return len(buffer)
    return last


def _starts(ends: _Offsets, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Apply the rules: the first line begins a record, and so do long ones and what would make records too long."""
    starts = mask.copy()
    if not starts.size:
        return starts
    starts[0] = True
    sizes = np.diff(_with_zero(ends))
    long = sizes > RECORD_BYTES_MAX
    if long.any():
        starts |= long
        starts[1:] |= long[:-1]
    begins_at = _with_zero(ends)
    first_lines = np.flatnonzero(starts)
    bounds = np.append(begins_at[first_lines], ends[-1])
    for index in np.flatnonzero(np.diff(bounds) > RECORD_BYTES_MAX).tolist():
        line, end = int(first_lines[index]), int(bounds[index + 1])
        while end - int(begins_at[line]) > RECORD_BYTES_MAX and not long[line]:
            line = int(np.searchsorted(ends, begins_at[line] + RECORD_BYTES_MAX, side="right"))
            starts[line] = True
    return starts
