"""Small conversions between Arrow columns and NumPy arrays, and of any scalar column to text."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.records import SAFE_INTEGER_MAX

_CELLS_MAX: Final = 1 << 24
"""Cells (rows by keys) that a table may have which finds repeated keys; beyond it they are found by sorting."""


def bools(values: pa.Array) -> npt.NDArray[np.bool_]:
    """A boolean column as an array; null is False."""
    known = pc.fill_null(values, fill_value=False) if values.null_count else values
    out: npt.NDArray[np.bool_] = known.to_numpy(zero_copy_only=False)
    return out


def int64s(values: pa.Array) -> npt.NDArray[np.int64]:
    """An integer (or integer-like) column as an array; null is 0."""
    plain = values if pa.types.is_int64(values.type) else values.cast(pa.int64())
    out: npt.NDArray[np.int64] = (pc.fill_null(plain, 0) if plain.null_count else plain).to_numpy()
    return out


def byte_lengths(values: pa.StringArray) -> npt.NDArray[np.int32]:
    """The bytes of each text; there are no nulls."""
    if not len(values):
        return np.zeros(0, np.int32)
    ends = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return np.diff(ends)


def float64s(values: pa.Array) -> npt.NDArray[np.float64]:
    """A Float64 column as an array; null is NaN."""
    out: npt.NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
    return out


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's three string layouts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is an integer or a float."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def plain(values: pa.Array) -> pa.Array:
    """A column without dictionary encoding and in the string layout of the record schema."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return plain(values.cast(kind.value_type))
    if is_text(kind) and not pa.types.is_string(kind):
        return values.cast(pa.string())
    return values


def text(values: pa.Array) -> pa.Array:
    """A scalar column as text, as JSON would write it; null stays null.

    Args:
        values: Text, boolean, number, decimal, time, binary (must be UTF-8) or null.
    """
    values = plain(values)
    if pa.types.is_string(values.type):
        return values
    if not pa.types.is_floating(values.type):
        return values.cast(pa.string())
    number = values.cast(pa.float64())
    whole = pc.and_(pc.less_equal(pc.abs(number), float(SAFE_INTEGER_MAX)), pc.equal(pc.floor(number), number))
    integers = pc.if_else(pc.fill_null(whole, fill_value=False), number, 0.0).cast(pa.int64()).cast(pa.string())
    return pc.if_else(pc.fill_null(whole, fill_value=False), integers, number.cast(pa.string()))


def first_valid(columns: list[pa.Array]) -> pa.Array:
    """Row by row the first value that isn't null; the columns have one type."""
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


def last_of_each(rows: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], key_count: int) -> npt.NDArray[np.bool_]:
    """Which pairs aren't followed by another one of the same row and key.

    Args:
        rows: Ascending.
        keys: Numbers from 0.
        key_count: More than any of `keys`.
    """
    count = len(rows)
    if not count:
        return np.ones(0, np.bool_)
    cell = rows * key_count + keys
    size = (int(rows[-1]) + 1) * key_count
    if size <= _CELLS_MAX:
        # NumPy assigns in order: the last one stays.
        ordinal = np.arange(count, dtype=np.int32)
        last = np.empty(size, np.int32)
        last[cell] = ordinal
        out: npt.NDArray[np.bool_] = last[cell] == ordinal
        return out
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    keep = np.ones(count, np.bool_)
    keep[order[:-1]] = ordered[:-1] != ordered[1:]
    return keep
