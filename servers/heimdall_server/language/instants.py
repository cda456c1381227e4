"""Times and durations as people type them.

A written time covers a span: `2026-01-01` the whole day, `12:00:05` the whole second. Comparisons go by
the edges of the span, so `time:<=2026-01-01` takes the day in and `time:>2026-01-01` begins after it.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
_UNITS_NS: Final = {
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
    "d": DAY_NS,
    "w": 7 * DAY_NS,
}
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w)")
_RELATIVE: Final = re.compile(r"(?:now)?((?:[+-][0-9]{1,9}(?:ms|s|m|h|d|w))*)(?:/(s|m|h|d|w))?")
_STEP: Final = re.compile(r"([+-])([0-9]+)(ms|s|m|h|d|w)")
_ISO: Final = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?)?)?)?)?"
    r"(Z|z|[+-]\d{2}(?::?\d{2})?)?"
)
_EPOCH: Final = re.compile(r"(\d{9,11}|\d{12,13}|\d{15,16}|\d{18,19})(?:\.(\d{1,9}))?")
_NS_MAX: Final = 2**63 - 1
_EPOCH_START: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse_duration(text: str) -> int | None:
    """Read `5m`, `30s`, `1h`, `250ms`, `1d`, `1w`.

    Returns:
        Nanoseconds, or None if it isn't one.
    """
    found = _DURATION.fullmatch(text)
    return int(found[1]) * _UNITS_NS[found[2]] if found is not None else None


def duration_text(duration_ns: int) -> str:
    """Write a duration in its largest whole unit.

    Raises:
        ValueError: It isn't whole milliseconds.
    """
    for unit in ("w", "d", "h", "m", "s", "ms"):
        if duration_ns % _UNITS_NS[unit] == 0:
            return f"{duration_ns // _UNITS_NS[unit]}{unit}"
    msg = "shorter than a millisecond"
    raise ValueError(msg)


def parse_instant(text: str, now_ns: int) -> tuple[int, int] | None:
    """Read a time: ISO 8601, epoch (s, ms, µs or ns by its digits), `now`, `now-1h`, `-1h`, `now/d`.

    Args:
        text: As typed. Without a zone it is UTC.
        now_ns: What `now` means.

    Returns:
        First nanosecond and the one after the last; None if it isn't a time between 1970 and 2262.
    """
    span = _relative(text, now_ns) or _epoch(text) or _iso(text)
    return span if span is not None and 0 <= span[0] < span[1] <= _NS_MAX else None


def _relative(text: str, now_ns: int) -> tuple[int, int] | None:
    found = _RELATIVE.fullmatch(text)
    if found is None or not text or text.startswith("/"):
        return None
    moment = now_ns
    for sign, count, unit in _STEP.findall(found[1]):
        moment += (1 if sign == "+" else -1) * int(count) * _UNITS_NS[unit]
    if found[2] is None:
        return moment, moment + 1
    width = _UNITS_NS[found[2]]
    start = moment - moment % width
    return start, start + width


def _epoch(text: str) -> tuple[int, int] | None:
    found = _EPOCH.fullmatch(text)
    if found is None:
        return None
    digits = len(found[1])
    unit = SECOND_NS if digits <= 11 else 10**6 if digits <= 13 else 10**3 if digits <= 16 else 1
    if found[2] is None:
        return int(found[1]) * unit, int(found[1]) * unit + unit
    width = max(unit // 10 ** len(found[2]), 1)
    start = int(found[1]) * unit + int(found[2]) * unit // 10 ** len(found[2])
    return start, start + width


def _iso(text: str) -> tuple[int, int] | None:
    found = _ISO.fullmatch(text)
    if found is None or (found[8] and found[4] is None):
        return None
    year, month, day, hour, minute, second = (int(part) if part else None for part in found.groups()[:6])
    try:
        start = dt.datetime(
            year or 0, month or 1, day or 1, hour or 0, minute or 0, second or 0, tzinfo=_zone(found[8])
        )
        start_ns = _to_ns(start)
        if month is None:
            return start_ns, _to_ns(start.replace(year=start.year + 1))
        if day is None:
            following = start.replace(year=start.year + month // 12, month=month % 12 + 1)
            return start_ns, _to_ns(following)
    except ValueError:
        return None
    if hour is None:
        return start_ns, start_ns + DAY_NS
    if minute is None:
        return start_ns, start_ns + 3600 * SECOND_NS
    if second is None:
        return start_ns, start_ns + 60 * SECOND_NS
    if found[7] is None:
        return start_ns, start_ns + SECOND_NS
    width = 10 ** (9 - len(found[7]))
    start_ns += int(found[7]) * width
    return start_ns, start_ns + width


def _zone(text: str | None) -> dt.tzinfo:
    if not text or text in "Zz":
        return dt.UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(-offset if text[0] == "-" else offset)


def _to_ns(moment: dt.datetime) -> int:
    delta = moment - _EPOCH_START
    return (delta.days * 86_400 + delta.seconds) * SECOND_NS


def instant_text(ns: int) -> str:
    """Write an instant so that `parse_instant` reads exactly it."""
    seconds, fraction = divmod(ns, SECOND_NS)
    moment = _EPOCH_START + dt.timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
