"""Lines of JSON → structural tokens, by array operations over the bytes; malformed lines are told from good ones.

The way of simdjson's first stage, in NumPy: find quotes, drop the escaped ones, let the parity of the rest say what is
inside a string, keep brackets, colons and commas outside; then check that neighbouring tokens may stand together. A
line is judged by itself: what is wrong in one never changes how another is read. Whether a number or literal is
well-formed is for `json_values` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

DEPTH_MAX: Final = 64
"""Levels of nesting a record may have."""

Index = npt.NDArray[np.int64]
Places = Index | npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

LINE, OBJECT_OPEN, OBJECT_CLOSE, ARRAY_OPEN, ARRAY_CLOSE, COLON, COMMA, STRING, KEY = range(9)
"""Codes of tokens. LINE is a line's end; a STRING is any string that isn't a KEY."""

_NEWLINE, _QUOTE, _BACKSLASH = 10, 34, 92
_TRIM_STEPS: Final = 4
"""White space between tokens is mostly a single blank; longer runs take the general way."""
_VALUE: Final = (STRING, OBJECT_OPEN, ARRAY_OPEN)
_DONE: Final = (STRING, OBJECT_CLOSE, ARRAY_CLOSE)


def _table(pairs: dict[int, int], default: int = 0) -> bytes:
    return bytes(pairs.get(index, default) for index in range(256))


_CODES: Final = _table({
    _NEWLINE: LINE, 123: OBJECT_OPEN, 125: OBJECT_CLOSE, 91: ARRAY_OPEN, 93: ARRAY_CLOSE, 58: COLON, 44: COMMA, _QUOTE: STRING,
})  # fmt: skip
_STEPS: Final = _table({OBJECT_OPEN: 1, ARRAY_OPEN: 1, OBJECT_CLOSE: 255, ARRAY_CLOSE: 255})
_SPACE: Final = np.zeros(256, np.bool_)
_SPACE[[9, 13, 32]] = True
_HEX: Final = np.full(256, -1, np.int32)
for _digit in "0123456789abcdefABCDEF":
    _HEX[ord(_digit)] = int(_digit, 16)


def _neighbours() -> Iterator[tuple[int, int, bool, bool]]:
    """(token, next token, a primitive stands between, inside an array) that are grammatical."""
    yield from ((LINE, OBJECT_OPEN, False, False), (LINE, LINE, False, False), (OBJECT_CLOSE, LINE, False, False))
    yield from ((OBJECT_OPEN, KEY, False, False), (OBJECT_OPEN, OBJECT_CLOSE, False, False), (KEY, COLON, False, False))
    yield (COMMA, KEY, False, False)
    yield (ARRAY_OPEN, ARRAY_CLOSE, False, True)
    for value in _VALUE:
        yield (COLON, value, False, False)
        yield from ((before, value, False, True) for before in (ARRAY_OPEN, COMMA))
    for after, in_array in ((COMMA, False), (OBJECT_CLOSE, False), (COMMA, True), (ARRAY_CLOSE, True)):
        yield from ((done, after, False, in_array) for done in _DONE)
        yield from ((before, after, True, in_array) for before in ((ARRAY_OPEN, COMMA) if in_array else (COLON,)))


_ALLOWED: Final = bytearray(256)
"""Neighbours (16 * token + next) → bit set of 1 << (2 * primitive + in array)."""
for _first, _second, _primitive, _in_array in _neighbours():
    _ALLOWED[16 * _first + _second] |= 1 << (2 * _primitive + _in_array)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The structure of some lines. Positions count bytes of the text scanned; lines count from 0, blank ones too."""

    text: Bytes
    line_ends: Index
    """Position of each line's newline."""
    bad: Mask
    """Shape (line,). Lines that aren't one JSON object; their tokens are left out."""
    blank: Mask
    """Shape (line,). Lines of white space."""
    start: Index
    """Shape (token,). Position; the first token is the line end before the first line, at -1."""
    end: Index
    """Shape (token,). Last position: of a string its closing quote, else as `start`."""
    code: Bytes
    depth: npt.NDArray[np.int32]
    """Shape (token,). Levels open behind the token."""
    in_array: Mask | None
    """Shape (token,). Whether the innermost level open behind the token is an array; None: no arrays at all."""
    primitive: Mask
    """Shape (token,). Whether a number or literal follows before the next token."""
    primitive_start: Index
    """Shape (primitive,). Position of each."""
    primitive_end: Index
    """Shape (primitive,). Position behind it."""


def scan(text: Bytes, bad: Mask | None = None) -> Tokens:
    """Find the structure of lines.

    Args:
        text: Whole lines, the last byte a newline. UTF-8 apart from lines in `bad`.
        bad: Lines that are refused already.

    Cost:
        About 2 ns a byte and 15 ns a token. Best on pieces that fit the processor's cache. Thread-safe.
    """
    line_ends = np.flatnonzero(text == _NEWLINE)
    refused = np.zeros(len(line_ends), np.bool_) if bad is None else bad.copy()
    position, byte = candidates(text)
    refused |= _bad_bytes(text, line_ends, position, byte)
    while True:
        tokens, more = _tokens(text, line_ends, refused, *_without(refused, line_ends, position, byte))
        if not more.any():
            return tokens
        refused |= more


def candidates(text: Bytes) -> tuple[Index, Bytes]:
    """Positions of brackets, colons, commas, newlines and unescaped quotes, and the byte at each.

    What stands inside strings is still among them.
    """
    # 0x20 apart: [ and {, ] and }.
    folded = text | 0x20
    wanted = (folded == 0x7B) | (folded == 0x7D)
    for byte in (_QUOTE, 0x2C, 0x3A):
        wanted |= text == byte
    backslash = np.flatnonzero(text == _BACKSLASH)
    if backslash.size:
        escaped = escaped_bytes(backslash)
        wanted[escaped[escaped < len(text)]] = False
    wanted |= text == _NEWLINE
    position = np.flatnonzero(wanted)
    return position, text[position]


def escaped_bytes(backslash: Index) -> Index:
    """Positions of the bytes that a backslash escapes: behind each odd one of a run."""
    fresh = np.ones(len(backslash), np.bool_)
    fresh[1:] = backslash[1:] - backslash[:-1] != 1
    run_start = np.maximum.accumulate(np.where(fresh, np.arange(len(backslash)), 0))
    odd = (np.arange(len(backslash)) - run_start) % 2 == 0
    out: Index = backslash[odd] + 1
    return out


def _bad_bytes(text: Bytes, line_ends: Index, position: Index, byte: Bytes) -> Mask:
    """Lines with a raw control character or a malformed escape in a string."""
    bad = np.zeros(len(line_ends), np.bool_)
    backslash = np.flatnonzero(text == _BACKSLASH)
    if backslash.size:
        bad[np.searchsorted(line_ends, bad_escapes(text, escaped_bytes(backslash)))] = True
    control = text < 0x20
    if np.count_nonzero(control) != len(line_ends):
        where = np.flatnonzero(control & (text != _NEWLINE))
        line = np.searchsorted(line_ends, where)
        quotes = position[byte == _QUOTE]
        per_line = np.concatenate([np.zeros(1, np.int64), np.searchsorted(quotes, line_ends)])
        # Outside strings it is white space, or part of what can't be a primitive.
        before = np.searchsorted(quotes, where) - per_line[line]
        bad[line[before % 2 == 1]] = True
    return bad


def bad_escapes(text: Bytes, escaped: Index) -> Index:
    """Positions of escaped bytes that form no valid escape; half of a surrogate pair isn't one."""
    byte = text[escaped]
    unicode = byte == ord("u")
    bad = [escaped[~unicode & ~np.isin(byte, np.frombuffer(b'"\\/bfnrt', np.uint8))]]
    start = escaped[unicode]
    if start.size:
        digits = _HEX[text[np.minimum(start[:, None] + np.arange(1, 5), len(text) - 1)]]
        bad.append(start[(digits < 0).any(axis=1)])
        unit = (digits * np.array([4096, 256, 16, 1])).sum(axis=1)
        high, low = unit >> 10 == 0x36, unit >> 10 == 0x37
        joined = np.zeros(len(start) + 1, np.bool_)
        joined[1:-1] = (start[1:] - start[:-1] == 6) & high[:-1] & low[1:]
        bad.append(start[(high & ~joined[1:]) | (low & ~joined[:-1])])
    return np.concatenate(bad)


def _without(refused: Mask, line_ends: Index, position: Index, byte: Bytes) -> tuple[Index, Bytes]:
    """Leave out the tokens of refused lines, except their ends."""
    if not refused.any():
        return position, byte
    ends = np.searchsorted(position, line_ends)
    kept = np.repeat(~refused, np.diff(ends, prepend=-1))
    kept[ends] = True
    return position[kept], byte[kept]


def _tokens(text: Bytes, line_ends: Index, refused: Mask, position: Index, byte: Bytes) -> tuple[Tokens, Mask]:
    """Read the structure of what isn't refused, and find more lines to refuse."""
    is_quote = byte == _QUOTE
    odd = np.cumsum(is_quote, dtype=np.uint8) & 1
    if (unclosed := np.diff(odd[byte == _NEWLINE], prepend=np.uint8(0)) != 0).any():
        return _empty(text, line_ends, refused), unclosed
    # Every line has an even number of quotes, so the parity of all before says what is inside a string.
    start = np.concatenate([np.full(1, -1, np.int64), position[odd == is_quote]])
    code = np.frombuffer(b"\0" + byte[odd == is_quote].tobytes().translate(_CODES), np.uint8).copy()
    end = start.copy()
    end[code == STRING] = position[is_quote & (odd == 0)]
    bad = np.zeros(len(line_ends), np.bool_)

    depth = np.cumsum(np.frombuffer(code.tobytes().translate(_STEPS), np.int8), dtype=np.int32)
    at_line_end = np.flatnonzero(code == LINE)
    at_zero = depth[at_line_end] == 0
    if not at_zero.all():
        # Unbalanced: the lines behind can't be judged before these are gone.
        unbalanced = np.diff(depth[at_line_end]) != 0
        return _empty(text, line_ends, refused), unbalanced
    in_array = _contexts(code, depth) if (code == ARRAY_OPEN).any() else None

    previous = code[:-1]
    key = np.zeros(len(code), np.bool_)
    key[1:] = (code[1:] == STRING) & ((previous == OBJECT_OPEN) | (previous == COMMA))
    if in_array is not None:
        key[1:] &= ~in_array[:-1]
    code[key] = KEY

    primitive, primitive_start, primitive_end = _gaps(text, start, end, at_line_end[1:][refused])
    pair = (code[:-1] << 4) | code[1:]
    situation = primitive[:-1].astype(np.uint8) << 1
    if in_array is not None:
        situation |= in_array[:-1]
    allowed = np.frombuffer(pair.tobytes().translate(bytes(_ALLOWED)), np.uint8)
    wrong = (allowed >> situation) & 1 == 0
    wrong |= (depth[:-1] == 0) & (previous != LINE) & (code[1:] != LINE)
    wrong |= depth[1:] > DEPTH_MAX
    if wrong.any():
        bad[np.searchsorted(line_ends, start[1:][wrong])] = True
        bad &= ~refused
    blank = (previous[at_line_end[1:] - 1] == LINE) & ~refused & ~bad
    tokens = Tokens(
        text=text,
        line_ends=line_ends,
        bad=refused,
        blank=blank,
        start=start,
        end=end,
        code=code,
        depth=depth,
        in_array=in_array,
        primitive=primitive,
        primitive_start=primitive_start,
        primitive_end=primitive_end,
    )
    return tokens, bad


def _empty(text: Bytes, line_ends: Index, refused: Mask) -> Tokens:
    none = np.zeros(0, np.int64)
    flags = np.zeros(0, np.bool_)
    code, depth = np.zeros(0, np.uint8), np.zeros(0, np.int32)
    return Tokens(text, line_ends, refused, refused, none, none, code, depth, None, flags, none, none)


def _contexts(code: Bytes, depth: npt.NDArray[np.int32]) -> Mask:
    """Whether the innermost level open behind each token is an array."""
    out = np.zeros(len(code), np.bool_)
    opens = (code == OBJECT_OPEN) | (code == ARRAY_OPEN)
    for level in range(1, min(int(depth.max()), DEPTH_MAX) + 1):
        inside = np.flatnonzero(depth == level)
        opener = np.maximum.accumulate(np.where(opens[inside], np.arange(len(inside)), 0))
        out[inside] = code[inside[opener]] == ARRAY_OPEN
    return out


def _gaps(text: Bytes, start: Index, end: Index, refused_ends: Index) -> tuple[Mask, Index, Index]:
    """What stands between tokens, white space trimmed: which tokens are followed by a primitive, and where it is."""
    filled = np.zeros(len(start), np.bool_)
    filled[:-1] = start[1:] - end[:-1] > 1
    # Tokens of refused lines are gone: their text isn't a gap.
    filled[refused_ends - 1] = False
    token = np.flatnonzero(filled)
    first, last = end[token] + 1, start[token + 1]
    if first.size:
        first, last = _trim(text, first, last)
        real = first < last
        if not real.all():
            filled[token[~real]] = False
            first, last = first[real], last[real]
    return filled, first, last


def _trim(text: Bytes, first: Index, last: Index) -> tuple[Index, Index]:
    """Move both ends of each gap inward over white space; an empty gap gets first >= last."""
    for _ in range(_TRIM_STEPS):
        leading, trailing = _SPACE[text[first]], _SPACE[text[last - 1]] & (first < last)
        if not leading.any() and not trailing.any():
            return first, last
        # A gap is followed by a token, so what is moved over can't run past the text.
        first, last = first + leading, last - trailing
    inked = np.flatnonzero(~_SPACE[text])
    return inked[np.searchsorted(inked, first)], inked[np.maximum(np.searchsorted(inked, last) - 1, 0)] + 1
