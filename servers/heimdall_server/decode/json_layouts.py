"""What dense sources look like: keys and types remembered per source, so that Arrow's JSON reader can do the work.

Arrow's reader with a strict schema is twice as fast as `json_tokens` on records that all carry much the same keys, and
slower on sparse ones. It fails the chunk on an unknown key, another type or a repeated key, and the few things that
it lets pass are checked here; `read` then answers None, and the general way reads the chunk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from heimdall_server.decode.json_fields import Paths
from heimdall_server.decode.json_values import Values
from heimdall_server.domain.records import SAFE_INTEGER_MAX

SOURCES_MAX: Final = 4096
"""Sources remembered; the one that wasn't used for longest goes."""
_PATHS_MAX: Final = 64
_FILL_MIN: Final = 0.5
"""Share of cells that hold a value, below which the general way is faster."""
_ROWS_MIN: Final = 64
"""Fewer records say too little about a source."""
_PAUSE_MAX: Final = 64


@dataclass(slots=True)
class _Memory:
    schema: pa.Schema | None = None
    pause: int = 0
    """Chunks for which the layout isn't tried: it failed lately."""
    next_pause: int = 1


class Layouts:
    """Bounded memory of layouts. Thread-safe."""

    def __init__(self, sources_max: int = SOURCES_MAX) -> None:
        self._sources_max = sources_max
        self._memories: OrderedDict[tuple[str, str], _Memory] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: tuple[str, str]) -> pa.Schema | None:
        """The layout to try for a source's next chunk, or None."""
        with self._lock:
            memory = self._memories.get(key)
            if memory is None:
                return None
            self._memories.move_to_end(key)
            if memory.pause:
                memory.pause -= 1
                return None
            return memory.schema

    def learn(self, key: tuple[str, str], schema: pa.Schema | None, *, failed: bool) -> None:
        """Remember what a chunk looked like that was read the general way.

        Args:
            key: (dataset, source).
            schema: Its layout, or None if it isn't dense.
            failed: A remembered layout was tried in vain: wait before the next try, longer each time.
        """
        with self._lock:
            memory = self._memories.setdefault(key, _Memory())
            self._memories.move_to_end(key)
            if failed:
                memory.pause, memory.next_pause = memory.next_pause, min(2 * memory.next_pause, _PAUSE_MAX)
            if memory.schema is not None and schema is not None and failed:
                # An integer column that once held a fraction is a fraction column from now on.
                schema = _widened(memory.schema, schema)
            memory.schema = schema
            if len(self._memories) > self._sources_max:
                self._memories.popitem(last=False)

    def succeeded(self, key: tuple[str, str]) -> None:
        """Note that the layout fitted."""
        with self._lock:
            if (memory := self._memories.get(key)) is not None:
                memory.next_pause = 1


def layout_of(parts: list[Values], paths: Paths, rows: int) -> pa.Schema | None:
    """The strict schema of a chunk, if it is flat and dense and each field has one type.

    Args:
        parts: The chunk, read the general way.
        paths: Its paths.
        rows: Its records.
    """
    count = len(paths.names)
    if rows < _ROWS_MIN or not 0 < count <= _PATHS_MAX or any(part.structured for part in parts):
        return None
    held = np.zeros((3, count), np.int64)
    for part in parts:
        for kind, pairs in enumerate((part.strings, part.numbers, part.bools)):
            held[kind] += np.bincount(pairs.path, minlength=count)
    if ((held > 0).sum(axis=0) > 1).any() or held.sum() < _FILL_MIN * rows * count:
        return None
    integers = frozenset.intersection(*(part.integers | _without_numbers(part, count) for part in parts))
    types = np.where(held[0] > 0, 0, np.where(held[2] > 0, 3, np.where(np.isin(range(count), list(integers)), 1, 2)))
    known = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
    return pa.schema([
        pa.field(name, known[kind])
        for name, kind, carried in zip(paths.names, types, held.sum(axis=0), strict=True)
        if carried
    ])  # fmt: skip


def read(
    chunk: bytes, text: npt.NDArray[np.uint8], line_ends: npt.NDArray[np.int64], schema: pa.Schema
) -> pa.Table | None:
    """Read a chunk that looks as its source's chunks did.

    Args:
        chunk: Whole lines of valid UTF-8, newline at the end.
        text: The same bytes.
        line_ends: Positions of its newlines.
        schema: The remembered layout.

    Returns:
        One column a field, or None where the general way must read it.
    """
    starts = np.concatenate([np.zeros(1, np.int64), line_ends[:-1] + 1])
    # Arrow takes newlines for mere white space. If each line starts with { and ends with }, and there are as many
    # records as lines, then lines are records: what is broken between } and { can't be within one value.
    if not ((text[starts] == ord("{")).all() and (text[line_ends - 1] == ord("}")).all()):
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(chunk),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(chunk) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(line_ends):
        return None
    for field, column in zip(table.schema, table.columns, strict=True):
        # NaN and infinity, which JSON lacks, and integers that lost digits.
        if pa.types.is_float64(field.type) and not _exact(column):
            return None
    return table.combine_chunks()


def _exact(column: pa.ChunkedArray) -> bool:
    inside = pc.less(pc.abs(column), float(SAFE_INTEGER_MAX))
    return bool(pc.all(pc.fill_null(inside, fill_value=True), min_count=0).as_py())


def _without_numbers(part: Values, count: int) -> frozenset[int]:
    return frozenset(range(count)) - frozenset(np.unique(part.numbers.path).tolist())


def _widened(old: pa.Schema, new: pa.Schema) -> pa.Schema:
    fractions = {field.name for field in old if pa.types.is_float64(field.type)}
    kept = [
        pa.field(field.name, pa.float64()) if field.name in fractions and pa.types.is_int64(field.type) else field
        for field in new
    ]
    extra = [field for field in old if field.name not in new.names]
    return pa.schema([*kept, *extra][:_PATHS_MAX])
