"""Columns of times in whatever form records carry them → nanoseconds since 1970 UTC, with what had to be assumed.

`read` understands a column and `settle` applies the guard of the record schema (1970 to observed + 24 h);
`resolve` does both. A stamp without zone takes the source's, one without year the latest year that isn't
after the source's reference time. The textual forms are in `stamp_forms`; how split fields become a moment
is in `civil`. Everything works on whole columns.

Numbers are epochs whose unit follows from their size: below 1e11 seconds, below 1e14 milliseconds, below
1e17 microseconds, else nanoseconds (each boundary is 1973 in the finer unit and 5138 in the coarser one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode.arrays import bools, float64s, int64s, is_text
from heimdall_server.decode.civil import Stamps, local_to_utc
from heimdall_server.decode.stamp_forms import read_forms
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.records import OBSERVED_SKEW_NS_MAX, TIME_TYPE, TimeFlag

_UNIT_NS: Final = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000), (np.inf, 1))
_ISO: Final = r"^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)?"
_ISO_ZONED: Final = _ISO + r"(?:Z|[+-]\d\d(?::?\d\d)?)$"
_ISO_LOCAL: Final = _ISO + "$"
_NUMBER: Final = r"^\s*(?P<whole>-?\d{1,19})(?:\.(?P<fraction>\d{1,18}))?\s*$"
_PROBE_ROWS: Final = 16
_INT64_MAX: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Times:
    """A settled `time` column."""

    time_ns: npt.NDArray[np.int64]
    """Shape (row,). The observed time where the record has no usable one."""
    flags: npt.NDArray[np.uint8]
    """Shape (row,). `TimeFlag` bits."""
    unusable: npt.NDArray[np.bool_]
    """Shape (row,). The record carries a time that can't be used: its original is kept as an attribute."""

    def array(self) -> pa.Array:
        """The column as `RECORD_SCHEMA` wants it."""
        return pa.array(self.time_ns).view(TIME_TYPE)


def resolve(values: pa.Array, context: DecodeContext) -> Times:
    """Read a column of times and apply the guard.

    Args:
        values: Strings, integers, floats, timestamps, dates or nulls. Null and blank: the record has none.
        context: Zone, reference time and observed time.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    return settle(read(values, context), given(values), context)


def given(values: pa.Array) -> npt.NDArray[np.bool_]:
    """Rows that carry a value: not null, and not blank where the column is text."""
    valid = pc.is_valid(values)
    if is_text(values.type):
        blank = pc.equal(pc.binary_length(pc.ascii_trim_whitespace(values)), 0)
        valid = pc.and_(valid, pc.invert(pc.fill_null(blank, fill_value=True)))
    return bools(valid)


def settle(
    stamps: Stamps,
    carried: npt.NDArray[np.bool_],
    context: DecodeContext,
    *,
    observed_ns: npt.NDArray[np.int64] | None = None,
) -> Times:
    """Replace what is missing or out of range by the observed time, and say so.

    Args:
        stamps: What was understood.
        carried: Rows that carry a time at all (see `given`).
        context: The observed time, which the guard goes by.
        observed_ns: When each record was first observed, if the source says so; None: the context's.
    """
    observed = np.int64(context.observed_time_ns) if observed_ns is None else observed_ns
    latest = context.observed_time_ns + OBSERVED_SKEW_NS_MAX
    usable = stamps.known & (stamps.ns >= 0) & (stamps.ns <= latest)
    refused = np.where(stamps.known, np.uint8(TimeFlag.OUT_OF_RANGE), np.uint8(TimeFlag.MISSING))
    return Times(
        time_ns=np.where(usable, stamps.ns, observed),
        flags=np.where(usable, stamps.flags, refused).astype(np.uint8),
        unusable=carried & ~usable,
    )


def read(values: pa.Array, context: DecodeContext) -> Stamps:
    """Understand a column of times, without judging their range.

    Args:
        values: As for `resolve`.
        context: Zone and reference time.

    Returns:
        Moments beyond what nanoseconds can express are clamped, so that the guard refuses them.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return read(values.cast(kind.value_type), context)
    if is_text(kind):
        return _read_text(values.cast(pa.string()), context)
    if pa.types.is_integer(kind):
        return _read_integers(values)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _read_floats(values.cast(pa.float64(), safe=False))
    if pa.types.is_timestamp(kind):
        return _read_timestamps(values, context)
    if pa.types.is_date(kind):
        return _read_timestamps(values.cast(pa.timestamp("ms")), context)
    return Stamps.none(len(values))


def first_known(first: Stamps, second: Stamps) -> Stamps:
    """Row by row the first of two readings that is known."""
    return Stamps(
        ns=np.where(first.known, first.ns, second.ns),
        known=first.known | second.known,
        flags=np.where(first.known, first.flags, second.flags).astype(np.uint8),
    )


def _read_text(text: pa.Array, context: DecodeContext) -> Stamps:
    if text.null_count == len(text):
        return Stamps.none(len(text))
    for reader in (_cast_zoned, _cast_local):
        stamps = reader(text, context)
        if stamps is not None:
            return stamps
    # Stamps of a second's resolution repeat: what costs a regular expression is read once.
    encoded = text.dictionary_encode()
    stamps = _read_mixed(encoded.dictionary, context)
    index = int64s(encoded.indices)
    present = bools(pc.is_valid(encoded.indices))
    return Stamps(
        stamps.ns[index], stamps.known[index] & present, np.where(present, stamps.flags[index], 0).astype(np.uint8)
    )


def _read_mixed(text: pa.Array, context: DecodeContext) -> Stamps:
    """Read values of several forms, each by the reader that knows it."""
    stamps = Stamps.none(len(text))
    pending = np.flatnonzero(given(text))
    for pattern, reader in ((_ISO_ZONED, _cast_zoned), (_ISO_LOCAL, _cast_local)):
        part = text.take(pa.array(pending))
        matches = bools(pc.match_substring_regex(part, pattern=pattern))
        found = reader(part.filter(pa.array(matches)), context) if matches.any() else None
        if found is not None:
            stamps.put(pending[matches], found)
            pending = pending[~matches]
    if pending.size:
        rest = text.take(pa.array(pending))
        stamps.put(pending, first_known(_read_numerals(rest), read_forms(rest, context)))
    return stamps


def _cast_zoned(text: pa.Array, _: DecodeContext) -> Stamps | None:
    moments = _cast(text, TIME_TYPE)
    if moments is None:
        return None
    return Stamps(int64s(moments), bools(pc.is_valid(text)), np.zeros(len(text), np.uint8))


def _cast_local(text: pa.Array, context: DecodeContext) -> Stamps | None:
    moments = _cast(text, pa.timestamp("ns"))
    if moments is None:
        return None
    return _inferred_zone(int64s(moments), bools(pc.is_valid(text)), context)


def _cast(text: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Arrow's own ISO 8601 reader: 40 M values a second, and all or nothing."""
    # It goes on through the whole column after a failure, at 1 µs a value: ask a few values first.
    with_point = pc.replace_substring(text.slice(0, _PROBE_ROWS), ",", ".")
    try:
        pc.cast(with_point, kind)
        if with_point.equals(text.slice(0, _PROBE_ROWS)):
            return pc.cast(text, kind)
    except pa.ArrowInvalid:
        # A comma may come later.
        if not pc.any(pc.match_substring(text, ","), min_count=0).as_py():
            return None
    try:
        pc.cast(with_point, kind)
        return pc.cast(pc.replace_substring(text, ",", "."), kind)
    except pa.ArrowInvalid:
        return None


def _inferred_zone(local_ns: npt.NDArray[np.int64], known: npt.NDArray[np.bool_], context: DecodeContext) -> Stamps:
    flags = np.where(known, np.uint8(TimeFlag.INFERRED_ZONE), np.uint8(0)).astype(np.uint8)
    return Stamps(local_to_utc(local_ns, context.zone), known, flags)


def _read_numerals(text: pa.Array) -> Stamps:
    """Epochs written as text, exact to the last digit."""
    parts = pc.extract_regex(text, pattern=_NUMBER)
    known = bools(pc.is_valid(parts))
    if not known.any():
        return Stamps.none(len(text))
    whole, fraction = (pc.struct_field(parts, [index]) for index in (0, 1))
    # 19 digits may be more than int64 holds; such a moment is out of range either way.
    number = np.clip(np.nan_to_num(float64s(whole.cast(pa.float64()))), -9.2e18, 9.2e18)
    fits = np.abs(number) < 9.2e18
    integer = int64s(pc.if_else(pa.array(fits & known), whole, pa.scalar("0")).cast(pa.int64()))
    padded = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.fill_null(fraction, ""), 9, "0"), 0, 9)
    nanos = int64s(padded.cast(pa.int64()))
    nanos = np.where(number < 0, -nanos, nanos)
    unit = _unit_ns(number)
    ns = np.where(fits, _scaled(integer, unit) + nanos // (1_000_000_000 // unit), _INT64_MAX)
    return Stamps(ns, known, np.zeros(len(text), np.uint8))


def _read_integers(values: pa.Array) -> Stamps:
    if pa.types.is_uint64(values.type):
        values = pc.min_element_wise(values, pa.scalar(_INT64_MAX, pa.uint64()), skip_nulls=False)
    integer = int64s(values.cast(pa.int64()))
    ns = _scaled(integer, _unit_ns(integer.astype(np.float64)))
    return Stamps(ns, bools(pc.is_valid(values)), np.zeros(len(values), np.uint8))


def _read_floats(values: pa.Array) -> Stamps:
    """Epochs as Float64, rounded to a microsecond: that is all the digits such a number has in our days."""
    number = float64s(values)
    known = np.isfinite(number)
    number = np.clip(np.where(known, number, 0.0), -9.2e18, 9.2e18)
    unit = _unit_ns(number)
    whole = np.floor(number)
    micros = np.round((number - whole) * (unit / 1_000)).astype(np.int64)
    ns = _scaled(whole.astype(np.int64), unit)
    ns = np.where(ns == _INT64_MAX, ns, ns + micros * 1_000)
    return Stamps(ns, known, np.zeros(len(values), np.uint8))


def _read_timestamps(values: pa.Array, context: DecodeContext) -> Stamps:
    unit = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[values.type.unit]
    known = bools(pc.is_valid(values))
    raw = int64s(values.view(pa.int64()) if values.null_count == 0 else values.cast(pa.int64()))
    ns = _scaled(raw, np.full(len(values), unit, np.int64))
    if values.type.tz is None:
        return _inferred_zone(ns, known, context)
    return Stamps(ns, known, np.zeros(len(values), np.uint8))


def _unit_ns(number: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    size = np.abs(number)
    unit = np.full(len(number), 1, np.int64)
    for bound, nanos in reversed(_UNIT_NS):
        unit[size < bound] = nanos
    return unit


def _scaled(number: npt.NDArray[np.int64], unit_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Multiply without wrapping: what doesn't fit becomes the largest value (or -1), both out of range."""
    with np.errstate(over="ignore"):
        product = number * unit_ns
    over = np.abs(number.astype(np.float64)) * unit_ns > 9.2e18
    return np.where(over, np.where(number < 0, np.int64(-1), np.int64(_INT64_MAX)), product)
