"""Structural tokens → the fields of each record: dotted path, kind and place of the value.

Objects are walked level by level, all records at once. An array is one value (its text), and so are an empty object, an
object under a name that stands for the body, and one whose members' dotted names would be too long for attributes.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.decode import json_tokens as jt
from heimdall_server.decode.json_tokens import Index, Mask, Tokens
from heimdall_server.domain.records import ATTRIBUTE_KEY_BYTES_MAX

WHOLE_OBJECTS: Final = frozenset({"msg", "message", "body"})
"""Names at the top whose object isn't taken apart: it is the body, as JSON text."""


class Kind(enum.IntEnum):
    """What a value is in the text."""

    STRING = 0
    PRIMITIVE = 1
    """Number, true, false or null."""
    JSON = 2
    """Kept as its text: an array or an object."""


@dataclass(slots=True)
class Paths:
    """The dotted paths of a chunk, numbered in the order they were met."""

    names: list[str] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    """Of each path: its objects aren't taken apart, for its members could be no attributes."""
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a path; the same dotted name is the same path, however it was nested."""
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
            self.whole.append(len(name.encode()) >= ATTRIBUTE_KEY_BYTES_MAX)
        return number


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of all records, in the order of the text. Arrays of shape (field,)."""

    line: Index
    path: Index
    """Number in `Paths`."""
    kind: npt.NDArray[np.uint8]
    start: Index
    """Position of the value; of a string behind its opening quote."""
    end: Index
    """Position behind the value; of a string that of its closing quote."""


def fields(tokens: Tokens, paths: Paths) -> Fields:
    """List the fields of well-formed lines.

    Args:
        tokens: What `json_tokens.scan` found.
        paths: Gets the paths that it doesn't hold yet.
    """
    code, depth = tokens.code, tokens.depth
    is_key = code == jt.KEY
    if tokens.in_array is not None:
        arrays_open = np.cumsum((code == jt.ARRAY_OPEN).astype(np.int8) - (code == jt.ARRAY_CLOSE), dtype=np.int32)
        is_key &= arrays_open == 0
    key = np.flatnonzero(is_key)
    if not key.size:
        none = np.zeros(0, np.int64)
        return Fields(none, none, np.zeros(0, np.uint8), none, none)
    name = _names(tokens, key)
    level = depth[key]
    path = _paths(name, level, key, paths)
    line = np.repeat(np.arange(len(tokens.line_ends)), np.diff(np.searchsorted(key, np.flatnonzero(code == jt.LINE))))

    has_primitive = tokens.primitive[key + 1]
    value = key + 2
    opener = np.where(has_primitive, jt.STRING, code[value])
    kind = np.full(len(key), Kind.STRING, np.uint8)
    kind[has_primitive] = Kind.PRIMITIVE
    start, end = tokens.start[value] + 1, tokens.end[value].copy()
    ordinal = np.cumsum(tokens.primitive) - 1
    number = ordinal[key[has_primitive] + 1]
    start[has_primitive], end[has_primitive] = tokens.primitive_start[number], tokens.primitive_end[number]

    dropped = np.zeros(len(key), np.bool_)
    if tokens.in_array is not None or int(depth.max()) > 1:
        whole = opener == jt.ARRAY_OPEN
        is_object = opener == jt.OBJECT_OPEN
        empty = is_object & (code[np.minimum(value + 1, len(code) - 1)] == jt.OBJECT_CLOSE)
        kept_whole = is_object & (np.array(paths.whole, np.bool_)[path] | ((level == 1) & _whole_objects(path, paths)))
        whole |= empty | kept_whole
        kind[whole] = Kind.JSON
        start[whole] -= 1
        end[whole] = tokens.start[_closers(tokens, value[whole])] + 1
        dropped |= is_object & ~whole
        if kept_whole.any():
            # Members of what is kept whole are no fields.
            dropped |= _inside(key, value[kept_whole], _closers(tokens, value[kept_whole]))
    kept = ~dropped
    return Fields(line[kept], path[kept], kind[kept], start[kept], end[kept])


def slices(text: jt.Bytes, start: jt.Places, end: jt.Places) -> pa.Array:
    """Pieces of the text as a string column; the pieces ascend and don't overlap."""
    bounds = np.empty(2 * len(start) + 1, np.int32)
    bounds[0:-1:2], bounds[1::2] = start, end
    bounds[-1] = bounds[-2] if len(start) else 0
    # Every other string of this column is what stands between two pieces.
    whole = pa.StringArray.from_buffers(2 * len(start), pa.py_buffer(bounds), pa.py_buffer(text))
    return whole.take(pa.array(np.arange(0, 2 * len(start), 2)))


def _names(tokens: Tokens, key: Index) -> tuple[list[str], Index]:
    """The distinct names of keys, and which each key has."""
    encoded = slices(tokens.text, tokens.start[key] + 1, tokens.end[key]).dictionary_encode()
    names = [json.loads(f'"{name}"') if "\\" in name else name for name in encoded.dictionary.to_pylist()]
    return names, encoded.indices.to_numpy().astype(np.int64)


def _paths(name: tuple[list[str], Index], level: npt.NDArray[np.int32], key: Index, paths: Paths) -> Index:
    """The path of each key: the path of the object that it stands in, and its own name."""
    names, index = name
    top = level == 1
    if top.all():
        return np.array([paths.number(name) for name in names], np.int64)[index]
    path = np.zeros(len(key), np.int64)
    used = np.unique(index[top])
    numbers = np.zeros(len(names), np.int64)
    numbers[used] = [paths.number(names[position]) for position in used]
    path[top] = numbers[index[top]]
    for depth in range(2, int(level.max()) + 1):
        here, above = np.flatnonzero(level == depth), np.flatnonzero(level == depth - 1)
        parent = path[above[np.searchsorted(above, here) - 1]]
        pairs, inverse = np.unique(parent * len(names) + index[here], return_inverse=True)
        steps = [divmod(pair, len(names)) for pair in pairs.tolist()]
        path[here] = np.array([_below(paths, holder, names[own]) for holder, own in steps], np.int64)[inverse]
    return path


def _below(paths: Paths, holder: int, name: str) -> int:
    # What is kept whole keeps its path: long names times many members would be far more than was sent.
    return holder if paths.whole[holder] else paths.number(f"{paths.names[holder]}.{name}")


def _whole_objects(path: Index, paths: Paths) -> Mask:
    whole = np.array([name.lower() in WHOLE_OBJECTS for name in paths.names], np.bool_)
    out: Mask = whole[path]
    return out


def _closers(tokens: Tokens, opener: Index) -> Index:
    """The token that closes each bracket: the next one behind which the level is lower again."""
    out = np.zeros(len(opener), np.int64)
    level = tokens.depth[opener]
    for depth in np.unique(level):
        closing = np.flatnonzero(
            (tokens.depth == depth - 1) & ((tokens.code == jt.OBJECT_CLOSE) | (tokens.code == jt.ARRAY_CLOSE))
        )
        at = level == depth
        out[at] = closing[np.searchsorted(closing, opener[at])]
    return out


def _inside(key: Index, opener: Index, closer: Index) -> Mask:
    """Keys between an opener and its closer; openers ascend."""
    before = np.searchsorted(opener, key)
    # Pairs may lie within one another: what counts is the last of all closers so far.
    reach = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(closer)])
    out: Mask = key < reach[before]
    return out
