r"""Texts as a reader takes them: percent-encoding, JSON's escapes, full-width forms, foreign digits and what can't be seen undone.

Everything is done on the bytes of a whole column: what a few bytes stand for is written in place of the first of them, and the
others are left out. So for each byte of a readable text it is known where it came from, and what a rule finds there can be
replaced in the text as it was. An at sign may be written `%40`, `%2540`, `\u0040`, `\\u0040`, full-width or between two spaces of no width.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.protect.columns import Flags, Indices
from heimdall_server.protect.rules import Rule
from heimdall_server.protect.spans import Buffer, Spans, bytes_of, large, spliced

GONE: Final = 1
"""What has no width: left out."""
SPACES: Final = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
DASHES: Final = frozenset("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63")
DOTS: Final = frozenset("\u2024\u3002\ufe52\uff61")
INVISIBLE: Final = frozenset(
    map(
        chr,
        (0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0, *range(0x80, 0x85), *range(0x86, 0xA0),
         *range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10),
         *range(0xFFF9, 0xFFFC)),
    )
)  # fmt: skip
CONTROLS: Final = np.zeros(256, np.bool_)
"""By byte: control characters of ASCII that separate nothing, among them the zeros in what once was UTF-16."""
CONTROLS[:0x20] = CONTROLS[0x7F] = True
CONTROLS[list(b"\t\n\r")] = False
_TAGS: Final = (0xE0000, 0xE1000)
"""Tags and selectors of variants that can't be seen."""
_MATHEMATICAL: Final = 0x1D400
"""Letters and digits in bold, italics, … up to 1D7FF."""
_MATHEMATICAL_END: Final = 0x1D800
_ESCAPES_MAX: Final = 7
"""Backslashes before a `u`: JSON in JSON in JSON."""
_PERCENT, _BACKSLASH, _U, _LOWER = b"%\\u "
_HEX: Final = np.full(256, 255, np.uint8)
_HEX[list(b"0123456789abcdef")] = _HEX[list(b"0123456789ABCDEF")] = np.arange(16)
_ASCII_END, _CONTINUATION, _CONTINUATION_END, _TWO, _THREE, _FOUR = 0x80, 0x80, 0xC0, 0xC2, 0xE0, 0xF0
_SURROGATES: Final = (0xD800, 0xE000)
_NOT_A_CHARACTER: Final = 0xFFFF

_Codes = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Units:
    """Pieces that stand for one character, in ascending order, none overlapping another."""

    starts: Indices
    ends: Indices
    codes: _Codes
    """The character; `GONE`: none."""


class Readable:
    """A column's texts as they read. Immutable."""

    def __init__(self, texts: pl.Series, *, escapes: bool = True) -> None:
        """Read texts.

        Args:
            texts: String; a null reads as an empty text.
            escapes: Undo percent-encoding and JSON's escapes, too; else only what single characters are, and only values that hold such
                are found: others are left to who knows how they are written (JSON's quotes).

        Cost: some tens of nanoseconds a byte; for the few texts that hide something.
        """
        self._only_hidden: Final = not escapes
        self._raw: Final = texts
        self._starts, data = bytes_of(large(texts.fill_null("")))
        begin = int(self._starts[0])
        self._starts, data = self._starts - begin, data[begin:]
        offsets, origins, ends = self._starts, np.arange(len(data)), np.arange(1, len(data) + 1)
        for units_of in (*((_escaped, _percent, _percent, _percent) if escapes else ()), _controls, _characters):
            units = units_of(data, offsets)
            if len(units.starts):
                data, kept, last, offsets = _rewritten(data, offsets, units)
                origins, ends = origins[kept], ends[last]
        self._offsets: Final = offsets
        self._origins: Final = np.append(origins, self._starts[-1])
        self._ends: Final = np.append(ends, self._starts[-1])
        array = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        self.texts: Final = pl.Series("", array, pl.String)
        """As they read."""

    def found(self, rule: Rule, indices: Indices) -> tuple[Spans, pa.Array]:
        """What a rule finds in some of the texts.

        Args:
            rule: The rule.
            indices: Of the texts, ascending.

        Returns:
            Where it stands in the texts as they were, by number among those chosen, and what it reads.
        """
        chosen = self.texts.gather(indices)
        spans = rule.spans(chosen)
        here = self.original(spans.of_rows(indices))
        read = spliced(large(chosen), spans, pa.nulls(len(spans), pa.large_string()).fill_null(""))[1]
        if self._only_hidden:
            hidden = here.ends - here.starts != spans.ends - spans.starts
            hidden &= ~self._separated(rule, here, np.flatnonzero(hidden))
            spans, here = spans.where(hidden), here.where(hidden)
            read = read.filter(pa.array(hidden))
        return Spans(spans.rows, here.starts, here.ends), read

    def _separated(self, rule: Rule, spans: Spans, numbers: Indices) -> Flags:
        r"""Which of some spans are a value with a control character behind it and something else, as in `a@b.com\0PATH`."""
        separated = np.zeros(len(spans), np.bool_)
        for number in numbers.tolist():
            raw = self._raw[int(spans.rows[number])].encode()[spans.starts[number] : spans.ends[number]]
            at = np.flatnonzero(CONTROLS[np.frombuffer(raw, np.uint8)])
            if not len(at):
                continue
            alone = rule.spans(pl.Series("", [raw[: at[0]].decode()], pl.String))
            separated[number] = len(alone) > 0 and alone.starts[0] == 0 and alone.ends[-1] == at[0]
        return separated

    def original(self, spans: Spans) -> Spans:
        """Where pieces of the readable texts stand in the texts as they were."""
        base, starts = self._offsets[spans.rows], self._starts[spans.rows]
        # To the end of what the last byte stands for: what has no width behind it isn't part of the piece.
        begins, ends = self._origins[base + spans.starts], self._ends[base + spans.ends - 1]
        return Spans(spans.rows, begins - starts, np.where(spans.ends > spans.starts, ends, begins) - starts)


def _rewritten(data: Buffer, offsets: Indices, units: _Units) -> tuple[Buffer, Indices, Indices, Indices]:
    """Write characters in place of units.

    Returns:
        Bytes, where each came from, the last byte of what it stands for, and offsets.
    """
    codes = units.codes
    sizes = np.where(codes == GONE, 0, 1 + (codes >= _ASCII_END) + (codes >= 0x800)).astype(np.int64)
    data = data.copy()
    at, code = units.starts[sizes == 1], codes[sizes == 1]
    data[at] = code
    at, code = units.starts[sizes == 2], codes[sizes == 2]
    data[at], data[at + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
    at, code = units.starts[sizes == 3], codes[sizes == 3]
    data[at], data[at + 1], data[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    change = np.zeros(len(data) + 1, np.int64)
    np.add.at(change, units.starts + sizes, 1)
    np.add.at(change, units.ends, -1)
    keep = np.cumsum(change)[:-1] == 0
    kept = np.flatnonzero(keep)
    last = np.arange(len(data))
    for byte in range(3):
        longer = sizes > byte
        last[units.starts[longer] + byte] = units.ends[longer] - 1
    return data[kept], kept, last[kept], np.append(0, np.cumsum(keep))[offsets]


def hexadecimal(data: Buffer, at: Indices, digits: int) -> tuple[_Codes, Flags]:
    """Numbers of some digits that stand at places, and which of them are numbers."""
    places = at[:, None] + np.arange(digits)
    inside = places[:, -1] < len(data)
    values = _HEX[data[np.minimum(places, max(len(data) - 1, 0))]]
    weights = 16 ** np.arange(digits - 1, -1, -1)
    numbers = ((values & 0x0F).astype(np.uint32) * weights).sum(axis=1).astype(np.uint32)
    return numbers, inside & (values < 16).all(axis=1)


def _within(offsets: Indices, starts: Indices, ends: Indices) -> Flags:
    """Which pieces don't reach into the next text."""
    rows = np.searchsorted(offsets, starts, "right")
    within: Flags = ends <= offsets[np.minimum(rows, len(offsets) - 1)]
    return within


def _escaped(data: Buffer, offsets: Indices) -> _Units:
    r"""Escapes of JSON, with as many backslashes as there are strings around: `\u0040`, `\"`, `\/`."""
    at = np.flatnonzero(data == _BACKSLASH)
    first = np.ones(len(at), np.bool_)
    # Those at a text's end and those at the beginning of the next aren't one row.
    first[1:] = (np.diff(at) > 1) | (np.diff(np.searchsorted(offsets, at, "right")) > 0)
    starts = at[first]
    counts = np.diff(np.append(np.flatnonzero(first), len(at)))
    behind = starts + counts
    followed = np.append(data, 0)[np.minimum(behind, len(data))]
    codes, valid = hexadecimal(data, behind + 1, 4)
    codes_of = np.where(followed == _U, np.where(_is_control(codes), GONE, codes), followed)
    ends = np.where(followed == _U, behind + 5, behind + 1)
    sound = (codes >= _LOWER) | _is_control(codes)
    sound &= ((codes < _SURROGATES[0]) | (codes >= _SURROGATES[1])) & (codes < _NOT_A_CHARACTER)
    chosen = (followed == _U) & valid & sound | np.isin(followed, list(b'"/'))
    chosen &= (counts <= _ESCAPES_MAX) & _within(offsets, starts, ends)
    return _Units(starts[chosen], ends[chosen], codes_of[chosen].astype(np.uint32))


def _percent(data: Buffer, offsets: Indices) -> _Units:
    """Percent-encoded characters of up to three bytes (RFC 3986, section 2.1). What separates (`%0A`, `%09`) stays."""
    at = np.flatnonzero(data == _PERCENT)
    codes, valid = hexadecimal(data, at + 1, 2)
    valid &= _within(offsets, at, at + 3)
    at, codes = at[valid], codes[valid]
    following = [np.append(codes[count:], np.zeros(count, np.uint32))[: len(codes)] for count in (1, 2)]
    adjacent = [np.append(at[count:], np.full(count, -1))[: len(at)] == at + 3 * count for count in (1, 2)]
    rows = np.searchsorted(offsets, at, "right")
    goes_on = [
        near & (code >= _CONTINUATION) & (code < _CONTINUATION_END) & (at + 3 * count + 3 <= offsets[rows])
        for near, code, count in zip(adjacent, following, (1, 2), strict=True)
    ]
    control = _is_control(codes)
    one = (codes >= _LOWER) & (codes < _ASCII_END - 1) | control
    two = (codes >= _TWO) & (codes < _THREE) & goes_on[0]
    three = (codes >= _THREE) & (codes < _FOUR) & goes_on[0] & goes_on[1]
    character = np.where(
        three,
        (codes & 0x0F) << 12 | (following[0] & 0x3F) << 6 | following[1] & 0x3F,
        np.where(two, (codes & 0x1F) << 6 | following[0] & 0x3F, np.where(control, GONE, codes)),
    )
    three &= (character >= 0x800) & ((character < _SURROGATES[0]) | (character >= _SURROGATES[1]))
    chosen = one | two | three
    width = np.where(three, 9, np.where(two, 6, 3))
    return _Units(at[chosen], (at + width)[chosen], character[chosen].astype(np.uint32))


def _is_control(codes: _Codes) -> Flags:
    return (codes < _ASCII_END) & CONTROLS[np.minimum(codes, _ASCII_END)]


def _controls(data: Buffer, offsets: Indices) -> _Units:
    """Control characters, which nobody sees."""
    del offsets
    at = np.flatnonzero(CONTROLS[data])
    return _Units(at, at + 1, np.full(len(at), GONE, np.uint32))


def _characters(data: Buffer, offsets: Indices) -> _Units:
    """Characters that stand for an ASCII one, or can't be seen."""
    del offsets
    starts, ends, codes = characters(data, np.flatnonzero(data >= _TWO))
    read = meanings(codes)
    chosen = read > 0
    return _Units(starts[chosen], ends[chosen], read[chosen])


def characters(data: Buffer, at: Indices) -> tuple[Indices, Indices, _Codes]:
    """Characters of two bytes and more that begin at places: where they begin and end, and their numbers."""
    lead = data[at].astype(np.uint32)
    last = max(len(data) - 1, 0)
    rest = [data[np.minimum(at + count, last)].astype(np.uint32) & 0x3F for count in range(4)]
    width = 2 + (lead >= _THREE) + (lead >= _FOUR)
    codes = np.where(
        width == 2,
        (lead & 0x1F) << 6 | rest[1],
        np.where(
            width == 3,
            (lead & 0x0F) << 12 | rest[1] << 6 | rest[2],
            (lead & 0x07) << 18 | rest[1] << 12 | rest[2] << 6 | rest[3],
        ),
    )
    return at, at + width, codes.astype(np.uint32)


def meanings(codes: _Codes) -> _Codes:
    """What characters read as: the number of an ASCII one, `GONE`, or 0 for what they are."""
    table = _meanings()
    read = table[np.minimum(codes, len(table) - 1)]
    styled = (codes >= _MATHEMATICAL) & (codes < _MATHEMATICAL_END)
    if styled.any():
        read[styled] = _styled()[codes[styled] - _MATHEMATICAL]
    read[(codes >= _TAGS[0]) & (codes < _TAGS[1])] = GONE
    return read


@cache
def _meanings() -> _Codes:
    table = np.zeros(0x10001, np.uint32)
    for code in range(_ASCII_END, 0x10000):
        if unicodedata.category(chr(code)) == "Nd":
            table[code] = ord(str(unicodedata.digit(chr(code))))
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    table[0xFE6B] = ord("@")
    table[0xFE55] = ord(":")
    for some, meaning in ((SPACES, ord(" ")), (DASHES, ord("-")), (DOTS, ord(".")), (INVISIBLE, GONE)):
        table[[ord(character) for character in some]] = meaning
    return table


@cache
def _styled() -> _Codes:
    plain = (unicodedata.normalize("NFKC", chr(code)) for code in range(_MATHEMATICAL, _MATHEMATICAL_END))
    return np.array([ord(text) if len(text) == 1 and text.isascii() else 0 for text in plain], np.uint32)
