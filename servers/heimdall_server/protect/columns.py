"""Columns as the protector works on them: maps taken apart into flat arrays, texts of a row joined for a gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_NO_OFFSETS = np.zeros(1, np.int32)


@dataclass(frozen=True, slots=True)
class FlatMap:
    """A map column as three arrays."""

    offsets: npt.NDArray[np.int32]
    """Shape (rows + 1,); the first is 0."""
    keys: pa.StringArray
    items: pa.Array
    kind: pa.MapType

    @classmethod
    def of(cls, column: pa.MapArray) -> FlatMap:
        """Take a column apart. Copies nothing but offsets; a slice of a longer column is fine."""
        offsets = column.offsets.to_numpy(zero_copy_only=False)
        first, last = int(offsets[0]), int(offsets[-1])
        return cls(
            offsets if first == 0 else offsets - offsets[0],
            column.keys.slice(first, last - first),
            column.items.slice(first, last - first),
            column.type,
        )

    def __len__(self) -> int:
        return len(self.items)

    def column(self) -> pa.MapArray:
        """Put the column together again."""
        return pa.MapArray.from_arrays(pa.array(self.offsets, pa.int32()), self.keys, self.items, type=self.kind)

    def rows(self) -> Indices:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def entries(self, in_rows: Flags) -> Indices:
        """Indices of the entries of the flagged rows."""
        return np.flatnonzero(np.repeat(in_rows, np.diff(self.offsets)))

    def with_items(self, items: pa.Array) -> FlatMap:
        """The same keys with other items."""
        return FlatMap(self.offsets, self.keys, items, self.kind)

    def without(self, entries: Indices) -> FlatMap:
        """Remove entries.

        Args:
            entries: Their indices, distinct.
        """
        kept = np.ones(len(self), np.bool_)
        kept[entries] = False
        counts = np.concatenate(([0], np.cumsum(kept, dtype=np.int32))).astype(np.int32)
        flags = pa.array(kept)
        return FlatMap(counts[self.offsets], self.keys.filter(flags), self.items.filter(flags), self.kind)

    def with_keys(self, keys: pa.StringArray) -> FlatMap:
        """The same items under other keys."""
        return FlatMap(self.offsets, keys, self.items, self.kind)

    def with_entries(self, rows: Indices, keys: pa.Array, items: pa.Array) -> tuple[FlatMap, Indices]:
        """Add entries behind those that their rows have.

        Returns:
            The map, and where its entries are now: first those that were there, then the added ones.
        """
        all_rows = np.concatenate((self.rows(), rows))
        order = np.argsort(all_rows, kind="stable")
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        counts = np.bincount(all_rows, minlength=len(self.offsets) - 1)
        grown = FlatMap(
            np.concatenate(([0], np.cumsum(counts))).astype(np.int32),
            pa.concat_arrays([self.keys, keys]).take(pa.array(order)),
            pa.concat_arrays([self.items, items]).take(pa.array(order)),
            self.kind,
        )
        return grown, places


def joined_by_row(strings: pa.StringArray, offsets: npt.NDArray[np.int32]) -> pa.StringArray:
    """All strings of a row as one, without copying them.

    What is found, unanchored, in one of the strings is found in the joined one. Searching a few long texts is
    several times cheaper than many short ones.

    Args:
        strings: Without nulls.
        offsets: Where each row's strings begin; shape (rows + 1,).
    """
    _, ends, data = strings.buffers()
    bounds = np.frombuffer(ends, np.int32)[strings.offset : strings.offset + len(strings) + 1][offsets]
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(bounds), data)


def string_bytes(strings: pa.StringArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Offsets and bytes of an array; the offsets count from the first byte."""
    _, ends, data = strings.buffers()
    offsets = np.frombuffer(ends, np.int32)[strings.offset : strings.offset + len(strings) + 1] if ends else _NO_OFFSETS
    return offsets, np.frombuffer(data, np.uint8)[: offsets[-1]] if data else np.empty(0, np.uint8)


def text_bytes(strings: pa.StringArray) -> int:
    """Bytes of all strings of an array."""
    if not len(strings):
        return 0
    ends = np.frombuffer(strings.buffers()[1], np.int32)
    return int(ends[strings.offset + len(strings)] - ends[strings.offset])


def gather(strings: pa.StringArray, indices: Indices) -> pl.Series:
    """Some of an array's strings."""
    return pl.Series("", strings.take(pa.array(indices)), pl.String)


def scattered(strings: pa.StringArray, indices: Indices, values: pl.Series) -> pa.StringArray:
    """An array in which some strings are replaced.

    Args:
        strings: Without nulls.
        indices: Ascending, distinct.
        values: As many, without nulls.
    """
    order = np.arange(len(strings))
    order[indices] = np.arange(len(strings), len(strings) + len(indices))
    written = values.to_arrow().cast(pa.string())
    return pa.concat_arrays([strings, written]).take(pa.array(order))
