"""Lines that look as their source's lines did → values, by comparing constant text: no parser, no loop over lines.

The unescaped quotes of a line, counted, say where each piece of constant text must stand; it is compared eight bytes at a
time, in all lines at once. What fits is exactly what a parser would have read; whatever is in doubt (another key, another
order, nesting, a control character, a malformed number) is left to `json_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.decode.json_fields import slices
from heimdall_server.decode.json_layouts import Layout
from heimdall_server.decode.json_tokens import Bytes, Index, Mask, bad_escapes, escaped_bytes
from heimdall_server.decode.json_values import read_numbers, sound_primitives, unescaped

_QUOTE, _BACKSLASH, _NEWLINE, _RETURN = 34, 92, 10, 13
_ZERO, _NINE, _POINT, _SLASH = b"09./"
_WORD: Final = 8
_LINE_BYTES_MIN: Final = 16
_BLOCK_BYTES: Final = 1 << 20
"""Bytes that are read at a time, for each layout that is tried."""
_GROUP_MIN: Final = 64
"""Fewer lines of a layout aren't worth its calls, unless they are all there are."""
_REMEMBERED: Final = 1024
_ALL: Final = 2**64 - 1
_NO_LINES: Final = np.zeros(0, np.int64)

_Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Part:
    """Values under one key."""

    name: str
    lines: Index | None
    """Shape (value,). Ascending; None: all lines."""
    values: pa.Array
    """Strings, Float64 or booleans; no nulls."""


@dataclass(frozen=True, slots=True)
class Text:
    """Whole lines, the last byte a newline."""

    data: bytes
    starts: Index
    line_ends: Index
    """Position of each line's newline."""
    refused: Mask
    """Lines that are no records already; the others are UTF-8."""
    controls: Index
    """Positions of all bytes below 0x20 but newlines."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Some of the lines, few enough for the processor's cache: each is looked at twenty times. Positions count in it."""

    first_line: int
    array: Bytes
    starts: _Places
    line_ends: _Places
    doubtful: Mask
    """Lines that can't be read by layout."""
    quotes: _Places
    """Positions of the unescaped ones."""
    has_escapes: bool
    words: npt.NDArray[np.uint64]
    """The eight bytes from each position on."""

    @classmethod
    def of(cls, text: Text, first: int, last: int, doubtful: Mask, *, has_escapes: bool) -> _Block:
        """Look lines over, from `first` to before `last`."""
        begin, end = int(text.starts[first]), int(text.line_ends[last - 1]) + 1
        array = np.frombuffer(text.data, np.uint8, end - begin, begin)
        line_ends = (text.line_ends[first:last] - begin).astype(np.int32)
        starts = (text.starts[first:last] - begin).astype(np.int32)
        wanted = array == _QUOTE
        doubtful = doubtful[first:last]
        if has_escapes and (backslash := np.flatnonzero(array == _BACKSLASH)).size:
            # The last byte is a newline, so what is escaped is in the block.
            escaped = escaped_bytes(backslash)
            wanted[escaped] = False
            doubtful = doubtful.copy()
            doubtful[np.searchsorted(line_ends, bad_escapes(array, escaped))] = True
        else:
            has_escapes = False
        words = np.ndarray((max(len(array) - _WORD + 1, 0),), "<u8", text.data, begin, strides=(1,))
        quotes = np.flatnonzero(wanted).astype(np.int32)
        return cls(first, array, starts, line_ends, doubtful, quotes, has_escapes, words)


@dataclass(frozen=True, slots=True)
class _Group:
    """Lines with the same number of quotes."""

    lines: Index
    starts: _Places
    ends: _Places
    quotes: _Places
    """Shape (quote, line)."""

    def only(self, chosen: Index | Mask) -> _Group:
        return _Group(self.lines[chosen], self.starts[chosen], self.ends[chosen], self.quotes[:, chosen])


def read(text: Text, layouts: Sequence[Layout]) -> tuple[list[Part], Index, list[Layout]]:
    """Read the lines that have one of some layouts.

    Args:
        text: The lines.
        layouts: To be tried in this order.

    Returns:
        What was read, the lines that weren't (ascending), and the layouts that fitted, most used first.
    """
    count = len(text.line_ends)
    found: dict[tuple[Layout, str, pa.DataType], list[Part]] = {}
    used: dict[Layout, int] = {}
    is_open = np.ones(count, np.bool_)
    by_quotes: dict[int, list[Layout]] = {}
    for layout in layouts:
        by_quotes.setdefault(layout.quote_count, []).append(layout)
    doubtful, has_escapes = _doubtful(text), b"\\" in text.data
    for first, last in _ranges(text, _BLOCK_BYTES * len(layouts)):
        block = _Block.of(text, first, last, doubtful, has_escapes=has_escapes)
        for layout, lines, parts in _read_block(block, by_quotes):
            is_open[lines] = False
            used[layout] = used.get(layout, 0) + len(lines)
            for part in parts:
                found.setdefault((layout, part.name, part.values.type), []).append(part)
    joined = [_joined(parts, count) for parts in found.values()]
    return joined, np.flatnonzero(is_open), sorted(used, key=lambda layout: -used[layout])


def _doubtful(text: Text) -> Mask:
    if not text.controls.size:
        return text.refused
    # The return of a line's end is outside strings, and part of the layout.
    array, controls = np.frombuffer(text.data, np.uint8), text.controls
    within = (array[controls] != _RETURN) | (array[controls + 1] != _NEWLINE)
    doubtful = text.refused.copy()
    doubtful[np.searchsorted(text.line_ends, controls[within])] = True
    return doubtful


def _ranges(text: Text, block_bytes: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < len(text.line_ends):
        last = max(first + 1, int(np.searchsorted(text.line_ends, text.starts[first] + block_bytes)))
        yield first, last
        first = last


def _joined(parts: list[Part], count: int) -> Part:
    """The values of one layout's key in all blocks."""
    lines = np.concatenate([part.lines for part in parts if part.lines is not None])
    values = parts[0].values if len(parts) == 1 else pa.concat_arrays([part.values for part in parts])
    return Part(parts[0].name, None if len(lines) == count else lines, values)


def _read_block(block: _Block, by_quotes: dict[int, list[Layout]]) -> Iterator[tuple[Layout, Index, list[Part]]]:
    for group, alike in _groups(block, by_quotes):
        for layout, chosen in _parted(block, group, tuple(alike), None):
            if len(group.lines if chosen is None else chosen) < min(_GROUP_MIN, len(block.line_ends)):
                continue
            fitting, parts = _fitting(block, group if chosen is None else group.only(chosen), layout)
            if len(fitting):
                yield layout, fitting + block.first_line, parts


def _parted(
    block: _Block, group: _Group, alike: tuple[Layout, ...], chosen: Index | None
) -> Iterator[tuple[Layout, Index | None]]:
    """Tell lines (None: all) apart by pieces in which layouts differ: each goes to the one layout that it may have."""
    probe = _probe(alike)
    if probe is None:
        yield alike[0], chosen
        return
    found = _words(block, group, probe, chosen)
    for word, some in probe.by_word.items():
        at = np.flatnonzero(found == np.uint64(word))
        if at.size:
            yield from _parted(block, group, some, at if chosen is None else chosen[at])


@dataclass(frozen=True, slots=True)
class _Probe:
    """Eight bytes in which some layouts differ."""

    anchor: int
    offset: int
    by_word: dict[int, tuple[Layout, ...]]


@lru_cache(maxsize=_REMEMBERED)
def _probe(alike: tuple[Layout, ...]) -> _Probe | None:
    """The place in which most of some layouts differ; None if there is none.

    Layouts without constant text there are left out; the lines that they have are then read by their tokens.
    """
    places: dict[tuple[int, int], dict[int, list[Layout]]] = {}
    for layout in alike:
        for piece in _pieces(layout):
            if piece.mask == _ALL:
                at = places.setdefault((piece.anchor, piece.offset), {})
                at.setdefault(piece.word, []).append(layout)
    best = max(places.items(), key=lambda one: len(one[1]), default=None)
    if best is None or len(best[1]) < 2:
        return None
    (anchor, offset), by_word = best
    return _Probe(anchor, offset, {word: tuple(some) for word, some in by_word.items()})


def _groups(text: _Block, by_quotes: dict[int, list[Layout]]) -> Iterator[tuple[_Group, list[Layout]]]:
    count, quotes = len(text.line_ends), text.quotes
    whole = next(iter(by_quotes), 0)
    if whole and len(quotes) == whole * count and not text.doubtful.any():
        table = np.ascontiguousarray(quotes.reshape(count, whole).T)
        roomy = (text.line_ends - text.starts).min(initial=_LINE_BYTES_MIN) >= _LINE_BYTES_MIN
        if roomy and (table[0] > text.starts).all() and (table[-1] < text.line_ends).all():
            yield _Group(np.arange(count), text.starts, text.line_ends, table), by_quotes[whole]
            return
    behind = np.searchsorted(quotes, text.line_ends)
    first = np.concatenate([np.zeros(1, np.int64), behind[:-1]])
    usable = ~text.doubtful & (text.line_ends - text.starts >= _LINE_BYTES_MIN)
    for size, alike in by_quotes.items():
        lines = np.flatnonzero((behind - first == size) & usable)
        if len(lines):
            table = quotes[first[lines] + np.arange(size)[:, None]]
            yield _Group(lines, text.starts[lines], text.line_ends[lines], table), alike


@dataclass(frozen=True, slots=True)
class _Piece:
    """Eight bytes, some of which must be as given."""

    anchor: int
    """Index of the quote that it is told by; -1: the line's start, -2: its end."""
    offset: int
    """From there."""
    word: int
    mask: int


@lru_cache(maxsize=_REMEMBERED)
def _pieces(layout: Layout) -> tuple[_Piece, ...]:
    out: list[_Piece] = []
    seen = 0
    for index, literal in enumerate(layout.literals):
        anchor, at = _anchor(layout, index, seen)
        size = len(literal)
        starts = [*range(0, size - _WORD, _WORD), size - _WORD] if size >= _WORD else []
        words = (int.from_bytes(literal[start : start + _WORD], "little") for start in starts)
        out += [_Piece(anchor, start - at, word, _ALL) for start, word in zip(starts, words, strict=True)]
        if size < _WORD and index == 0:
            out.append(_Piece(anchor, -at, int.from_bytes(literal, "little"), 2 ** (8 * size) - 1))
        elif size < _WORD:
            shift = 8 * (_WORD - size)
            word = int.from_bytes(literal, "little") << shift
            out.append(_Piece(anchor, size - _WORD - at, word, (2 ** (8 * size) - 1) << shift))
        seen += literal.count(b'"')
    return tuple(out)


def _anchor(layout: Layout, index: int, seen: int) -> tuple[int, int]:
    """What tells where a literal stands, and where in the literal that is."""
    literal = layout.literals[index]
    if index == 0:
        return -1, 0
    at = literal.find(b'"')
    return (seen, at) if at >= 0 else (-2, len(literal))


def _places(group: _Group, anchor: int) -> _Places:
    if anchor == -1:
        return group.starts
    return group.ends if anchor == -2 else group.quotes[anchor]


def _words(block: _Block, group: _Group, piece: _Piece | _Probe, chosen: Index | None = None) -> npt.NDArray[np.uint64]:
    at = _places(group, piece.anchor)
    at = (at if chosen is None else at[chosen]) + piece.offset
    if len(at) and at[-1] >= len(block.words):
        at = np.minimum(at, len(block.words) - 1)
    return block.words[at]


def _agree(block: _Block, group: _Group, piece: _Piece) -> Mask:
    found = _words(block, group, piece)
    if piece.mask != _ALL:
        found &= np.uint64(piece.mask)
    out: Mask = found == np.uint64(piece.word)
    return out


def _fitting(block: _Block, group: _Group, layout: Layout) -> tuple[Index, list[Part]]:
    """The lines of a group that have the layout, and their values."""
    fits = np.ones(len(group.lines), np.bool_)
    for piece in _pieces(layout):
        fits &= _agree(block, group, piece)
    bounds = _bounds(group, layout)
    last = layout.literals[-1]
    if b'"' in last:
        fits &= group.quotes[-1] - last.rfind(b'"') + len(last) == group.ends
    for (start, end), quoted in zip(bounds, layout.quoted, strict=True):
        if not quoted:
            fits &= start < end
    if not fits.all():
        return _fitting(block, group.only(fits), layout) if fits.any() else (_NO_LINES, [])
    found: list[Part] = []
    lines = group.lines + block.first_line
    for name, (start, end), quoted in zip(layout.names, bounds, layout.quoted, strict=True):
        column = slices(block.array, start, end)
        if quoted:
            found.append(Part(name, lines, unescaped(column) if block.has_escapes else column))
            continue
        sound, pieces = _primitives(block.array, column, start, end)
        if sound is not None:
            return _fitting(block, group.only(sound), layout) if sound.any() else (_NO_LINES, [])
        found += [Part(name, lines if at is None else lines[at], values) for at, values in pieces]
    return group.lines, found


def _bounds(group: _Group, layout: Layout) -> list[tuple[_Places, _Places]]:
    """Where each value begins and ends."""
    out: list[tuple[_Places, _Places]] = []
    seen = 0
    begin = None
    for index, literal in enumerate(layout.literals):
        anchor, at = _anchor(layout, index, seen)
        place = _places(group, anchor) - at
        if begin is not None:
            out.append((begin, place))
        begin = place + len(literal)
        seen += literal.count(b'"')
    return out


def _primitives(
    text: Bytes, column: pa.Array, start: _Places, end: _Places
) -> tuple[Mask | None, list[tuple[Index | None, pa.Array]]]:
    """Read numbers and literals.

    Returns:
        Which are well-formed (None: all), and, if all are, indices (None: all) and their values by type.
    """
    first = text.take(start)
    if not _are_decimals(text, column, first, start, end):
        sound = arrays.bools(sound_primitives(column))
        if not sound.all():
            return sound, []
    is_bool = (first == ord("t")) | (first == ord("f"))
    if is_bool.all():
        return None, [(None, pa.array(first == ord("t")))]
    is_number = ~is_bool & (first != ord("n"))
    everywhere = bool(is_number.all())
    at = np.flatnonzero(is_number)
    numbers, as_text = read_numbers(column if everywhere else column.take(pa.array(at)))
    if everywhere and as_text is None:
        return None, [(None, numbers)]
    valid = arrays.bools(numbers.is_valid())
    out: list[tuple[Index | None, pa.Array]] = [(at[valid], numbers.drop_null())]
    if as_text is not None:
        out.append((at[~valid], as_text.filter(pa.array(~valid))))
    at = np.flatnonzero(is_bool)
    out.append((at, pa.array(first[at] == ord("t"))))
    return None, [(at, values) for at, values in out if len(values)]


def _are_decimals(text: Bytes, column: pa.Array, first: Bytes, start: _Places, end: _Places) -> bool:
    """Whether all are digits with at most a point within, and no leading zero: most numbers, told without a parser."""
    if not ((first >= _ZERO) & (first <= _NINE)).all():
        return False
    _, offsets, content = column.buffers()
    size = int(np.frombuffer(offsets, np.int32)[len(column)])
    # Digits, the point, and the slash between them in ASCII.
    content = np.frombuffer(content, np.uint8)[:size]
    if ((content - np.uint8(_POINT)) > _NINE - _POINT).any() or (content == _SLASH).any():
        return False
    last = text.take(end - 1)
    zero = (first == _ZERO) & (end - start > 1)
    if (last == _POINT).any() or (zero.any() and (text.take(start[zero] + 1) != _POINT).any()):
        return False
    points = np.count_nonzero(content == _POINT)
    # Two points in one number would be the cast's to refuse, which raises.
    return points == 0 or int(pc.max(pc.count_substring(column, ".")).as_py()) == 1
