"""Lines of JSON objects → records: the path that NDJSON and JSON documents share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.decode import fallback, json_layouts
from heimdall_server.decode.columns import Attributes, assemble
from heimdall_server.decode.json_fields import Paths
from heimdall_server.decode.json_tokens import DEPTH_MAX, scan
from heimdall_server.decode.json_values import Pairs, Values, values
from heimdall_server.decode.mapping import split, target_of
from heimdall_server.domain.decoding import DecodeContext, Decoded, RowError
from heimdall_server.domain.records import RECORD_BYTES_MAX

_BLOCK_BYTES: Final = 1 << 22
"""Bytes that are scanned at a time: small enough for the processor's cache to help, and large enough that the few
hundred calls a block are few (each lets go of the GIL and must win it back)."""
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
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
        2 to 5 µs a record of ten fields. Thread-safe; all but a few per cent of the work is done without the GIL.
    """
    data = chunk if chunk.endswith(b"\n") else chunk + b"\n"
    if data.startswith(_BYTE_ORDER_MARK):
        data = b"   " + data[3:]
    text = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([np.zeros(1, np.int64), line_ends[:-1] + 1])
    refused = (line_ends - starts > RECORD_BYTES_MAX) | fallback.invalid_utf8(data, starts, line_ends)
    key = (context.dataset, context.source)
    layout = None if refused.any() else _layouts.recall(key)
    if layout is not None:
        table = json_layouts.read(data, text, line_ends, layout)
        if table is not None:
            _layouts.succeeded(key)
            core, attributes = split({name: [table[name].chunk(0)] for name in table.column_names})
            return Decoded(assemble(table.num_rows, context, core=core, attributes=attributes))
    paths = Paths()
    parts, first_lines = _scan(text, line_ends, refused, paths)
    bad, blank = (np.concatenate([getattr(part, name) for part in parts]) for name in ("bad", "blank"))
    good = ~bad & ~blank
    _layouts.learn(key, json_layouts.layout_of(parts, paths, int(good.sum())), failed=layout is not None)
    batch = _batch(parts, first_lines, good, blank, paths, context)
    return Decoded(batch, _errors(chunk, starts, line_ends, bad, blank))


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
    parts: list[Values],
    first_lines: list[int],
    good: npt.NDArray[np.bool_],
    blank: npt.NDArray[np.bool_],
    paths: Paths,
    context: DecodeContext,
) -> pa.RecordBatch:
    count = int(good.sum())
    row_of_line = np.cumsum(good) - 1
    targets = np.array([target_of(name) is not None for name in paths.names], np.bool_)
    names = pa.array(paths.names, pa.string())
    fields: dict[str, list[pa.Array]] = {}
    pairs = []
    for kind in ("strings", "numbers", "bools"):
        all_ = Pairs.concat([getattr(part, kind) for part in parts], first_lines)
        if not len(all_.line):
            continue
        is_core = targets[all_.path]
        for name, column in _columns(all_.only(is_core), row_of_line, count, paths):
            fields.setdefault(name, []).append(column)
        rest = all_.only(~is_core)
        keys = pa.DictionaryArray.from_arrays(pa.array(rest.path.astype(np.int32)), names)
        pairs.append((row_of_line[rest.line], keys, rest.values))
    core, attributes = split(fields)
    rows = (np.cumsum(~blank) - 1)[good]
    return assemble(count, context, core=core, attributes=Attributes(columns=attributes, pairs=pairs), rows=rows)


def _columns(pairs: Pairs, row_of_line: _Index, count: int, paths: Paths) -> Iterator[tuple[str, pa.Array]]:
    """Pairs of few paths → a column for each, null where a record lacks it."""
    for path in np.flatnonzero(np.bincount(pairs.path, minlength=1)).tolist():
        at = np.flatnonzero(pairs.path == path)
        picked = np.full(count, -1, np.int64)
        picked[row_of_line[pairs.line[at]]] = at
        yield paths.names[path], pairs.values.take(pa.array(picked, mask=picked < 0))


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
