r"""Where matches stand in the texts of a column, as arrays; read from texts in which a regex engine put marks.

Polars tells which texts match and replaces what matches, but not where. So a match is written back between marks, and where
those stand says, by arithmetic over the whole column, where the personal value stands in the text as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.protect.columns import Flags, Indices

BEFORE: Final = "\ue002"
"""Stands before what is kept of a match."""
START: Final = "\ue003"
"""Stands before the whole match."""
END: Final = "\ue004"
"""Stands behind the match."""
PLACE: Final = "\ue001"
"""Stands in place of a match."""
MARK_BYTES: Final = 3
_LEAD: Final = 0xEE
LEAD: Final = bytes((_LEAD,))
"""Begins every mark."""
_SECOND: Final = 0x80
_PLACE: Final = 0x81
_BEFORE: Final = 0x82
_END: Final = 0x84

Buffer = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Spans:
    """Pieces of a column's texts, by row and then by place; none overlaps another."""

    rows: Indices
    starts: Indices
    """In bytes from the text's beginning."""
    ends: Indices
    """Exclusive."""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, found: Iterable[tuple[int, int, int]]) -> Spans:
        """From rows, starts and ends."""
        table = np.array(list(found), np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    @classmethod
    def joined(cls, parts: Iterable[Spans]) -> Spans:
        """Spans of different rows as one."""
        parts = [part for part in parts if len(part)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of(())
        rows = np.concatenate([part.rows for part in parts])
        starts = np.concatenate([part.starts for part in parts])
        order = np.lexsort((starts, rows))
        return cls(rows[order], starts[order], np.concatenate([part.ends for part in parts])[order])

    def where(self, flags: Flags) -> Spans:
        """Some of them."""
        return Spans(self.rows[flags], self.starts[flags], self.ends[flags])

    def of_rows(self, rows: Indices) -> Spans:
        """The same where the rows have other numbers: row n was `rows[n]`, ascending."""
        return Spans(rows[self.rows], self.starts, self.ends)


def large(values: pl.Series) -> pa.Array:
    """A column as one array of large strings."""
    array = values.rechunk().to_arrow()
    return array if array.type == pa.large_string() else array.cast(pa.large_string())


def bytes_of(texts: pa.Array) -> tuple[Indices, Buffer]:
    """Offsets and bytes of an array of large strings; the offsets count from the first byte."""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if data is None:
        return offsets, np.empty(0, np.uint8)
    return offsets, np.frombuffer(data, np.uint8)[: offsets[-1]]


def holds(texts: pa.Array, *some: bytes) -> list[bool]:
    """Whether some bytes stand in any of the texts; for each."""
    data = bytes_of(texts)[1].tobytes()
    return [one in data for one in some]


def holding(texts: pa.Array, byte: bytes) -> Flags:
    """Which texts hold a byte."""
    offsets, data = bytes_of(texts)
    flags = np.zeros(len(texts), np.bool_)
    at = np.flatnonzero(data[int(offsets[0]) :] == ord(byte)) + int(offsets[0])
    flags[np.searchsorted(offsets, at, "right") - 1] = True
    return flags


def holding_marks(texts: pa.Array) -> Flags:
    """Which texts hold any mark themselves."""
    offsets, at = _found(texts, _PLACE, _END)
    flags = np.zeros(len(texts), np.bool_)
    flags[np.searchsorted(offsets, at, "right") - 1] = True
    return flags


def _found(texts: pa.Array, first: int, last: int) -> tuple[Indices, Indices]:
    """The texts' offsets, and where marks whose last byte is one of these stand in the bytes of the whole column."""
    offsets, data = bytes_of(texts)
    begin = int(offsets[0])
    at = np.flatnonzero(data[begin:] == _LEAD) + begin
    at = at[at + 2 < len(data)]
    return offsets, at[(data[at + 1] == _SECOND) & (data[at + 2] >= first) & (data[at + 2] <= last)]


def marked_spans(marked: pa.Array, closing_bytes: int) -> Spans:
    """Spans of values whose matches were written as `BEFORE`, what is kept, `START`, the whole match, `END`.

    Args:
        marked: Texts that held no mark before.
        closing_bytes: How much at a match's end stays.
    """
    offsets, at = _found(marked, _BEFORE, _END)
    rows = np.searchsorted(offsets, at[::3], "right") - 1
    before, start, end = (at[first::3] - offsets[rows] for first in range(3))
    kept = start - before - MARK_BYTES
    matched = end - start - MARK_BYTES
    # Each earlier match of the same row has put in three marks and what it keeps once more.
    put_in = np.cumsum(kept + 3 * MARK_BYTES) - (kept + 3 * MARK_BYTES)
    first_of_row = np.searchsorted(rows, rows, "left")
    original = before - (put_in - put_in[first_of_row]) if len(rows) else before
    return Spans(rows, original + kept, original + matched - closing_bytes)


def placed_spans(texts: pa.Array, placed: pa.Array, opening_bytes: int, closing_bytes: int) -> tuple[Spans, Indices]:
    """Spans of values in which each match was replaced by one mark.

    Args:
        texts: As they were.
        placed: With the marks. Texts that held marks before aren't among them.
        opening_bytes: Written before each mark, in place of nothing.
        closing_bytes: Written behind each mark in place of nothing, or negative: so much of the match stayed.

    Returns:
        Spans of the values with one mark, and the rows of those that have more.
    """
    offsets, at = _found(placed, _PLACE, _PLACE)
    rows = np.searchsorted(offsets, at, "right") - 1
    several = np.empty(0, np.int64)
    repeated = rows[1:] == rows[:-1]
    if repeated.any():
        several = np.unique(rows[1:][repeated])
        single = ~np.isin(rows, several)
        rows, at = rows[single], at[single]
    shorter = np.diff(bytes_of(texts)[0] - offsets)[rows]
    starts = at - offsets[rows] - opening_bytes
    return Spans(rows, starts, starts + shorter + (opening_bytes + max(closing_bytes, 0) + MARK_BYTES)), several


def spliced(texts: pa.Array, spans: Spans, inserts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Write something else in place of each span, without a copy of a text by itself.

    Args:
        texts: Large strings without nulls.
        spans: What goes.
        inserts: Large strings, one for each span, or one for all.

    Returns:
        The texts, and what stood in the spans.
    """
    offsets, _ = bytes_of(texts)
    count = len(spans)
    begins = offsets[spans.rows]
    # What stays, what goes, what stays, …, whatever texts it is of.
    bounds = np.empty(2 * count + 2, np.int64)
    bounds[0], bounds[-1] = offsets[0], offsets[-1]
    np.add(begins, spans.starts, out=bounds[1:-1:2])
    np.add(begins, spans.ends, out=bounds[2:-1:2])
    pieces = pa.LargeStringArray.from_buffers(2 * count + 1, pa.py_buffer(bounds), texts.buffers()[2])
    sequence = np.arange(2 * count + 1)
    taken = pieces.take(pa.array(sequence[1::2]))
    sequence[1::2] = len(pieces) + (0 if len(inserts) == 1 else sequence[:count])
    data = pa.concat_arrays([pieces, inserts]).take(pa.array(sequence)).buffers()[2]
    grown = np.zeros(count + 1, np.int64)
    np.cumsum(np.diff(bytes_of(inserts)[0]) - (spans.ends - spans.starts), out=grown[1:])
    ends = offsets - offsets[0]
    # By how much all that stands before the text's end has grown.
    ends[1:] += grown[np.searchsorted(spans.rows, np.arange(len(texts)), "right")]
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), data), taken
