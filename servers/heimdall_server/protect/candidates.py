r"""Card and phone numbers in many texts at once, without the GIL: where it is plain what the rule's check would say.

A text is *plain* here if the check takes each of its candidates whole or not at all; all others are left to the check. So `card` and
`phone` say what a number is, and what is done here only spares asking them of each text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect.checks import (
    CARD_DIGITS_MAX,
    IBAN_CHARACTERS_MAX,
    PHONE_DIGITS_MAX,
    PHONE_DIGITS_MIN,
    known_issuer,
)
from heimdall_server.protect.columns import Flags, Indices
from heimdall_server.protect.spans import (
    LEAD,
    PLACE,
    Buffer,
    Spans,
    bytes_of,
    holding_marks,
    holds,
    large,
    placed_spans,
)

Finder = Callable[[pa.Array], tuple[Spans, Flags]]
"""For texts (large strings, without nulls): spans in plain texts, and which texts aren't plain."""

_ZERO, _THREE, _BLANK, _DASH, _PLUS, _DOT, _OPENING, _BACKSLASH = b"03 -+.(\\"
_DIGITS: Final = b"0123456789"
_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _among(some: bytes) -> Flags:
    table = np.zeros(256, np.bool_)
    table[list(some)] = True
    return table


_IS_DIGIT: Final = _among(_DIGITS)
_IS_LETTER: Final = _among(_LETTERS)
_IS_WORD: Final = _among(_LETTERS + _DIGITS + b"_")
_IS_ESCAPE: Final = _among(b"bfnrt")
_ENDS_NUMBER: Final = _among(_DIGITS + b"]")
_IS_POINT: Final = _among(b".,")
_OPENS_JSON: Final = _among(b":[, \t\r\n")
_CARD_DIGITS_MIN: Final = 13
_LEAD_MIN, _LEAD_MAX = b"26"
_HEAD_DIGITS: Final = 2
_PREFIX: Final = 4
"""Digits of a card number that tell, with its length, whether there is such an issuer."""
_DOUBLED: Final = np.array((0, 2, 4, 6, 8, 1, 3, 5, 7, 9), np.uint8)
"""A digit twice, and the digits of that summed up."""
_KEPT: Final = np.ones(256, np.int64)
"""By the first byte of a match of the rule for phones, how many bytes stand before the number."""
_KEPT[list(_DIGITS + b"+")] = 0
_KEPT[list(_LETTERS)] = 2
_KEPT[0xC0:0xE0], _KEPT[0xE0:0xF0], _KEPT[0xF0:] = 2, 3, 4


class _Column:
    """The bytes of texts, and their digits."""

    def __init__(self, texts: pa.Array) -> None:
        offsets, data = bytes_of(texts)
        begin = int(offsets[0])
        self.data: Final[Buffer] = data[begin:]
        self.offsets: Final[Indices] = offsets - begin
        self.digits: Final[Flags] = (self.data - np.uint8(_ZERO)) < np.uint8(len(_DIGITS))
        self._begins: Final[Flags] = np.zeros(len(self.data) + 1, np.bool_)
        """By byte, whether a text begins there; the last: behind them all."""
        self._begins[self.offsets] = True

    def runs(self) -> tuple[Indices, Indices]:
        """Where runs of digits begin and end."""
        count = len(self.data)
        edges = np.zeros(count + 1, np.bool_)
        np.not_equal(self.digits[1:], self.digits[:-1], out=edges[1:count])
        edges[0], edges[count] = self.digits[0], self.digits[-1]
        at = np.flatnonzero(edges)
        # A number at a text's end and one at the beginning of the next are two.
        inner = self.offsets[(self.offsets > 0) & (self.offsets < count)]
        inner = inner[self.digits[inner - 1] & self.digits[inner]]
        if len(inner):
            at = np.sort(np.concatenate((at, np.repeat(np.unique(inner), 2))))
        return at[::2], at[1::2]

    def rows(self, at: Indices) -> Indices:
        """The texts in which bytes stand."""
        return np.searchsorted(self.offsets, at, "right") - 1

    def begin(self, at: Indices) -> Flags:
        """Whether a text begins at places."""
        return self._begins[at]

    def before(self, at: Indices, distance: int = 1) -> Buffer:
        """The byte so far before each place; 0 if that is another text's."""
        inside = ~self._begins[at]
        for less in range(1, distance):
            inside &= ~self._begins[at - less]
        return np.where(inside, self.data[at - distance], np.uint8(0))

    def behind(self, at: Indices) -> Buffer:
        """The byte at each place behind something; 0 where its text ends."""
        return np.where(self._begins[at], np.uint8(0), self.data[np.minimum(at, len(self.data) - 1)])


def plain_cards(texts: pa.Array) -> tuple[Spans, Flags]:
    """The finder beside `checks.card`: issuer, length and check digit are right, no decimal point, sign or account number near."""
    doubtful = np.zeros(len(texts), np.bool_)
    column = _Column(texts)
    if not column.digits.any():
        return Spans.of(()), doubtful
    starts, ends = column.runs()
    first, last = _card_runs(column, starts, ends)
    if not len(first):
        return Spans.of(()), doubtful
    rows = column.rows(starts[first])
    valid = _valid(column, starts, ends, first, last)
    taken = valid & _unhindered(column, starts, ends, first, last)
    # Without groups there is no shorter end that might be right.
    unsure = ~taken & (valid | (first < last))
    unsure[1:] |= first[1:] <= last[:-1]
    doubtful[rows[unsure]] = True
    taken &= ~doubtful[rows]
    first, last, rows = first[taken], last[taken], rows[taken]
    begins = column.offsets[rows]
    return Spans(rows, starts[first] - begins, ends[last] - begins), doubtful


def _card_runs(column: _Column, starts: Indices, ends: Indices) -> tuple[Indices, Indices]:
    """What is written as card numbers are, in ascending order: the numbers of its first and its last run of digits."""
    lengths = np.append(ends - starts, (0, 0, 0, 0))
    whole = np.flatnonzero((lengths >= _CARD_DIGITS_MIN) & (lengths <= CARD_DIGITS_MAX))
    # In groups: by run, what stands alone between it and the next one of its text.
    gaps = np.zeros(len(lengths), np.uint8)
    near = np.flatnonzero((starts[1:] - ends[:-1] == 1) & ~column.begin(starts[1:]))
    gaps[near] = column.data[ends[near]]
    gaps[(gaps != _BLANK) & (gaps != _DASH)] = 0
    four = np.flatnonzero((lengths[:-4] == _PREFIX) & (gaps[:-4] > 0))
    sizes = [lengths[four + count] for count in range(1, 5)]
    same = [gaps[four + count] == gaps[four] for count in range(1, 4)]
    fours = (sizes[0] == 4) & same[0] & (sizes[1] == 4) & same[1] & (sizes[2] == 4)
    sixes = (sizes[0] == 6) & same[0] & ((sizes[1] == 4) | (sizes[1] == 5)) & (column.data[starts[four]] == _THREE)
    last = four + np.where(fours, 3, 2)
    fifth = np.flatnonzero(fours & same[2] & (sizes[3] <= 3))
    last[fifth] += ~_IS_WORD[column.behind(ends[last[fifth] + 1])]
    grouped = fours | sixes
    if grouped.any():
        first, last = np.concatenate((whole, four[grouped])), np.concatenate((whole, last[grouped]))
        order = np.argsort(first)
        first, last = first[order], last[order]
    else:
        first = last = whole
    at = starts[first]
    lead, before = column.data[at], column.before(at)
    begins = ~_IS_WORD[before] | _IS_ESCAPE[before] & (column.before(at, 2) == _BACKSLASH)
    chosen = (lead >= _LEAD_MIN) & (lead <= _LEAD_MAX) & begins & ~_IS_WORD[column.behind(ends[last])]
    return first[chosen], last[chosen]


def _unhindered(column: _Column, starts: Indices, ends: Indices, first: Indices, last: Indices) -> Flags:
    """Which numbers the check takes whole if they are valid: what stands beside them isn't looked at more closely."""
    at, end = starts[first], ends[last]
    before, behind = column.before(at), column.behind(end)
    fraction = _IS_POINT[before] & _ENDS_NUMBER[column.before(at, 2)]
    goes_on = (behind == _DOT) & column.digits[np.minimum(end + 1, len(column.data) - 1)]
    plain: Flags = ~(fraction | goes_on | (before == _DASH) | (before == _PLUS))
    # An account number that began before, as two letters and two digits.
    letters = _IS_LETTER[column.data[starts - 1]] & _IS_LETTER[column.data[starts - 2]]
    heads = starts[letters & (ends - starts >= _HEAD_DIGITS)]
    if len(heads):
        nearest = heads[np.maximum(np.searchsorted(heads, at) - 1, 0)]
        plain &= (nearest >= at) | (nearest < at - IBAN_CHARACTERS_MAX)
    return plain


def _valid(column: _Column, starts: Indices, ends: Indices, first: Indices, last: Indices) -> Flags:
    """Which numbers have an issuer and the right check digit; see `checks.plausible_card`."""
    digits = column.data[column.digits] - np.uint8(_ZERO)
    through = np.cumsum(ends - starts)
    begin, end = through[first] - (ends - starts)[first], through[last]
    prefix = digits[begin[:, None] + np.arange(_PREFIX)] @ np.array((1000, 100, 10, 1))
    doubled = _DOUBLED[digits]
    # Of a number that ends at an even place every digit at an odd one counts twice, and the other way round.
    mixed = digits.copy()
    mixed[1::2] = doubled[1::2]
    odd = np.append(0, np.cumsum(mixed, dtype=np.int64))
    mixed = doubled
    mixed[1::2] = digits[1::2]
    even = np.append(0, np.cumsum(mixed, dtype=np.int64))
    sums = np.where(end % 2 == 1, odd[end] - odd[begin], even[end] - even[begin])
    valid: Flags = _issuers()[prefix, end - begin] & (sums % 10 == 0)
    return valid


@cache
def _issuers() -> Flags:
    """By the first digits of a number and its length, whether there is an issuer of such."""
    table = np.zeros((10**_PREFIX, CARD_DIGITS_MAX + 1), np.bool_)
    for prefix in range(2000, 7000):
        for length in range(_CARD_DIGITS_MIN, CARD_DIGITS_MAX + 1):
            table[prefix, length] = known_issuer(f"{prefix}{0:0{length - _PREFIX}}")
    return table


def plain_json_cards(texts: pa.Array) -> tuple[Spans, Flags]:
    """The finder beside `checks.json_card`, which is asked where a number of a card's length stands behind what may be JSON."""
    doubtful = np.zeros(len(texts), np.bool_)
    # A member stands behind a quote, an item in an array that may begin an object's.
    if any(holds(texts, b'"', b"[", b"{")) and (column := _Column(texts)).digits.any():
        starts, ends = column.runs()
        lengths = ends - starts
        at = starts[(lengths >= _CARD_DIGITS_MIN) & (lengths <= CARD_DIGITS_MAX)]
        doubtful[column.rows(at[_OPENS_JSON[column.before(at)]])] = True
    return Spans.of(()), doubtful


def plain_phones(pattern: str) -> Finder:
    """The finder beside `checks.phone`: of a plausible length, and no more digits follow.

    Args:
        pattern: The rule's, as polars takes it. What it keeps of a match can be told from the match's beginning (`_kept`).
    """
    # Without groups a match costs half as much.
    placing = pl.col("").str.replace_all(_without_groups(pattern), PLACE)

    def find(texts: pa.Array) -> tuple[Spans, Flags]:
        doubtful = holding_marks(texts) if holds(texts, LEAD)[0] else np.zeros(len(texts), np.bool_)
        placed = pl.Series("", texts, pl.String).to_frame().select_seq(placing).to_series()
        matches, several = placed_spans(texts, large(placed), 0, 0)
        doubtful[several] = True
        matches = matches.where(~doubtful[matches.rows])
        if not len(matches):
            return matches, doubtful
        column = _Column(texts)
        begins = column.offsets[matches.rows]
        at, end = begins + matches.starts, begins + matches.ends
        starts = at + _kept(column, at)
        behind = column.behind(end)
        goes_on = ((behind == _DOT) | (behind == _DASH)) & column.digits[np.minimum(end + 1, len(column.data) - 1)]
        through = np.append(0, np.cumsum(column.digits))
        count = through[end] - through[starts]
        sure = (count >= PHONE_DIGITS_MIN) & (count <= PHONE_DIGITS_MAX) & ~goes_on & (starts >= at)
        doubtful[matches.rows[~sure]] = True
        return Spans(matches.rows, starts - begins, matches.ends).where(sure), doubtful

    return find


def _kept(column: _Column, at: Indices) -> Indices:
    """How many bytes of a phone's match stand before the number; negative: that isn't plain."""
    byte = column.data[at]
    kept = _KEPT[byte]
    last = len(column.data) - 1
    following = column.data[np.minimum(at + 1, last)]
    kept[(byte == _BACKSLASH) & ~(_IS_DIGIT[following] | (following == _PLUS))] = -1
    # `(212) 555-0123` at a text's beginning is a number, `(212-555-0123)` one in brackets.
    kept[(byte == _OPENING) & column.begin(at)] = -1
    return kept


def _without_groups(pattern: str) -> str:
    """A pattern whose groups are only that."""
    return re.sub(r"(\\.|\[\^?\]?(?:\\.|[^\]\\])*\])|\((?!\?)", lambda match: match[1] or "(?:", pattern)
