"""The fields of records → typed values: escapes undone, numbers read, literals and repeated keys judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.decode.json_fields import Fields, Kind, Paths, fields, slices
from heimdall_server.decode.json_tokens import Bytes, Index, Mask, Tokens
from heimdall_server.domain.records import SAFE_INTEGER_MAX

_NUMBER: Final = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_INTEGER: Final = r"^-?[0-9]+$"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Fields whose values have one type."""

    line: Index
    """Shape (pair,). Ascending."""
    path: Index
    values: pa.Array
    """Strings, Float64 or booleans; no nulls."""

    @classmethod
    def concat(cls, parts: list[Pairs], first_lines: list[int]) -> Pairs:
        """Join the pairs of several texts, whose lines start at the given numbers."""
        if len(parts) == 1 and first_lines[0] == 0:
            return parts[0]
        return cls(
            np.concatenate([part.line + first for part, first in zip(parts, first_lines, strict=True)]),
            np.concatenate([part.path for part in parts]),
            pa.concat_arrays([part.values for part in parts]),
        )

    def only(self, mask: Mask) -> Pairs:
        """Some of the pairs."""
        return self if mask.all() else Pairs(self.line[mask], self.path[mask], self.values.filter(pa.array(mask)))


@dataclass(frozen=True, slots=True)
class Values:
    """What some lines hold, by type."""

    strings: Pairs
    numbers: Pairs
    bools: Pairs
    bad: Mask
    """Shape (line,). Lines that aren't one JSON object."""
    blank: Mask


def values(tokens: Tokens, paths: Paths) -> Values:
    """Read the values of all fields.

    Numbers beyond Float64, and integers beyond 2^53, are strings. Of fields with one path the last counts; a null
    is no field.

    Args:
        tokens: What `json_tokens.scan` found.
        paths: Gets the paths that it doesn't hold yet.
    """
    found = fields(tokens, paths)
    bad = tokens.bad
    text, sound = _primitives(tokens)
    if not sound.all():
        bad = bad.copy()
        bad[np.searchsorted(tokens.line_ends, tokens.primitive_start[~sound])] = True
    wanted = arrays.last_of_each(found.line, found.path, len(paths.names))
    if bad is not tokens.bad:
        wanted &= ~bad[found.line]
    is_primitive = found.kind == Kind.PRIMITIVE
    strings = _strings(tokens.text, found, wanted & ~is_primitive)
    where = np.flatnonzero(wanted & is_primitive)
    number_of = np.searchsorted(tokens.primitive_start, found.start[where])
    first = tokens.text[found.start[where]]
    is_bool = (first == ord("t")) | (first == ord("f"))
    at = where[is_bool]
    bools = Pairs(found.line[at], found.path[at], pa.array(first[is_bool] == ord("t")))
    is_number = ~is_bool & (first != ord("n"))
    at = where[is_number]
    numbers, as_text = read_numbers(text.take(pa.array(number_of[is_number])))
    plain = arrays.bools(numbers.is_valid())
    if as_text is not None:
        strings = _merged(strings, Pairs(found.line[at], found.path[at], as_text).only(~plain))
    return Values(
        strings=strings,
        numbers=Pairs(found.line[at], found.path[at], numbers).only(plain),
        bools=bools,
        bad=bad,
        blank=tokens.blank,
    )


def _primitives(tokens: Tokens) -> tuple[pa.Array, Mask]:
    """All numbers and literals as text, and which of them are well-formed."""
    text = slices(tokens.text, tokens.primitive_start, tokens.primitive_end)
    return text, arrays.bools(sound_primitives(text))


def sound_primitives(text: pa.Array) -> pa.Array:
    """Which of some texts are a number or literal of JSON."""
    sound = pc.match_substring_regex(text, pattern=_NUMBER)
    if not pc.all(sound).as_py():
        sound = pc.or_(sound, pc.is_in(text, value_set=pa.array(["true", "false", "null"])))
    return sound


def _strings(text: Bytes, found: Fields, wanted: Mask) -> Pairs:
    at = np.flatnonzero(wanted)
    column = slices(text, found.start[at], found.end[at])
    if (text == ord("\\")).any():
        column = unescaped(column, pa.array(found.kind[at] == Kind.STRING))
    return Pairs(found.line[at], found.path[at], column)


def unescaped(column: pa.Array, wanted: pa.Array | None = None) -> pa.Array:
    """Strings with their escapes undone.

    Args:
        column: What stands between quotes, well-formed.
        wanted: Which are strings; None: all.
    """
    escaped = pc.match_substring(column, "\\")
    if wanted is not None:
        escaped = pc.and_(escaped, wanted)
    if not pc.any(escaped, min_count=0).as_py():
        return column
    quoted = pl.select('"' + pl.lit(pl.Series(column.filter(escaped))) + '"').to_series()
    plain = quoted.str.json_decode(pl.String).to_arrow().cast(pa.string())
    return pc.replace_with_mask(column, escaped, plain)


def read_numbers(text: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Read well-formed numbers.

    Returns:
        Float64, null where that would lose digits; the text, if there is any such.
    """
    numbers = text.cast(pa.float64())
    value = np.abs(arrays.float64s(numbers))
    large = value >= SAFE_INTEGER_MAX
    if not large.any():
        return numbers, None
    whole = arrays.bools(pc.match_substring_regex(text, pattern=_INTEGER))
    exact = arrays.bools(pc.is_in(text, value_set=pa.array([str(SAFE_INTEGER_MAX), str(-SAFE_INTEGER_MAX)])))
    lossy = np.isinf(value) | (large & whole & ~exact)
    return pc.if_else(pa.array(lossy), pa.scalar(None, pa.float64()), numbers), text


def _merged(first: Pairs, second: Pairs) -> Pairs:
    """Both, in order of lines."""
    if not len(second.line):
        return first
    both = Pairs.concat([first, second], [0, 0])
    order = np.argsort(both.line, kind="stable")
    return Pairs(both.line[order], both.path[order], both.values.take(pa.array(order)))
