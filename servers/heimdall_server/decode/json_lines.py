"""Lines of JSON objects → records: the path that NDJSON and JSON documents share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.decode import fallback, json_flat, json_layouts
from heimdall_server.decode.columns import Attributes, assemble
from heimdall_server.decode.json_fields import Paths, slices
from heimdall_server.decode.json_tokens import DEPTH_MAX, scan
from heimdall_server.decode.json_values import Pairs, Values, values
from heimdall_server.decode.mapping import split, target_of
from heimdall_server.domain.decoding import DecodeContext, Decoded, RowError
from heimdall_server.domain.records import RECORD_BYTES_MAX

_BLOCK_BYTES: Final = 1 << 22
"""Bytes that are scanned at a time: small enough for the processor's cache to help, and large enough that the few
hundred calls a block are few (each lets go of the GIL and must win it back)."""
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FEW: Final = 1 / 32
"""Share of lines without a known layout that isn't worth learning from."""
_EXAMPLES: Final = 64
"""Lines of a chunk that are learned from."""
_layouts: Final = json_layouts.Layouts()

_Index = npt.NDArray[np.int64]


def decode_lines(chunk: bytes, context: DecodeContext) -> Decoded:
    """Decode lines, each one JSON object.

    Args:
        chunk: Whole lines; the last newline may be missing. Blank lines are no records.
        context: What the source says about its records.

    Raises:
        InvalidArgumentError: The context's zone isn't known.

    Cost:
        Under 1 µs a record of ten fields that looks as its source's records did, else 2 to 5. Thread-safe; all but a few
        per cent of the work is done without the GIL.
    """
    data = chunk if chunk.endswith(b"\n") else chunk + b"\n"
    if data.startswith(_BYTE_ORDER_MARK):
        data = b"   " + data[3:]
    text = np.frombuffer(data, np.uint8)
    controls = np.flatnonzero(text < ord(" "))
    is_end = text[controls] == ord("\n")
    line_ends = controls if is_end.all() else controls[is_end]
    starts = np.concatenate([np.zeros(1, np.int64), line_ends[:-1] + 1])
    refused = (line_ends - starts > RECORD_BYTES_MAX) | fallback.invalid_utf8(data, starts, line_ends)
    key = (context.dataset, context.source)
    parts: list[json_flat.Part] = []
    left: _Index | None = None
    used: list[json_layouts.Layout] = []
    layouts = _layouts.recall(key)
    if layouts:
        lines = json_flat.Text(data, starts, line_ends, refused, controls[~is_end])
        parts, left, used = json_flat.read(lines, layouts)
    count = len(line_ends)
    rest = _Rest.of(text, starts, line_ends, refused, left if parts else None)
    if layouts is not None and rest.count:
        found = rest.layouts(data, starts, line_ends) if rest.count > _FEW * count else ()
        _layouts.learn(key, found, used=used, failed=bool(layouts) and rest.count > count / 2)
    elif layouts:
        _layouts.learn(key, (), used=used, failed=False)
    bad, blank = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    bad[rest.lines], blank[rest.lines] = rest.bad, rest.blank
    return Decoded(_batch(parts, rest, bad, blank, context), _errors(chunk, starts, line_ends, bad, blank))


@dataclass(frozen=True, slots=True)
class _Rest:
    """Lines that were read by their tokens."""

    lines: _Index
    """Their numbers, ascending."""
    paths: Paths
    values: list[Values]
    first_lines: list[int]
    """Of each of `values`: index in `lines` of its first."""
    bad: npt.NDArray[np.bool_]
    blank: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        text: npt.NDArray[np.uint8],
        starts: _Index,
        line_ends: _Index,
        refused: npt.NDArray[np.bool_],
        lines: _Index | None,
    ) -> _Rest:
        """Read some lines (None: all)."""
        paths = Paths()
        if lines is None:
            lines = np.arange(len(line_ends))
        elif len(lines):
            copied = slices(text, starts[lines], line_ends[lines] + 1)
            line_ends = np.cumsum(line_ends[lines] + 1 - starts[lines]) - 1
            text, refused = np.frombuffer(copied.buffers()[2], np.uint8)[: int(line_ends[-1]) + 1], refused[lines]
        values, first_lines = _scan(text, line_ends, refused, paths) if len(lines) else ([], [])
        bad, blank = (
            np.concatenate([np.zeros(0, np.bool_), *(getattr(part, name) for part in values)])
            for name in ("bad", "blank")
        )
        return cls(lines, paths, values, first_lines, bad, blank)

    @property
    def count(self) -> int:
        """Lines."""
        return len(self.lines)

    def layouts(self, data: bytes, starts: _Index, line_ends: _Index) -> Iterator[json_layouts.Layout]:
        """The layouts of some of them."""
        good = self.lines[~self.bad & ~self.blank]
        # Not evenly spaced: what repeats in a rhythm would be missed.
        chosen = np.unique(np.random.default_rng(len(good)).integers(0, max(len(good), 1), _EXAMPLES))
        for line in good[chosen].tolist() if len(good) else ():
            layout = json_layouts.layout_of(data[starts[line] : line_ends[line]])
            if layout is not None:
                yield layout


def _scan(
    text: npt.NDArray[np.uint8], line_ends: _Index, refused: npt.NDArray[np.bool_], paths: Paths
) -> tuple[list[Values], list[int]]:
    parts, first_lines = [], []
    for first, last in _blocks(line_ends):
        begin = int(line_ends[first - 1]) + 1 if first else 0
        block = text[begin : int(line_ends[last - 1]) + 1]
        parts.append(values(scan(block, refused[first:last]), paths))
        first_lines.append(first)
    return parts, first_lines


def _blocks(line_ends: _Index) -> Iterator[tuple[int, int]]:
    """Ranges of lines that are about `_BLOCK_BYTES` long together."""
    first = 0
    while first < len(line_ends):
        begin = int(line_ends[first - 1]) + 1 if first else 0
        last = max(first + 1, int(np.searchsorted(line_ends, begin + _BLOCK_BYTES)))
        yield first, last
        first = last


def _batch(
    parts: list[json_flat.Part],
    rest: _Rest,
    bad: npt.NDArray[np.bool_],
    blank: npt.NDArray[np.bool_],
    context: DecodeContext,
) -> pa.RecordBatch:
    good = ~bad & ~blank
    count = int(good.sum())
    row_of_line = None if count == len(good) else np.cumsum(good) - 1
    fields: dict[str, list[_Held]] = {}
    pairs: list[tuple[_Index, str | pa.Array, pa.Array]] = []
    for part in parts:
        rows = part.lines if part.lines is None or row_of_line is None else row_of_line[part.lines]
        if rows is None or target_of(part.name) is not None:
            fields.setdefault(part.name, []).append((rows, part.values))
        else:
            pairs.append((rows, part.name, part.values))
    paths = rest.paths
    targets = np.array([target_of(name) is not None for name in paths.names], np.bool_)
    names = pa.array(paths.names, pa.string())
    for kind in ("strings", "numbers", "bools"):
        if not rest.values:
            break
        all_ = Pairs.concat([getattr(part, kind) for part in rest.values], rest.first_lines)
        if not len(all_.line):
            continue
        line = rest.lines[all_.line]
        all_rows = line if row_of_line is None else row_of_line[line]
        is_core = targets[all_.path]
        for path in np.flatnonzero(np.bincount(all_.path[is_core], minlength=1)).tolist() if is_core.any() else ():
            at = np.flatnonzero(all_.path == path)
            fields.setdefault(paths.names[path], []).append((all_rows[at], all_.values.take(pa.array(at))))
        if is_core.all():
            continue
        others = np.flatnonzero(~is_core)
        keys = pa.DictionaryArray.from_arrays(pa.array(all_.path[others].astype(np.int32)), names)
        pairs.append((all_rows[others], keys, all_.values.take(pa.array(others))))
    is_dump = bool(context.dump)
    core, columns = split({name: _columns(held, count) for name, held in fields.items()}, keep=is_dump)
    shown = None if not bad.any() else (np.cumsum(~blank) - 1)[good]
    attributes = Attributes(columns=columns, pairs=pairs)
    return assemble(count, context, core=core, attributes=attributes, rows=shown, columns_kept=is_dump)


_Held = tuple[_Index | None, pa.Array]
"""Rows (ascending; None: all) and their values."""


def _columns(held: list[_Held], count: int) -> list[pa.Array]:
    """Values of one key as columns, one for each type, null where a record lacks it."""
    by_type: dict[pa.DataType, list[_Held]] = {}
    for one in held:
        by_type.setdefault(one[1].type, []).append(one)
    columns = []
    for kind in (pa.string(), pa.float64(), pa.bool_()):
        some = by_type.get(kind, [])
        if len(some) == 1 and some[0][0] is None:
            columns.append(some[0][1])
        elif some:
            picked = np.full(count, -1, np.int64)
            # A type's values of all rows can't stand beside others of it.
            rows = np.concatenate([one[0] for one in some if one[0] is not None])
            picked[rows] = np.arange(len(rows))
            columns.append(pa.concat_arrays([one[1] for one in some]).take(pa.array(picked, mask=picked < 0)))
    return columns


def _errors(
    chunk: bytes, starts: _Index, line_ends: _Index, bad: npt.NDArray[np.bool_], blank: npt.NDArray[np.bool_]
) -> list[RowError]:
    if not bad.any():
        return []
    rows = (np.cumsum(~blank) - 1)[bad]
    return fallback.row_errors(chunk, rows, starts[bad], line_ends[bad], explain)


def explain(line: bytes) -> tuple[str, str]:
    """Say why a line isn't one JSON object, without its values.

    Args:
        line: UTF-8.
    """
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return f"not JSON at character {error.pos + 1} of the record: {_lower(error.msg)}", ""
    except (_ConstantError, ValueError) as error:
        return f"not JSON: {error}", ""
    except RecursionError:
        return f"nested deeper than {DEPTH_MAX} levels", ""
    if not isinstance(value, dict):
        return f"not a JSON object but {_KINDS.get(type(value), 'a number')}", ""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return "an escape holds half of a surrogate pair", ""
    return f"nested deeper than {DEPTH_MAX} levels", ""


class _ConstantError(Exception):
    """A literal that JSON lacks."""


def _no_constant(name: str) -> None:
    msg = f"{name} isn't a JSON number"
    raise _ConstantError(msg)


_KINDS: Final = {list: "an array", str: "a string", bool: "a literal", type(None): "null"}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
