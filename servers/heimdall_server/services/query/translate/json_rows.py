"""Rows as JSON objects, made a column at a time: the texts of a row's values are joined by Arrow, without the GIL.

Maps become objects, times RFC 3339 with nanoseconds, ids lower-case hex, what is missing null. JSON has no NaN and no
infinity: they travel as text.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TEXT: Final = pa.large_string()
_NULL: Final = "null"
_TO_ESCAPE: Final = r'[\x00-\x1f"\\]'
_ESCAPES: Final = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_CONTROL: Final = r"[\x00-\x1f]"


def json_rows(batch: pa.RecordBatch) -> pa.Array:
    """One JSON object a row, as texts without a missing one."""
    if not batch.num_columns:
        return pa.array(["{}"] * batch.num_rows, _TEXT)
    pieces: list[Any] = []
    for index, name in enumerate(batch.schema.names):
        lead = json.dumps(name, ensure_ascii=False)
        pieces += [f"{',' if index else '{'}{lead}:", _values(batch.column(index))]
    return _joined(*pieces, "}")


def _values(column: pa.Array) -> pa.Array:
    """Each value as JSON text, null where there is none."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = _quoted(column)
    elif pa.types.is_map(kind):
        texts = _objects(column)
    elif pa.types.is_timestamp(kind):
        stamps = column.cast(pa.timestamp("ns", "UTC")).cast(_TEXT)
        texts = _joined('"', pc.replace_substring(stamps, " ", "T", max_replacements=1), '"')
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        texts = column.cast(_TEXT)
    elif pa.types.is_floating(kind):
        plain = column.cast(_TEXT)
        texts = pc.if_else(pc.is_finite(column), plain, _joined('"', plain, '"'))
    elif pa.types.is_fixed_size_binary(kind):
        texts = _hex(column)
    else:
        # No column of ours is of another type; what a store may add some day still comes out as JSON.
        shown = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
        texts = pa.array(shown, _TEXT)
    return pc.fill_null(texts, _NULL)


def _joined(*pieces: pa.Array | str) -> pa.Array:
    """Texts side by side; null where one of them is."""
    return pc.binary_join_element_wise(*(pa.scalar(each, _TEXT) if isinstance(each, str) else each for each in pieces),
                                       pa.scalar("", _TEXT))  # fmt: skip


def _quoted(column: pa.Array) -> pa.Array:
    """Texts as JSON strings."""
    texts = column.cast(_TEXT)
    if pc.any(pc.match_substring_regex(texts, _TO_ESCAPE)).as_py():
        escaped = texts
        for plain, escape in _ESCAPES:
            escaped = pc.replace_substring(escaped, plain, escape)
        rare = pc.fill_null(pc.match_substring_regex(escaped, _CONTROL), False)  # noqa: FBT003 - Arrow's signature
        if rare.true_count:
            # Control characters that have no short escape: seldom enough to go row by row.
            whole = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts.filter(rare).to_pylist()]
            escaped = pc.replace_with_mask(escaped, rare, pa.array(whole, _TEXT))
        texts = escaped
    return _joined('"', texts, '"')


def _objects(column: pa.MapArray) -> pa.Array:
    """Maps as JSON objects."""
    offsets = column.offsets
    first, last = offsets[0].as_py(), offsets[len(offsets) - 1].as_py()
    keys = _quoted(column.keys.slice(first, last - first))
    entries = _joined(keys, ":", _values(column.items.slice(first, last - first)))
    lists = pa.ListArray.from_arrays(pc.subtract(offsets, pa.scalar(first, pa.int32())), entries)
    objects = _joined("{", pc.binary_join(lists, pa.scalar(",", _TEXT)), "}")
    return pc.if_else(column.is_valid(), objects, pa.scalar(None, _TEXT)) if column.null_count else objects


def _hex(column: pa.FixedSizeBinaryArray) -> pa.Array:
    """Ids as hex; all zero is none."""
    width, count = column.type.byte_width, len(column)
    if not count:
        return pa.array([], _TEXT)
    filled = pc.fill_null(column, bytes(width)) if column.null_count else column
    start = filled.offset * width
    raw = memoryview(filled.buffers()[1])[start : start + count * width]
    digits = bytes(raw).hex().encode()
    offsets = np.arange(count + 1, dtype=np.int64) * width * 2
    texts = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))
    is_set = np.frombuffer(raw, np.uint8).reshape(count, width).any(axis=1)
    return pc.if_else(pa.array(is_set), _joined('"', texts, '"'), pa.scalar(None, _TEXT))
