"""Text cells of formats without types (CSV, `key=value`, named groups) → numbers, booleans and text, cell by cell.

A cell is a number only if its text can be told from the number again, more or less: `00123`, `+49170…` and integers
beyond 2^53 stay text. Blank cells are absent.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.domain.records import SAFE_INTEGER_MAX

_NUMBER: Final = r"^-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,3})?$"
_TRUE: Final = ("true", "True", "TRUE")
_FALSE: Final = ("false", "False", "FALSE")


def to_arrow(values: pl.Series) -> pa.Array:
    """A column of polars as Arrow with the record schema's string layout."""
    array = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def present(values: pl.Series) -> pl.Series:
    """The column with blank cells absent."""
    blank = values == ""
    return values.set(blank, None) if blank.any() else values


def variants(values: pl.Series) -> list[pa.Array]:
    """Split a column of text by the type of each cell.

    Args:
        values: Strings; null and "" are absent.

    Returns:
        One column a type that occurs (Float64, boolean, string), each as long as `values`, null where the cell
        is absent or of another type.
    """
    texts = present(values)
    carried = len(texts) - texts.null_count()
    out: list[pa.Array] = []
    if not carried:
        return out
    numbers = _numbers(texts)
    number_count = len(numbers) - numbers.null_count()
    if number_count:
        out.append(to_arrow(numbers))
        if number_count == carried:
            return out
        texts = texts.set(numbers.is_not_null(), None)
    bools = texts.replace_strict({**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}, default=None)
    bool_count = len(bools) - bools.null_count()
    if bool_count:
        out.append(to_arrow(bools.cast(pl.Boolean)))
        if number_count + bool_count == carried:
            return out
        texts = texts.set(bools.is_not_null(), None)
    out.append(to_arrow(texts))
    return out


def _numbers(texts: pl.Series) -> pl.Series:
    candidates = texts.str.contains(_NUMBER).fill_null(value=False)
    if not candidates.any():
        return pl.Series([None], dtype=pl.Float64).new_from_index(0, len(texts))
    chosen = texts if candidates.all() else texts.set(~candidates, None)
    numbers = chosen.cast(pl.Float64, strict=False)
    refused = ~numbers.is_finite()
    large = numbers.abs() >= SAFE_INTEGER_MAX
    if large.any():
        # Only whole numbers have digits to lose: a fraction is an approximation in any case.
        refused |= large & (chosen.cast(pl.Int64, strict=False).abs() > SAFE_INTEGER_MAX).fill_null(value=False)
    refused = refused.fill_null(value=False)
    return numbers.set(refused, None) if refused.any() else numbers
