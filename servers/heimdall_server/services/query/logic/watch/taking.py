"""Rows of many watches leave a batch in one go.

To take rows out of thirty columns costs about as much for one row as for a thousand. So what many watches show of a
batch is taken once, and each gets its slice of that, at once as the bytes of a message: a slice keeps the whole alive,
and one reader that is stuck would hold all of it in its queue; bytes hold nothing else, and weigh what they weigh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.language.lookup import Rows
from heimdall_server.language.shared_filter import Evaluation
from heimdall_server.services.query.logic.watch.evaluator import RowEvaluator
from heimdall_server.services.query.logic.watch.matched import Matched
from heimdall_server.services.query.watch_model import Packed

PACKED_BYTES_MAX: Final = 256 * 1024
"""Who gets more of a batch takes it alone."""
_TAKEN_BYTES_MAX: Final = 16 * 1024 * 1024
"""What is taken in one go."""
_FIXED_BYTES: Final = 512
"""More than the columns of fixed width, offsets included, take of a row."""
_Sizes = npt.NDArray[np.int64]
_Asking = tuple[RowEvaluator, Rows]


def take_together(evaluators: Iterable[RowEvaluator], batch: Evaluation) -> None:
    """Take what several are to show out of a batch, in as few goes as there are kinds of columns; `look_at` finds it there.

    Args:
        evaluators: Some of them may want nothing, or more than goes together: they are left alone.
        batch: Its plan knows their nodes.
    """
    kinds: dict[object, dict[str, _Asking]] = {}
    for one in evaluators:
        if one.takes_plainly and len(rows := one.node.rows(batch)):
            kinds.setdefault(one.columns, {})[one.shape] = one, rows
    several = [list(alike.values()) for alike in kinds.values() if len(alike) > 1]
    if not several:
        return
    sizes = _row_sizes(batch.fields.batch)
    for alike in several:
        for group in _groups(alike, sizes):
            _take(group, batch)


def _groups(asking: Sequence[_Asking], sizes: _Sizes) -> Iterator[list[_Asking]]:
    """Those who go together: no one gets too much, nor all of them."""
    group: list[_Asking] = []
    size_bytes = 0
    for one, rows in asking:
        own_bytes = int(sizes[rows].sum())
        if own_bytes > PACKED_BYTES_MAX:
            continue
        if group and size_bytes + own_bytes > _TAKEN_BYTES_MAX:
            yield group
            group, size_bytes = [], 0
        group.append((one, rows))
        size_bytes += own_bytes
    if group:
        yield group


def _take(group: Sequence[_Asking], batch: Evaluation) -> None:
    first, _ = group[0]
    whole = first.taken(batch.fields, np.concatenate([rows for _, rows in group]))
    shown, start = whole.shown, 0
    for one, rows in group:
        message = shown.slice(start, len(rows)).serialize()
        packed = Packed(shown.schema, len(rows), message)
        batch.fields.keep(one.shape, Matched(None, whole.keys.part(start, len(rows)), packed))
        start += len(rows)


def _row_sizes(batch: pa.RecordBatch) -> _Sizes:
    """About how many bytes each row of a batch weighs; not less than it does."""
    sizes = np.full(batch.num_rows, _FIXED_BYTES, np.int64)
    for column in batch.columns:
        if pa.types.is_map(column.type):
            offsets = column.offsets.to_numpy(zero_copy_only=False)
            for values in (column.keys, column.items):
                sizes += _spans(values, offsets)
        elif pa.types.is_string(column.type):
            sizes += np.diff(_offsets(column))
    return sizes


def _spans(values: pa.Array, offsets: npt.NDArray[np.int32]) -> _Sizes:
    """Bytes of the values from each offset to the next."""
    if pa.types.is_string(values.type):
        return np.diff(_offsets(values)[offsets])
    return np.diff(offsets).astype(np.int64) * 8


def _offsets(texts: pa.Array) -> _Sizes:
    ends = texts.buffers()[1]
    if ends is None:
        return np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
