"""What the columns of data dumps hold, by source and dump: classified by name and content, and remembered for the dump's later batches.

A rule needs a label beside a number, and a cell has none: its column has a name, and hundreds of cells that are valid or not. What
was once found stays: no later batch shows what an earlier one hid, also where its own cells would say nothing. Logs are never looked at.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode.mapping import target_of
from heimdall_server.domain.expression.literals import number_text
from heimdall_server.domain.records import default_column
from heimdall_server.protect.columns import FlatMap, Indices, text_bytes
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.structured import SAMPLE_VALUES, classify_column

_BESIDE: Final[Mapping[str, str]] = {
    **{name: name for name in ("body", "service", "host", "event_name", "scope_name", "scope_version")},
    **{name: name for name in ("severity_text", "trace_id", "span_id", "flags")},
    "severity": "severity_text",
}
"""Core columns, as `decode.mapping` names them, and where a record has what was said; a time and a severity's number tell of nobody."""
COLUMNS_MAX: Final = 20_000
"""Of all sources, remembered; the longest unused are forgotten."""
_BATCH_COLUMNS_MAX: Final = 1_000
"""Looked at in one batch; the others only if they are remembered."""
_BATCH_COLUMNS_AGAIN_MAX: Final = 128
"""Of them, those without a class that were looked at before: in turn where there are more. A look takes some 5 ms at least."""
_THOROUGH_LOOKS: Final = 8
"""Batches of which a column without a class is sampled in full; of later ones a tenth."""
_CELLS_PER_VALUE: Final = 4
"""So many cells are drawn for each distinct value that is wanted."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """Entries of a map that are one column of a dump, and their class."""

    key: str
    data_class: str
    entries: Indices


@dataclass(slots=True)
class _Known:
    data_class: str = ""
    looks: int = 0


class DumpColumns:
    """The columns of all dumps that this process has seen of late. Thread-safe."""

    def __init__(self) -> None:
        """Know nothing."""
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()

    def learn(self, batch: pa.RecordBatch, scope: str, *mappings: FlatMap) -> list[list[Learnt]]:
        """Say what the columns of a batch's dumps hold.

        Args:
            batch: With `source` and `dump`.
            scope: `attributes` or `resource`.
            mappings: Its maps of texts and of numbers.

        Returns:
            For each map the columns that have a class, but for those whose name alone tells it. The same column may be in
            several: a class found in one counts in all.

        Cost: nothing without dumps; up to some 50 ms of CPU for a column that isn't known yet.
        """
        found: list[list[Learnt]] = [[] for _ in mappings]
        if not text_bytes(batch.column("dump")):
            return found
        of_dump = pc.not_equal(batch.column("dump"), "").to_numpy(zero_copy_only=False)
        sources = pc.binary_join_element_wise(batch.column("source"), batch.column("dump"), "\0").dictionary_encode()
        columns = [list(_columns(mapping, of_dump, sources)) for mapping in mappings]
        for mapping, some in zip(mappings, columns, strict=True):
            for source, key, entries in self._due(scope, some[:_BATCH_COLUMNS_MAX]):
                self._look(source, scope, key, mapping, entries)
        for number, some in enumerate(columns):
            for source, key, entries in some:
                data_class = self._class(source, scope, key)
                if data_class:
                    found[number].append(Learnt(key, data_class, entries))
        return found

    def _due(self, scope: str, some: list[tuple[str, str, Indices]]) -> list[tuple[str, str, Indices]]:
        """Which are to be looked at: every one that is new, and of those without a class the ones that had the fewest looks."""
        if len(some) <= _BATCH_COLUMNS_AGAIN_MAX:
            return some
        fresh: list[tuple[str, str, Indices]] = []
        again: list[tuple[int, int]] = []
        with self._lock:
            for place, (source, key, _) in enumerate(some):
                known = self._known.get((source, scope, key))
                if known is None:
                    fresh.append(some[place])
                    continue
                self._known.move_to_end((source, scope, key))
                if not known.data_class:
                    again.append((known.looks, place))
        return fresh + [some[place] for _, place in sorted(again)[:_BATCH_COLUMNS_AGAIN_MAX]]

    def _class(self, source: str, scope: str, key: str) -> str:
        with self._lock:
            known = self._known.get((source, scope, key))
            return known.data_class if known else ""

    def _look(self, source: str, scope: str, key: str, mapping: FlatMap, entries: Indices) -> None:
        with self._lock:
            known = self._known.setdefault((source, scope, key), _Known())
            self._known.move_to_end((source, scope, key))
            if len(self._known) > COLUMNS_MAX:
                self._known.popitem(last=False)
            if known.data_class:
                return
            known.looks += 1
            wanted = SAMPLE_VALUES if known.looks <= _THOROUGH_LOOKS else SAMPLE_VALUES // 10
        step = max(1, len(entries) // (wanted * _CELLS_PER_VALUE))
        cells = mapping.items.take(pa.array(entries[::step]))
        found = classify_column(key, as_texts(cells), sample_values=wanted)
        if found is not None:
            with self._lock:
                known.data_class = found.data_class


def without_personal(
    columns: Mapping[str, pa.Array], mapping: FlatMap, learnt: Iterable[Learnt]
) -> dict[str, pa.Array]:
    """Empty what records of dumps have as core columns, where the column is treated.

    `host`, `message` and their like are an attribute, too: that is what becomes of the column, and these would keep its values.

    Args:
        columns: Of a batch.
        mapping: A map of attributes.
        learnt: Columns in it that are treated.

    Returns:
        The columns that changed, by name.
    """
    changed: dict[str, pa.Array] = {}
    for one in learnt:
        target = target_of(one.key)
        name = _BESIDE.get(target, "") if target else ""
        if name:
            kept = np.ones(len(mapping.offsets) - 1, np.bool_)
            kept[mapping.rows()[one.entries]] = False
            changed[name] = pc.if_else(pa.array(kept), changed.get(name, columns[name]), default_column(name, 1)[0])
    return changed


def as_texts(cells: pa.Array) -> pa.StringArray:
    """Cells as they would be written: whole numbers without a point."""
    if pa.types.is_string(cells.type):
        return cells
    return pa.array(map(number_text, cells.to_pylist()), pa.string())


def _columns(
    mapping: FlatMap, rows: np.ndarray[tuple[int], np.dtype[np.bool_]], sources: pa.DictionaryArray
) -> Iterator[tuple[str, str, Indices]]:
    """By source and key, the entries of flagged rows; without those whose name tells."""
    entries = mapping.entries(rows)
    if not len(entries):
        return
    keys = mapping.keys.take(pa.array(entries)).dictionary_encode()
    names, origins = keys.dictionary.to_pylist(), sources.dictionary.to_pylist()
    silent = np.array([not class_of_name(name) for name in names], np.bool_)
    codes = keys.indices.to_numpy().astype(np.int64)
    if len(origins) > 1:
        codes += len(names) * sources.indices.to_numpy()[mapping.rows()[entries]].astype(np.int64)
    if not silent.all():
        kept = silent[codes % len(names)]
        entries, codes = entries[kept], codes[kept]
        if not len(entries):
            return
    # A stable sort of 16-bit integers is a radix sort: linear.
    small = len(names) * len(origins) < 2**16
    order = np.argsort(codes.astype(np.uint16) if small else codes, kind="stable")
    entries, codes = entries[order], codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        code = int(codes[start])
        yield origins[code // len(names)], names[code % len(names)], entries[start:end]
