"""The forms of written time stamps beside plain ISO 8601 and epochs: each a regular expression over the column.

A form names its parts (year, month, day, hour, minute, second, fraction, half, zone); what it leaves out is zero,
the source's zone or an inferred year. The first form that matches a value decides. Forms whose day and month
could be told apart only by guessing (03/04/2024) aren't here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode.arrays import bools, int64s
from heimdall_server.decode.civil import SECOND_NS, Stamps, from_civil
from heimdall_server.domain.decoding import DecodeContext

_CLOCK: Final = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,:](?P<fraction>\d+))?)?(?: ?(?P<half>[AaPp][Mm]))?"
)
_ZONE: Final = (
    r"(?: ?(?P<zone>Z|z|UTC|GMT|UT|[ECMP][SD]T|CET|CEST|(?:UTC|GMT)?[+-]\d\d:?(?:\d\d)?))?(?: \([A-Za-z ]+\))?"
)
_MONTH: Final = r"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_WEEKDAY: Final = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? +)?"

FORMS: Final[tuple[str, ...]] = (
    # 2024-03-01T12:00:00,5+02:00 · 2024/3/1 12:00 · 2024.03.01-12.00.00.123456 · 2024-03-01_12:00:00 UTC
    r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?:(?:[Tt_-]| +)(?P<hour>\d{1,2})(?:[:.](?P<minute>\d\d)"
    r"(?:[:.](?P<second>\d\d)(?:[.,:](?P<fraction>\d+))?)?(?: ?(?P<half>[AaPp][Mm]))?)?" + _ZONE + r")?",
    # 01/Mar/2024:12:00:00 +0000 · 01-Mar-2024 12:00:00.123 · 1 March 2024 12:00 · Fri, 1 Mar 2024 12:00:00 GMT
    _WEEKDAY + r"(?P<day>\d{1,2})[/ -]" + _MONTH + r"[/ -](?P<year>\d{4})(?:(?::|,? +)" + _CLOCK + _ZONE + r")?",
    # Mar 1, 2024 12:00:00 PM
    _WEEKDAY + _MONTH + r" +(?P<day>\d{1,2}),? +(?P<year>\d{4})(?:,? +" + _CLOCK + _ZONE + r")?",
    # Fri Mar  1 12:00:00 2024 · Fri Mar  1 12:00:00.123 UTC 2024
    _WEEKDAY + _MONTH + r" +(?P<day>\d{1,2}) +" + _CLOCK + _ZONE + r" (?P<year>\d{4})",
    # Mar  1 12:00:00.123 +0200
    _WEEKDAY + _MONTH + r" +(?P<day>\d{1,2}) +" + _CLOCK + _ZONE,
    # 20240301T120000.123Z · 20240301 120000 · 20240301-12:00:00:123
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)[Tt _-](?P<hour>\d{1,2}):?(?P<minute>\d{1,2}):?(?P<second>\d{1,2})"
    r"(?:[.,:](?P<fraction>\d+))?" + _ZONE,
    # 03-01 12:00:00.123
    r"(?P<month>\d\d)-(?P<day>\d\d) " + _CLOCK,
)
"""In order of precedence."""

_MONTHS: Final = pa.array(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])
_ZONE_NAMES: Final = pa.array(["", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT", "CET", "CEST"])
_ZONE_HOURS: Final = np.array([0, -5, -4, -6, -5, -7, -6, -8, -7, 1, 2], np.int64)
"""RFC 2822's names and the two of central Europe; others mean different things in different places."""

_Integers = npt.NDArray[np.int64]


def read_forms(text: pa.Array, context: DecodeContext) -> Stamps:
    """Read a column of stamps, each value by the first form that it follows.

    Args:
        text: Strings; null is unknown.
        context: Zone and reference time.

    Raises:
        InvalidArgumentError: The context's zone isn't known.

    Cost:
        Up to 1 µs a value and form tried; a column in one of the first forms pays for one or two.
    """
    out = Stamps.none(len(text))
    pending = np.flatnonzero(pc.is_valid(text).to_numpy(zero_copy_only=False))
    trimmed = pc.ascii_trim_whitespace(text)
    for form in FORMS:
        if not pending.size:
            break
        parts = pc.extract_regex(trimmed.take(pa.array(pending)), pattern=f"^{form}$")
        matched = pc.is_valid(parts).to_numpy(zero_copy_only=False)
        if matched.any():
            out.put(pending[matched], _from_parts(parts.filter(pa.array(matched)), context))
            pending = pending[~matched]
    return out


def _from_parts(parts: pa.StructArray, context: DecodeContext) -> Stamps:
    names = [field.name for field in parts.type]
    fields = dict(zip(names, parts.flatten(), strict=True))
    count = len(parts)

    def number(name: str) -> _Integers:
        return _numbers(fields[name]) if name in fields else np.zeros(count, np.int64)

    hour = number("hour")
    if "half" in fields:
        half = pc.utf8_lower(fields["half"])
        afternoon, morning = (bools(pc.equal(half, word)) for word in ("pm", "am"))
        hour = np.where(afternoon & (hour < 12), hour + 12, np.where(morning & (hour == 12), 0, hour))
    clock_ns = ((hour * 60 + number("minute")) * 60 + number("second")) * SECOND_NS
    if "fraction" in fields:
        digits = pc.utf8_slice_codeunits(pc.utf8_rpad(fields["fraction"], 9, "0"), 0, 9)
        clock_ns += _numbers(digits)
    # One field too large mustn't be made good by the next: 25:00 is no time.
    invalid = (hour > 23) | (number("minute") > 59) | (number("second") > 60)
    clock_ns = np.where(invalid, -1, clock_ns)
    offset_ns, zoned = _offsets(fields["zone"]) if "zone" in fields else (None, None)
    year = number("year") if "year" in fields else None
    return from_civil(
        year, _month(fields["month"]), number("day"), clock_ns, context, offset_ns=offset_ns, has_offset=zoned
    )


def _month(text: pa.Array) -> _Integers:
    index = pc.index_in(text, value_set=_MONTHS)
    if index.null_count == 0:
        return int64s(index) + 1
    return _numbers(text)


def _offsets(zone: pa.Array) -> tuple[_Integers, npt.NDArray[np.bool_]]:
    """Nanoseconds east of UTC, and the rows whose stamp has a zone."""
    zoned = bools(pc.not_equal(zone, ""))
    parts = pc.extract_regex(zone, pattern=r"(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?$")
    sign, hours, minutes = (pc.fill_null(part, "") for part in (pc.struct_field(parts, [index]) for index in range(3)))
    seconds = _numbers(hours) * 3600 + _numbers(minutes) * 60
    seconds = np.where(bools(pc.equal(sign, "-")), -seconds, seconds)
    seconds += _ZONE_HOURS[int64s(pc.fill_null(pc.index_in(zone, value_set=_ZONE_NAMES), 0))] * 3600
    return seconds * SECOND_NS, zoned


def _numbers(digits: pa.Array) -> _Integers:
    """Digits to integers; "" is 0."""
    filled = pc.if_else(pc.equal(digits, ""), pa.scalar("0"), digits)
    return int64s(pc.fill_null(filled, "0").cast(pa.int64()))
