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
MARK_BYTES: Final = 3
_LEAD: Final = 0xEE
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


def marks(texts: pa.Array, first: int, last: int) -> tuple[Indices, Indices]:
    """Some of this package's private-use marks in a column: their rows, and their places in the row.

    Args:
        texts: Large strings.
        first: The last byte of the first mark that counts.
        last: Of the last one.
    """
    offsets, at = _found(texts, first, last)
    rows = np.searchsorted(offsets, at, "right") - 1
    return rows, at - offsets[rows]


def _found(texts: pa.Array, first: int, last: int) -> tuple[Indices, Indices]:
    """The texts' offsets, and where marks stand in the bytes of the whole column."""
    offsets, data = bytes_of(texts)
    begin = int(offsets[0])
    at = np.flatnonzero(data[begin:] == _LEAD) + begin
    at = at[at + 2 < len(data)]
    return offsets, at[(data[at + 1] == _SECOND) & (data[at + 2] >= first) & (data[at + 2] <= last)]


def holding_marks(texts: pa.Array) -> Flags:
    """Which texts hold any mark themselves."""
    flags = np.zeros(len(texts), np.bool_)
    flags[marks(texts, _PLACE, _END)[0]] = True
    return flags


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
    rows, places = marks(placed, _PLACE, _PLACE)
    counts = np.bincount(rows, minlength=len(texts))
    single = counts[rows] == 1
    rows, places = rows[single], places[single]
    shorter = np.diff(bytes_of(texts)[0])[rows] - np.diff(bytes_of(placed)[0])[rows]
    added = opening_bytes + max(closing_bytes, 0) + MARK_BYTES
    starts = places - opening_bytes
    return Spans(rows, starts, starts + shorter + added), np.flatnonzero(counts > 1)


def spliced(texts: pa.Array, spans: Spans, inserts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Write something else in place of each span, without a copy of a text by itself.

    Args:
        texts: Large strings without nulls.
        spans: What goes.
        inserts: Large strings, one for each span.

    Returns:
        The texts, and what stood in the spans.
    """
    offsets, _ = bytes_of(texts)
    count, total = len(spans), len(texts)
    numbers = np.arange(count)
    before = spans.rows + numbers
    """The kept piece in front of each span; a text has one piece more than spans."""
    firsts = np.arange(total + 1)
    firsts[1:] += np.cumsum(np.bincount(spans.rows, minlength=total))
    bounds = np.empty((count + total, 2), np.int64)
    bounds[firsts[:-1], 0] = offsets[:-1]
    bounds[firsts[1:] - 1, 1] = offsets[1:]
    bounds[before, 1] = offsets[spans.rows] + spans.starts
    bounds[before + 1, 0] = offsets[spans.rows] + spans.ends
    pieces = pa.LargeStringArray.from_buffers(
        2 * (count + total) - 1, pa.py_buffer(bounds.reshape(-1)), texts.buffers()[2]
    )
    taken = pieces.take(pa.array(2 * before + 1))
    # In the order in which they are written: piece, insert, piece, …; a text begins where its first piece does.
    sequence = np.empty(2 * count + total, np.int64)
    behind = np.zeros(count + total, np.int64)
    behind[before + 1] = 1
    at = np.arange(count + total) + np.cumsum(behind)
    sequence[at] = 2 * np.arange(count + total)
    sequence[before + numbers + 1] = len(pieces) + numbers
    joined = pa.concat_arrays([pieces, inserts]).take(pa.array(sequence))
    ends, data = joined.buffers()[1:]
    starts = np.append(at[firsts[:-1]], len(sequence))
    whole = np.frombuffer(ends, np.int64)[: len(sequence) + 1][starts]
    return pa.LargeStringArray.from_buffers(total, pa.py_buffer(whole), data), taken
