"""Points in time, to the nanosecond in UTC.

The canonical form is the profile of ISO 8601 that RFC 3339 defines, in UTC, with nine digits behind the second: texts sort as times do.
A form whose day and month could be taken for one another (`03/04/2024`) is refused.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.characters import plain
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, canonicalise

INPUT_CHARACTERS_MAX: Final = 128
EPOCH_CONFIDENCE: Final = 0.8
"""Of a number whose unit its size tells."""
ZONE_CONFIDENCE: Final = 0.8
"""Of a time without a zone, taken as UTC."""
DATE_CONFIDENCE: Final = 0.5
"""Of a date, taken as its midnight in UTC."""

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], start=1
    )
}
_CLOCK: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,40}))?)?"
_BASIC_CLOCK: Final = r"(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,40}))?"
_ZONE: Final = r"(?:\s*(?P<zone>Z|UTC?|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?(?:\s*\([A-Z]{1,5}\))?"
_DAY_NAME: Final = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},?\s+)?"
_MONTH: Final = r"(?P<name>[A-Z][a-z]{2})[a-z]{0,6}"
_FORMS: Final = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        # RFC 3339 §5.6, with what ISO 8601 allows beside it.
        rf"(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})(?:(?:\s*T\s*|[ _]){_CLOCK}{_ZONE})?",
        rf"(?P<year>[0-9]{{4}})(?P<month>[0-9]{{2}})(?P<day>[0-9]{{2}})T{_BASIC_CLOCK}{_ZONE}",
        # RFC 5322 §3.3 and RFC 9110 §5.6.7.
        rf"{_DAY_NAME}(?P<day>[0-9]{{1,2}})[ -]{_MONTH}[ -](?P<year>[0-9]{{4}})\s+{_CLOCK}{_ZONE}",
        # The common log format.
        rf"\[?(?P<day>[0-9]{{2}})/{_MONTH}/(?P<year>[0-9]{{4}}):{_CLOCK}{_ZONE}\]?",
        # ISO C asctime.
        rf"{_DAY_NAME}{_MONTH}\s+(?P<day>[0-9]{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<year>[0-9]{{4}})",
        r"(?P<year>[0-9]{4})/(?P<month>[0-9]{2})/(?P<day>[0-9]{2})" + rf"\s+{_CLOCK}{_ZONE}",
    )
)
_EPOCH: Final = re.compile(r"([0-9]{9,20})(?:[.,]([0-9]{1,40}))?", re.ASCII)
_AMBIGUOUS: Final = re.compile(r"[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{2,4}\b.*", re.ASCII | re.DOTALL)
_SECOND_NS: Final = 1_000_000_000
_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_NS_MIN: Final = -(2**63)
_NS_MAX: Final = 2**63 - 1
_SHOWN_ZEROS: Final = re.compile(r"\.?0+Z$")
_UNITS: Final = ((10**11, _SECOND_NS), (10**14, 1_000_000), (10**17, 1_000), (10**20, 1))
"""Below which number which unit: 10^11 s is the year 5138, 10^11 ms was in 1973."""

_TOO_LONG: Final = Refused("it is too long for a time")
_NOT_A_TIME: Final = Refused("it is no form of a time that is known")
_AMBIGUOUS_DATE: Final = Refused("its day and month could be taken for one another")
_NO_SUCH_TIME: Final = Refused("there is no such day or time of day")
_BEYOND: Final = Refused("it is beyond what 64 bits of nanoseconds hold: 1677 to 2262")


def timestamp(values: pa.StringArray) -> CanonicalColumn:
    """Points in time as RFC 3339 in UTC with nine digits; numbers are seconds to nanoseconds since 1970, by their size."""
    return canonicalise(values, read_timestamp)


def timestamps_ns(values: pa.StringArray) -> pa.Int64Array:
    """Canonical times as ns since 1970 UTC; null where there is none."""
    return values.cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64())


def read_timestamp(text: str) -> Canonical | Refused:
    """The rule of `timestamp` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain(text)
    epoch = _EPOCH.fullmatch(value)
    if epoch:
        return _since_epoch(epoch[1], epoch[2] or "", changes | Change.NOTATION | Change.ASSUMED)
    found = next((match for form in _FORMS if (match := form.fullmatch(value))), None)
    if found is None:
        return _AMBIGUOUS_DATE if _AMBIGUOUS.fullmatch(value) else _NOT_A_TIME
    parts = found.groupdict()
    month = _MONTHS.get(parts["name"].lower()) if parts.get("name") else int(parts["month"])
    if month is None:
        return _NOT_A_TIME
    try:
        day = dt.date(int(parts["year"]), month, int(parts["day"])).toordinal() - _EPOCH_DAY
    except ValueError:
        return _NO_SUCH_TIME
    clock_ns = _clock_ns(parts.get)
    zone_s = _zone_s(parts.get("zone"))
    if clock_ns is None or zone_s is None:
        return _NO_SUCH_TIME
    confidence = 1.0
    if not parts.get("hour"):
        changes, confidence = changes | Change.ASSUMED, DATE_CONFIDENCE
    elif not parts.get("zone"):
        changes, confidence = changes | Change.ASSUMED, ZONE_CONFIDENCE
    return _written((day * 86_400 - zone_s) * _SECOND_NS + clock_ns, value, changes, confidence)


def show_timestamp(canonical: str) -> str:
    """Without the zeros at the end."""
    return _SHOWN_ZEROS.sub("Z", canonical)


def _since_epoch(whole: str, fraction: str, changes: Change) -> Canonical | Refused:
    number = int(whole)
    unit_ns = next((unit for limit, unit in _UNITS if number < limit), 1)
    rest = int(fraction[:9].ljust(9, "0")) * unit_ns // _SECOND_NS
    return _written(number * unit_ns + rest, "", changes, EPOCH_CONFIDENCE)


def _clock_ns(part: Callable[[str], str | None]) -> int | None:
    hour, minute, second = int(part("hour") or 0), int(part("minute") or 0), int(part("second") or 0)
    # A leap second (RFC 3339 §5.7) is the next second, as in POSIX; 24:00 is ISO 8601's end of a day.
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and (minute or second)):
        return None
    fraction = (part("fraction") or "")[:9].ljust(9, "0")
    if hour == 24 and int(fraction):
        return None
    return (hour * 3600 + minute * 60 + second) * _SECOND_NS + int(fraction)


def _zone_s(zone: str | None) -> int | None:
    if not zone or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 23 or minutes > 59:
        return None
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _written(time_ns: int, value: str, changes: Change, confidence: float) -> Canonical | Refused:
    if not _NS_MIN <= time_ns <= _NS_MAX:
        return _BEYOND
    seconds, rest_ns = divmod(time_ns, _SECOND_NS)
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    canonical = f"{moment.isoformat()[:19]}.{rest_ns:09d}Z"
    if canonical != value:
        changes |= Change.NOTATION
    return Canonical(canonical, changes, confidence)
