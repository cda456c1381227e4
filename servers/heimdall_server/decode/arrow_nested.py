"""Columns of a foreign Arrow schema → the flat, typed columns that the mapping and the attribute maps take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.domain.errors import RecordTooLargeError
from heimdall_server.domain.records import ATTRIBUTE_KEY_BYTES_MAX

DEPTH_MAX: Final = 64
_EXACT_DECIMAL_DIGITS: Final = 15
"""Decimals of up to so many digits are told apart as Float64."""
_VIEW_WORDS: Final = 4
_UNIT_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def flat(name: str, values: pa.Array, *, size_bytes_max: int, depth: int = 0) -> Iterator[tuple[str, pa.Array]]:
    """Take a column apart: structs become dotted names, what the maps don't hold becomes text.

    Args:
        name: Dotted name of the column.
        values: Any type. Maps with text keys stay maps.
        size_bytes_max: Bound on what a dictionary, a view or runs may expand to.
        depth: Levels of structs above.

    Returns:
        Text, number, boolean, timestamp, date, binary or map columns, with nulls.

    Raises:
        RecordTooLargeError: The column expands beyond the bound.
    """
    values = _unwrapped(values, size_bytes_max)
    kind = values.type
    if pa.types.is_null(kind):
        return
    # Under a name that could be no attribute's it is kept whole, as from JSON: long names times many fields would be
    # far more than was sent.
    named = len(name.encode()) < ATTRIBUTE_KEY_BYTES_MAX
    if pa.types.is_struct(kind) and depth < DEPTH_MAX and kind.num_fields and named:
        names = [kind.field(index).name for index in range(kind.num_fields)]
        for child, column in zip(names, values.flatten(), strict=True):
            yield from flat(f"{name}.{child}", column, size_bytes_max=size_bytes_max, depth=depth + 1)
        return
    yield name, _held(values)


def scalar(values: pa.Array, *, size_bytes_max: int) -> pa.Array:
    """A column as text, numbers or booleans; whatever is nested becomes JSON text.

    Args:
        values: Any type.
        size_bytes_max: As for `flat`.

    Raises:
        RecordTooLargeError: The column expands beyond the bound.
    """
    values = _unwrapped(values, size_bytes_max)
    return as_attribute(_json_text(values) if pa.types.is_nested(values.type) else _held(values))


def _held(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_map(kind):
        return values if arrays.is_text(kind.key_type) else _json_text(values)
    if pa.types.is_nested(kind):
        return _json_text(values)
    if pa.types.is_decimal(kind):
        number = kind.precision <= _EXACT_DECIMAL_DIGITS
        return values.cast(pa.float64(), safe=False) if number else values.cast(pa.string())
    if pa.types.is_duration(kind):
        return pc.multiply(values.cast(pa.int64()).cast(pa.float64(), safe=False), _UNIT_S[kind.unit])
    if pa.types.is_float16(kind):
        return values.cast(pa.float64())
    if pa.types.is_time(kind):
        return values.cast(pa.string())
    if pa.types.is_interval(kind):
        return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
    return values


def as_attribute(values: pa.Array) -> pa.Array:
    """A column as an attribute map holds it: timestamps, dates and bytes become text.

    Args:
        values: What `flat` yields, except maps.
    """
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind):
        raw = values.cast(pa.binary())
        try:
            return raw.cast(pa.string())
        except pa.ArrowInvalid:
            # Judged value by value, so that it doesn't matter what stands beside a value.
            return pa.array([_text_or_hex(value) for value in raw.to_pylist()], pa.string())
    return values


def _text_or_hex(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value.hex() if value is not None else None


def _unwrapped(values: pa.Array, size_bytes_max: int) -> pa.Array:
    """Without extension types, runs, dictionaries and views."""
    while True:
        kind = values.type
        if isinstance(kind, pa.BaseExtensionType):
            values = values.storage
        elif pa.types.is_run_end_encoded(kind):
            _check(pc.run_end_decode(_widths(values.values, values.run_ends, len(values))), size_bytes_max)
            values = pc.run_end_decode(values)
        elif pa.types.is_dictionary(kind):
            _check(_lengths(values.dictionary).take(values.indices), size_bytes_max)
            values = values.dictionary.take(values.indices)
        elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            _check(_lengths(values), size_bytes_max)
            values = values.cast(pa.string() if pa.types.is_string_view(kind) else pa.binary())
        elif pa.types.is_large_string(kind):
            values = values.cast(pa.string())
        else:
            return values


def _widths(values: pa.Array, run_ends: pa.Array, count: int) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(run_ends, _lengths(values)).slice(0, count)


def _lengths(values: pa.Array) -> pa.Array:
    """Bytes of each value; for what has no length of its own an even share of the whole."""
    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        # A view is 16 bytes and begins with its length.
        views = np.frombuffer(values.buffers()[1], np.int32)[::_VIEW_WORDS]
        return pa.array(views[values.offset : values.offset + len(values)].astype(np.int64))
    if arrays.is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_length(values).cast(pa.int64())
    share = values.nbytes // max(len(values), 1) + 1
    return pa.array(np.full(len(values), share, np.int64))


def _check(lengths: pa.Array, size_bytes_max: int) -> None:
    size = int(pc.sum(lengths).as_py() or 0)
    if size > size_bytes_max:
        raise RecordTooLargeError(size_bytes=size, limit_bytes=size_bytes_max)


def _json_text(values: pa.Array) -> pa.Array:
    """Lists, maps and unions as JSON text; null stays null."""
    try:
        column = pl.DataFrame({"_": pl.from_arrow(values)}).select(
            # Written as {"_":…}: what stands between is the JSON of the value.
            pl.when(pl.col("_").is_not_null()).then(pl.struct("_").struct.json_encode().str.slice(5).str.head(-1))
        )
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, pl.exceptions.PanicException):
        # Types that polars lacks (unions, month intervals): value by value.
        return pa.array(
            [None if item is None else json.dumps(item, default=str) for item in values.to_pylist()], pa.string()
        )
    return column.to_series().to_arrow().cast(pa.string())
