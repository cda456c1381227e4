"""Split stamps (year, month, day, clock) → moments: the calendar, zones with their gaps, years left out.

A decoder that has the fields already calls `from_civil`; `stamp_forms` calls it for the textual forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.records import TimeFlag

YEARLESS_SKEW_NS_MAX: Final = 600 * 1_000_000_000
"""How far a year-less stamp may lie after *now*: a sender's clock that runs a little ahead must not throw its
records back by a year. A reference time that the source states (a file's mtime) is taken to the letter."""
SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
_GAP_STEP_NS: Final = 25 * 3600 * SECOND_NS
_YEARS_BACK_MAX: Final = 9
_DAYS_IN_MONTH: Final = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_INT64_MAX: Final = np.iinfo(np.int64).max
_SECONDS_MAX: Final = _INT64_MAX // SECOND_NS - 86_400

Moments = Callable[[npt.NDArray[np.int64]], tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]
"""Full years → the moments that stamps without a year would be in them, and whether that date exists."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """A column of times as understood: not yet checked against the guard."""

    ns: npt.NDArray[np.int64]
    """Shape (row,). Nanoseconds since 1970 UTC; any value where not known."""
    known: npt.NDArray[np.bool_]
    """Shape (row,)."""
    flags: npt.NDArray[np.uint8]
    """Shape (row,). INFERRED_YEAR and INFERRED_ZONE."""

    @classmethod
    def none(cls, count: int) -> Stamps:
        """A column in which nothing is known."""
        return cls(np.zeros(count, np.int64), np.zeros(count, np.bool_), np.zeros(count, np.uint8))

    def put(self, rows: npt.NDArray[np.intp], part: Stamps) -> None:
        """Write a part's rows into this column, which must be the caller's own."""
        self.ns[rows] = part.ns
        self.known[rows] = part.known
        self.flags[rows] = part.flags


def from_civil(
    year: npt.NDArray[np.int64] | None,
    month: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    clock_ns: npt.NDArray[np.int64],
    context: DecodeContext,
    *,
    offset_ns: npt.NDArray[np.int64] | None = None,
    has_offset: npt.NDArray[np.bool_] | None = None,
) -> Stamps:
    """Make moments of calendar dates and clocks.

    Args:
        year: Full years; None: the stamps have none, and take the latest that isn't after the reference time.
        month: From 1.
        day: From 1. A day that the month lacks makes the row unknown.
        clock_ns: Nanoseconds since the local midnight, 0 to a day and a leap second.
        context: Zone and reference time.
        offset_ns: East of UTC, where the stamp says so.
        has_offset: Rows whose stamp has a zone; None: all, if `offset_ns` is given.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    count = len(month)
    zoned = np.zeros(count, np.bool_) if offset_ns is None else np.ones(count, np.bool_)
    if offset_ns is not None and has_offset is not None:
        zoned = has_offset
    offsets = np.zeros(count, np.int64) if offset_ns is None else offset_ns
    flags = np.where(zoned, np.uint8(0), np.uint8(TimeFlag.INFERRED_ZONE)).astype(np.uint8)

    def moments(years: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        local, real = _local_ns(years, month, day, clock_ns)
        if zoned.all():
            return local - offsets, real
        return np.where(zoned, local - offsets, local_to_utc(local, context.zone)), real

    if year is not None:
        ns, known = moments(year)
        return Stamps(ns, known, np.where(known, flags, 0).astype(np.uint8))
    return with_inferred_year(moments, count, context, flags)


def with_inferred_year(moments: Moments, count: int, context: DecodeContext, flags: npt.NDArray[np.uint8]) -> Stamps:
    """Give each stamp the latest year in which it isn't after the source's reference time.

    Args:
        moments: What the stamps would be in given years.
        count: Rows.
        context: Reference time; observed time if it has none.
        flags: What is assumed besides the year.
    """
    reference = context.reference_time_ns or context.observed_time_ns + YEARLESS_SKEW_NS_MAX
    # The local year may be one ahead of UTC's.
    newest = int(np.datetime64(reference, "ns").astype("datetime64[Y]").astype(np.int64)) + 1970 + 1
    out = Stamps.none(count)
    for back in range(_YEARS_BACK_MAX):
        pending = ~out.known
        if not pending.any():
            break
        ns, real = moments(np.full(count, newest - back, np.int64))
        taken = pending & real & (ns <= reference)
        out.ns[taken] = ns[taken]
        out.known[taken] = True
    out.flags[:] = np.where(out.known, flags | np.uint8(TimeFlag.INFERRED_YEAR), 0)
    return out


def local_to_utc(local_ns: npt.NDArray[np.int64], zone: str) -> npt.NDArray[np.int64]:
    """Take a local clock's readings to UTC.

    A reading that occurs twice (clocks set back) is the earlier moment; one that never occurs (clocks set
    forward) is read with the offset before the gap, as RFC 5545 does.

    Args:
        local_ns: Nanoseconds between 1970-01-01 00:00 and the reading, as if it were UTC.
        zone: IANA name.

    Raises:
        InvalidArgumentError: No such zone.
    """
    if zone in ("UTC", "Etc/UTC", "GMT", "Z"):
        return local_ns
    # What is far out of range would overflow in the conversion, and is refused later in any case.
    clipped = np.clip(local_ns, -_INT64_MAX + 2 * DAY_NS, _INT64_MAX - 2 * DAY_NS)
    utc = _replace_zone(clipped, zone)
    gaps = utc.is_null()
    if gaps.any():
        shifted = _replace_zone(clipped - _GAP_STEP_NS, zone) + _GAP_STEP_NS
        utc = utc.zip_with(~gaps, shifted)
    return utc.fill_null(-1).to_numpy()


def _replace_zone(local_ns: npt.NDArray[np.int64], zone: str) -> pl.Series:
    local = pl.Series(local_ns).cast(pl.Datetime("ns"))
    try:
        moments = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    except pl.exceptions.ComputeError as error:
        raise InvalidArgumentError(field="zone", rule="must be a name of the IANA time zone database") from error
    return moments.cast(pl.Int64)


def _local_ns(
    year: npt.NDArray[np.int64],
    month: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    clock_ns: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    real = (month >= 1) & (month <= 12) & (day >= 1) & (clock_ns >= 0) & (clock_ns < DAY_NS + SECOND_NS)
    safe_month = np.where(real, month, 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    real &= day <= _DAYS_IN_MONTH[safe_month] - ((safe_month == 2) & ~leap)
    seconds = _days_from_civil(year, safe_month, np.where(real, day, 1)) * 86_400
    fits = np.abs(seconds) < _SECONDS_MAX
    ns = np.where(
        fits, seconds * SECOND_NS + np.where(real, clock_ns, 0), np.where(seconds < 0, -1, _INT64_MAX - DAY_NS)
    )
    return ns, real


def _days_from_civil(
    year: npt.NDArray[np.int64], month: npt.NDArray[np.int64], day: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Days since 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    shifted = year - (month <= 2)
    era = shifted // 400
    year_of_era = shifted - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    out: npt.NDArray[np.int64] = era * 146_097 + day_of_era - 719_468
    return out
