r"""The few texts that may hide something from the rules, at hardly any cost for all others: see `readable` for what is undone.

What is ordinary doesn't count: `%20` and `%2F` but between digits, `\u003c` as encoders write a `<`, accents, CJK, emoji, a
dash or a space of any kind but inside a word or a number.
"""

from __future__ import annotations

import base64
import binascii
import codecs
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.protect.columns import Flags, Indices, string_bytes
from heimdall_server.protect.readable import CONTROLS, GONE, characters, hexadecimal, meanings
from heimdall_server.protect.spans import Buffer

_CHUNK: Final = 1 << 17
_PERCENT, _BACKSLASH, _U, _QUOTE, _COLON, _SPACE, _SLASH = b'%\\u": /'
_LEAD_MIN: Final = 0xC2
_DELETE: Final = 0x7F
_CONTROL_RANGES: Final = ((np.uint8(0), np.uint8(9)), (np.uint8(0xB), np.uint8(2)), (np.uint8(0xE), np.uint8(0x12)))
"""Where `CONTROLS` below a blank begin, and how many follow each other."""


def _bytes_among(some: bytes) -> Flags:
    table = np.zeros(256, np.bool_)
    table[list(some)] = True
    return table


_DIGITS: Final = b"0123456789"
_WORD: Final = _DIGITS + b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TELLING: Final = _bytes_among(_WORD + b"@")
"""Nobody has to write these in another way."""
_ENCODED: Final = _bytes_among(_WORD + b'@%+:="._()[]{}-\xef')
"""Percent-encoded, these (and what begins a full-width form) may hide something; others only between digits."""
_ESCAPED: Final = np.concatenate([np.ones(0x80, np.bool_), np.zeros(0x80, np.bool_)])
_ESCAPED[list(b"<>&'")] = _ESCAPED[:_SPACE] = False
_BESIDE: Final = _bytes_among(_WORD + b"@._+-:=")
_NEAR: Final = _BESIDE | CONTROLS | _bytes_among(b"%\\")
_NEAR[0x80:] = True
"""What may stand between a part of a value and what nobody sees: more of that."""
_IS_DIGIT: Final = _bytes_among(_DIGITS)
_LEADS: Final = _bytes_among(
    bytes((0xC2, 0xCD, 0xD8, 0xD9, 0xDB, 0xDF, 0xE0, 0xE1, 0xE2, 0xE3, 0xEA, 0xEF, 0xF0, 0xF3))
)
"""First bytes of the characters that `meanings` knows."""

_BASE64_MIN: Final = 16
_BASE64_MAX: Final = 64 * 1024
_QUARTETS: Final = 3
"""Looked at before anything is decoded: a thing that isn't text passes them one time in ten thousand."""
_SIX_BITS: Final = np.full(256, 255, np.uint8)
_SIX_BITS[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")] = np.arange(64)
_SIX_BITS[list(b"-_")] = (62, 63)
_ASCII_FIRST: Final = 32
"""What the first of four characters stands for is less than this if the first byte is ASCII."""
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_PRINTABLE: Final = _bytes_among(bytes(range(0x20, 0x7F)) + b"\t\r\n")


def disguised(texts: pa.StringArray) -> Indices:
    """Which texts may read as something else than they are.

    Args:
        texts: Without nulls.

    Returns:
        Their indices, ascending.

    Cost: a fifth of a nanosecond a byte where there is nothing.
    """
    offsets, data = string_bytes(texts)
    begin, end = int(offsets[0]), int(offsets[-1])
    at = _marks(data, begin, end)
    if not len(at):
        return at
    data = data[:end]
    marks = data[at]
    kinds = (
        (_percent, marks == _PERCENT),
        (_escapes, marks == _BACKSLASH),
        (_characters, _LEADS[marks]),
        (_controls, CONTROLS[marks]),
    )
    found = [places_of(data, at[flags]) for places_of, flags in kinds if flags.any()]
    if not found:
        return np.empty(0, np.int64)
    places = np.concatenate(found)
    rows = np.searchsorted(offsets, places, "right") - 1
    # What begins at a text's last byte doesn't go on in the next text.
    return np.unique(rows[places + 1 < offsets[rows + 1]])


def _marks(data: Buffer, begin: int, end: int) -> Indices:
    size = min(_CHUNK, end - begin)
    found, more = np.empty(size, np.bool_), np.empty(size, np.bool_)
    places = [np.empty(0, np.int64)]
    for start in range(begin, end, _CHUNK):
        chunk = data[start : min(start + _CHUNK, end)]
        here, other = found[: len(chunk)], more[: len(chunk)]
        np.equal(chunk, _PERCENT, out=here)
        np.equal(chunk, _BACKSLASH, out=other)
        np.logical_or(here, other, out=here)
        highest = chunk.max()
        if highest >= _LEAD_MIN:
            np.greater_equal(chunk, _LEAD_MIN, out=other)
            np.logical_or(here, other, out=here)
        if highest >= _DELETE:
            np.equal(chunk, _DELETE, out=other)
            np.logical_or(here, other, out=here)
        if chunk.min() < _SPACE:
            for first, count in _CONTROL_RANGES:
                # Of smaller bytes the difference is a large one.
                differences = np.subtract(chunk, first, out=other.view(np.uint8))
                np.less(differences, count, out=other)
                np.logical_or(here, other, out=here)
        if here.any():
            places.append(np.flatnonzero(here) + start)
    return np.concatenate(places)


def _percent(data: Buffer, at: Indices) -> Indices:
    codes, valid = hexadecimal(data, at + 1, 2)
    between = _IS_DIGIT[_byte(data, at - 1)] & _IS_DIGIT[_byte(data, at + 3)]
    control = CONTROLS[np.where(valid, codes, 0xFF)] & _within_word(data, at, at + 3)
    chosen: Flags = valid & (_ENCODED[codes] | between & (codes >= _SPACE) | control)
    return at[chosen]


def _escapes(data: Buffer, at: Indices) -> Indices:
    """Escaped ASCII characters and such as mean one; and bare numbers in JSON in a string, which the rules for JSON don't take."""
    behind, second, third, fourth = (_byte(data, at + count) for count in (1, 2, 3, 4))
    codes, valid = hexadecimal(data, at + 2, 4)
    means = np.where(codes < len(_ESCAPED), _ESCAPED[np.minimum(codes, len(_ESCAPED) - 1)], meanings(codes) > 0)
    means |= (codes < len(CONTROLS)) & CONTROLS[np.minimum(codes, len(CONTROLS) - 1)] & _within_word(data, at, at + 6)
    number = (behind == _QUOTE) & (second == _COLON) & (_IS_DIGIT[third] | (third == _SPACE) & _IS_DIGIT[fourth])
    chosen: Flags = (behind == _U) & valid & means | (behind == _SLASH) | number
    return at[chosen]


def _characters(data: Buffer, at: Indices) -> Indices:
    starts, ends, codes = characters(data, at)
    read = meanings(codes)
    telling = _TELLING[read] & (read > 1)
    beside = _BESIDE[_byte(data, starts - 1)] & _BESIDE[_byte(data, ends)]
    chosen: Flags = telling | beside & (read > 0) | (read == GONE) & _within_word(data, starts, ends)
    return starts[chosen]


def _controls(data: Buffer, at: Indices) -> Indices:
    within = _within_word(data, at, at + 1)
    return at[within]


def _within_word(data: Buffer, starts: Indices, ends: Indices) -> Flags:
    """Which pieces stand beside a part of a word or number, and beside another one or what may hide it."""
    before, behind = _byte(data, starts - 1), _byte(data, ends)
    within: Flags = _BESIDE[before] & _NEAR[behind] | _NEAR[before] & _BESIDE[behind]
    return within


def _byte(data: Buffer, at: Indices) -> Buffer:
    """Bytes at places; those outside are the nearest ones."""
    return data[np.clip(at, 0, len(data) - 1)]


def decoded_base64(texts: pa.StringArray) -> tuple[Indices, list[str]]:
    """Texts that are base64 of a text in UTF-8 or UTF-16, whole: their indices, and what they say.

    What the first nine bytes of that say is ASCII (in UTF-16 perhaps behind a byte order mark).

    Args:
        texts: Without nulls.
    """
    offsets, data = string_bytes(texts)
    lengths = np.diff(offsets)
    rows = np.flatnonzero((lengths >= _BASE64_MIN) & (lengths <= _BASE64_MAX))
    wide = _wide(data, offsets, rows)
    rows = rows[_SIX_BITS[data[offsets[rows]]] < _ASCII_FIRST]
    for quartet in range(_QUARTETS):
        if len(rows):
            rows = rows[_is_text(data, offsets[rows] + 4 * quartet)]
    found: list[int] = []
    decoded: list[str] = []
    if not len(rows) and not len(wide):
        return np.empty(0, np.int64), decoded
    rows = np.union1d(rows, wide)
    utf16 = np.isin(rows, wide).tolist()
    for row, text, in_utf16 in zip(rows.tolist(), texts.take(pa.array(rows)).to_pylist(), utf16, strict=True):
        plain = _decoded(text, utf16=in_utf16)
        if plain is not None:
            found.append(row)
            decoded.append(plain)
    return np.array(found, np.int64), decoded


def _is_text(data: Buffer, at: npt.NDArray[np.integer]) -> Flags:
    """Whether four characters are base64 of three bytes of printable ASCII."""
    bits = _SIX_BITS[data[at[:, None] + np.arange(4)]].astype(np.int64)
    first, second, third, fourth = bits.T
    known = (bits < 64).all(axis=1)
    made = (first << 2 | second >> 4, (second & 15) << 4 | third >> 2, (third & 3) << 6 | fourth)
    text: Flags = known & np.logical_and.reduce([_PRINTABLE[byte & 0xFF] for byte in made])
    return text


def _wide(data: Buffer, offsets: npt.NDArray[np.integer], rows: Indices) -> Indices:
    """Rows whose first bytes are base64 of UTF-16, with a byte order mark or without: every second byte is a zero."""
    starts = offsets[rows]
    first, second, third = (_SIX_BITS[data[starts + count]] for count in range(3))
    # What the first three characters say leaves few: a mark, a zero, or something and a zero.
    likely = (first == _SIX_BITS[ord("/")]) | (first == 0) & (second < 16) | (second & 15 == 0) & (third < 4)
    rows = rows[likely]
    if not len(rows):
        return rows
    quartets = offsets[rows][:, None, None] + 4 * np.arange(_QUARTETS)[:, None] + np.arange(4)
    bits = _SIX_BITS[data[quartets]].astype(np.int64)
    known = (bits < 64).all(axis=(1, 2))
    one, two, three, four = (bits[..., place] for place in range(4))
    made = np.stack((one << 2 | two >> 4, two << 4 & 0xFF | three >> 2, three << 6 & 0xFF | four), axis=2) & 0xFF
    made = made.reshape(len(rows), 3 * _QUARTETS)
    mark = made[:, 0] << 8 | made[:, 1]
    marked = np.isin(mark, (0xFEFF, 0xFFFE))[:, None] & (np.arange(3 * _QUARTETS) < 2)
    zero, text = (made == 0) | marked, _PRINTABLE[made] | marked
    little = text[:, ::2].all(axis=1) & zero[:, 1::2].all(axis=1)
    big = zero[:, ::2].all(axis=1) & text[:, 1::2].all(axis=1)
    chosen: Flags = known & (little | big)
    return rows[chosen]


def _decoded(text: str, *, utf16: bool = False) -> str | None:
    raw = text.encode().translate(_STANDARD).rstrip(b"=")
    try:
        whole = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
        if utf16:
            # Without a byte order mark the zeros tell.
            known = whole.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            plain = whole.decode("utf-16" if known else "utf-16-le" if whole[0] else "utf-16-be")
        else:
            plain = whole.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return plain if all(character.isprintable() or character in "\t\r\n" for character in plain) else None
