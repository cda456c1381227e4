"""Stamps of a known layout, read by arithmetic on a matrix of bytes: 20 times cheaper than a regex per stamp.

A layout is the stamp's fixed-width beginning in letters (`yyyy` or `yy`, `MM` or `MMM`, `dd`, `HH`, `mm`, `ss`; what
stands between them is skipped) and, after a `~`, an optional fraction and zone. What doesn't fit its layout
(a day of one digit, say) is read by `times`, which knows the forms but no layout.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from heimdall_server.decode import times
from heimdall_server.decode.civil import SECOND_NS, Stamps, from_civil
from heimdall_server.domain.decoding import DecodeContext

_FIELDS: Final = re.compile("yyyy|yy|MMM|MM|dd|HH|mm|ss")
_TAIL: Final = r"^(?:[.,:](?P<fraction>[0-9]{1,9}))?(?P<zone> ?(?:Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?$"
_OFFSET: Final = re.compile(r"([+-])(\d\d):?(\d\d)")
_PIVOT_YEAR: Final = 70
"""Years of two digits: from here on they belong to the 1900s (POSIX strptime says 69; 1970 is our epoch)."""
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LOWER: Final = 0x20

_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


def read_stamps(texts: pl.Series, layout: str, context: DecodeContext) -> Stamps:
    """Understand a column of stamps, without judging their range.

    Args:
        texts: Strings; null is unknown.
        layout: As above; anything without a two-letter field (`epoch`, `auto`) is left to `times`.
        context: Zone and reference time.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    width, has_tail, fields = _parse_layout(layout)
    if not fields:
        return times.read(texts.to_arrow(compat_level=pl.CompatLevel.oldest()), context)
    sizes = texts.str.len_bytes().fill_null(0).to_numpy()
    fitting = sizes == width
    if has_tail:
        # ASCII alone: what is cut behind `width` bytes mustn't be cut within a character.
        fitting = (sizes >= width) & (texts.str.len_chars().fill_null(0).to_numpy() == sizes)
    if fitting.all():
        stamps, good = _read_fitting(texts, width, fields, context, has_tail=has_tail)
    else:
        stamps, good = Stamps.none(len(texts)), np.zeros(len(texts), np.bool_)
        rows = np.flatnonzero(fitting)
        if rows.size:
            part, part_good = _read_fitting(texts.gather(rows), width, fields, context, has_tail=has_tail)
            stamps.put(rows, part)
            good[rows] = part_good
    rest = np.flatnonzero(~good & (sizes > 0))
    if rest.size:
        others = texts.gather(rest).to_arrow(compat_level=pl.CompatLevel.oldest())
        stamps.put(rest, times.read(others, context))
    return stamps


@cache
def _parse_layout(layout: str) -> tuple[int, bool, dict[str, tuple[int, int]]]:
    body = layout.removesuffix("~")
    fields = {match.group(): match.span() for match in _FIELDS.finditer(body)}
    return len(body), layout.endswith("~"), fields if "ss" in fields else {}


def _read_fitting(
    texts: pl.Series, width: int, fields: dict[str, tuple[int, int]], context: DecodeContext, *, has_tail: bool
) -> tuple[Stamps, npt.NDArray[np.bool_]]:
    """Read stamps that are all at least `width` bytes; also tells which followed the layout."""
    raw = texts.cast(pl.Binary)
    matrix = _matrix(raw.bin.slice(0, width), width)
    good = np.ones(len(texts), np.bool_)

    def number(name: str) -> _Ints:
        value = np.zeros(len(texts), np.int64)
        for column in range(*fields[name]):
            digit = matrix[:, column] - np.uint8(ord("0"))
            if name == "dd" and column == fields[name][0]:
                digit = np.where(matrix[:, column] == ord(" "), np.uint8(0), digit)
            np.logical_and(good, digit <= 9, out=good)
            value = value * 10 + digit
        return value

    if "MMM" in fields:
        month, named = _months(matrix[:, slice(*fields["MMM"])])
        good &= named
    else:
        month = number("MM")
    hour, minute, second = number("HH"), number("mm"), number("ss")
    clock_ns = ((hour * 60 + minute) * 60 + second) * SECOND_NS
    # One field too large mustn't be made good by the next: 25:00 is no time.
    clock_ns = np.where((hour > 23) | (minute > 59) | (second > 60), -1, clock_ns)
    year = None
    if "yyyy" in fields:
        year = number("yyyy")
    elif "yy" in fields:
        short = number("yy")
        year = np.where(short < _PIVOT_YEAR, 2000, 1900) + short
    offset_ns, zoned = None, None
    if has_tail:
        fraction_ns, offset_ns, zoned, shaped = _read_tails(raw.bin.slice(width).cast(pl.String))
        clock_ns = np.where(clock_ns < 0, -1, clock_ns + fraction_ns)
        good &= shaped
    day = number("dd")
    return from_civil(year, month, day, clock_ns, context, offset_ns=offset_ns, has_offset=zoned), good


def _matrix(values: pl.Series, width: int) -> _Bytes:
    """Equally long values as rows of bytes."""
    flat = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    first = int(np.frombuffer(flat.buffers()[1], np.int64)[flat.offset])
    return np.frombuffer(flat.buffers()[2], np.uint8)[first : first + len(values) * width].reshape(-1, width)


def _months(names: _Bytes) -> tuple[_Ints, npt.NDArray[np.bool_]]:
    keys, order = _month_keys()
    wanted = (names | np.uint8(_LOWER)).astype(np.int64) @ np.array([65536, 256, 1])
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return order[place] + 1, keys[place] == wanted


@cache
def _month_keys() -> tuple[_Ints, _Ints]:
    keys = np.array([int.from_bytes(name.encode(), "big") for name in _MONTHS], np.int64)
    order = np.argsort(keys)
    return keys[order], order.astype(np.int64)


def _read_tails(tails: pl.Series) -> tuple[_Ints, _Ints | None, npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_]]:
    """Fraction, offset east of UTC, rows that have one, and rows that are shaped like a tail."""
    count = len(tails)
    sizes = tails.str.len_bytes()
    if sizes.max() == 0:
        return np.zeros(count, np.int64), None, None, np.ones(count, np.bool_)
    parts = tails.str.extract_groups(_TAIL)
    fraction = parts.struct.field("fraction").fill_null("").str.pad_end(9, "0").cast(pl.Int64).to_numpy()
    zones = parts.struct.field("zone")
    # A tail with neither part has no groups at all, as has one that doesn't match: tell them apart by size.
    shaped = ((sizes == 0) | parts.struct.field("fraction").is_not_null() | zones.is_not_null()).to_numpy()
    if zones.null_count() == count:
        return fraction, None, None, shaped
    # A log has few zones: each is read once.
    names = zones.fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    offsets = np.array([_offset_ns(name) for name in names.dictionary.to_pylist()], np.int64)
    return fraction, offsets[names.indices.to_numpy()], zones.is_not_null().to_numpy(), shaped


def _offset_ns(zone: str) -> int:
    match = _OFFSET.search(zone)
    if match is None:
        return 0
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    return (-seconds if match[1] == "-" else seconds) * SECOND_NS
