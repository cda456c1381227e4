"""Columns → the bytes of a binary COPY, and arrays that PostgreSQL answers with → columns. No loop runs per row.

A row of a binary COPY is the number of its fields, then each field's length and octets. Where all fields have fixed lengths, rows are a
structured array. Fields that vary are laid out by their offsets: for each column the places of its octets in the output are computed at once.

Source: PostgreSQL documentation, COPY, "Binary Format"; `array_send` in `utils/adt/arrayfuncs.c`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END: Final = b"\xff\xff"
PIECE_BYTES: Final = 256 * 1024
_ELEMENTS: Final = {width: np.dtype([("length", ">i4"), ("value", f">i{width}")]) for width in (2, 4, 8)}
Octets: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Integers: TypeAlias = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of varying length: `offsets` (count + 1) into `data`; `prefix` goes before each (agtype's version)."""

    offsets: np.ndarray[Any, np.dtype[np.int64]]
    data: Octets
    prefix: bytes = b""

    @classmethod
    def of(cls, column: pa.StringArray | pa.LargeStringArray, *, prefix: bytes = b"") -> Texts:
        """From Arrow; not copied. No nulls."""
        wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
        every = np.frombuffer(column.buffers()[1] or bytes(8), np.int64 if wide else np.int32)
        offsets = every[column.offset : column.offset + len(column) + 1].astype(np.int64)
        return cls(offsets, np.frombuffer(column.buffers()[2] or b"", np.uint8), prefix)


Fixed: TypeAlias = Integers | Octets
"""Integers of their own width, or octets, shape (row, width)."""
Column: TypeAlias = Fixed | Texts


def encode(columns: Sequence[Column]) -> Octets:
    """Rows of a binary COPY, without head and end. About 30 ns a fixed field and row, 5 ns an octet of a text.

    Args:
        columns: Of equal length, none of them null.
    """
    # Fixed fields up to a text, its length and prefix included, are pieces of one width.
    runs: list[tuple[Octets, Texts | None]] = []
    fixed: list[Fixed] = []
    for column in columns:
        if isinstance(column, Texts):
            runs.append((_run(fixed, column, lead=0 if runs else len(columns)), column))
            fixed = []
        else:
            fixed.append(column)
    if not runs:
        return _octets(_fixed(fixed, len(fixed[0]), lead=len(columns))).reshape(-1)
    if fixed:
        runs.append((_octets(_fixed(fixed, len(fixed[0]), lead=0)), None))
    return _interleave(runs)


async def send(connection: psycopg.AsyncConnection[tuple[Any, ...]], target: str, rows: Octets) -> None:
    """Copy encoded rows into a table, in pieces, between which others get their turn.

    Args:
        connection: Within a transaction.
        target: The table, and columns if not all; our own text.
        rows: From `encode`.
    """
    async with connection.cursor().copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as copy:
        for piece in pieces(rows):
            await copy.write(piece)


def pieces(rows: Octets) -> Iterator[bytes | memoryview]:
    """What to write to a COPY, in order."""
    yield HEAD
    view = memoryview(np.ascontiguousarray(rows).data)
    for begin in range(0, len(view), PIECE_BYTES):
        yield view[begin : begin + PIECE_BYTES]
    yield END


def array_octets(answer: bytes | None, width: int) -> Octets:
    """The elements of an array without nulls, as PostgreSQL sends it.

    Args:
        answer: The octets of the value; None: the array was null, as that of no rows is.
        width: Octets of an element.

    Returns:
        Shape (element, width).
    """
    if answer is None:
        return np.empty((0, width), np.uint8)
    dimensions = int.from_bytes(answer[:4], "big")
    elements = np.frombuffer(answer, np.uint8, offset=12 + 8 * dimensions)
    return elements.reshape(-1, 4 + width)[:, 4:]


def array_integers(answer: bytes | None, width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The same for integers of 2, 4 or 8 octets."""
    dimensions = 0 if answer is None else int.from_bytes(answer[:4], "big")
    if answer is None or not dimensions:
        return np.empty(0, np.int64)
    elements = np.frombuffer(answer, _ELEMENTS[width], offset=12 + 8 * dimensions)
    return elements["value"].astype(np.int64)


def _fixed(columns: Sequence[Fixed], count: int, *, lead: int) -> np.ndarray[Any, Any]:
    kinds = [(np.uint8, (one.shape[1],)) if one.ndim == 2 else (f">i{one.dtype.itemsize}",) for one in columns]
    fields: list[tuple[Any, ...]] = [("n", ">i2")] if lead else []
    for index, kind in enumerate(kinds):
        fields += [(f"l{index}", ">i4"), (f"c{index}", *kind)]
    rows = np.empty(count, fields)
    if lead:
        rows["n"] = lead
    for index, column in enumerate(columns):
        rows[f"l{index}"] = column.shape[1] if column.ndim == 2 else column.dtype.itemsize
        rows[f"c{index}"] = column
    return rows


def _octets(rows: np.ndarray[Any, Any]) -> Octets:
    return rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _run(fixed: Sequence[Fixed], text: Texts, *, lead: int) -> Octets:
    """Fixed fields, and the length and prefix of the text behind them; shape (row, width)."""
    count = len(text.offsets) - 1
    parts = [_octets(_fixed(fixed, count, lead=lead))] if fixed or lead else []
    lengths = (np.diff(text.offsets) + len(text.prefix)).astype(">i4")
    parts.append(lengths.view(np.uint8).reshape(count, 4))
    parts.append(np.broadcast_to(np.frombuffer(text.prefix, np.uint8), (count, len(text.prefix))))
    return np.concatenate(parts, axis=1)


def _interleave(runs: Sequence[tuple[Octets, Texts | None]]) -> Octets:
    """Row by row, run by run; Arrow's join copies whole runs, which NumPy could only do octet by octet."""
    columns = []
    for fixed, text in runs:
        offsets = np.arange(len(fixed) + 1, dtype=np.int64) * fixed.shape[1]
        columns.append(_binary(offsets, fixed))
        if text is not None:
            columns.append(_binary(text.offsets, text.data))
    joined = Texts.of(pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.large_binary())))
    return joined.data[joined.offsets[0] : joined.offsets[-1]]


def _binary(offsets: np.ndarray[Any, np.dtype[np.int64]], data: Octets) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
