"""What a deletion reaches: which sources' days, and which dumps, have records that it means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from heimdall_server.domain.errors import BudgetExceededError, QueryCostError, QueryTimeoutError, StoreError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    Bucket,
    Compare,
    Expression,
    Function,
    GroupKey,
    Operator,
    Or,
    Query,
    Stats,
    TimeRange,
)
from heimdall_server.ports.journal import DeletedSlice
from heimdall_server.ports.log_store import Limits, LogStore, StoreQuery
from heimdall_server.projections.graph.facts import DAY_NS

SLICES_MAX: Final = 200_000
"""Sources' days, and dumps; a deletion that reaches more is said to reach anything."""
_LIMITS: Final = Limits(time_s=600.0, scan_rows=2**62, result_rows=SLICES_MAX, threads=1, background=True)
_DUMPS_MAX: Final = 1000
"""Of a deletion that reaches more, none is said to go whole."""
_DAY, _COUNT = "day", "record_count"
_SOURCE, _DUMP = FieldRef(Scope.CORE, "source"), FieldRef(Scope.CORE, "dump")


async def reach_of(
    store: LogStore, filter_: Expression, time_range: TimeRange, datasets: Sequence[str], *, through: int
) -> tuple[DeletedSlice, ...] | None:
    """Ask the store, before it deletes them.

    Args:
        store: Has applied `through`.
        filter_: Which.
        time_range: Of the records.
        datasets: Theirs; empty: all.
        through: Their last position.

    Returns:
        None: more than anybody wants to list.

    Raises:
        StoreError: The store failed, or is too slow or too busy.
    """
    asked = StoreQuery(
        _counts(filter_, (Bucket(DAY_NS, _DAY), _SOURCE, _DUMP)),
        time_range,
        {0: through},
        datasets=datasets,
        limits=_LIMITS,
    )
    meant = await _ask(store, asked)
    if meant is None:
        return None
    days: dict[tuple[str, str], set[int]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for time, source, dump, count in meant:
        days.setdefault((source, dump), set()).add(int(time.timestamp()) * 10**9 // DAY_NS)
        counts[source, dump] += count
    whole = await _whole(store, counts, through=through)
    return tuple(
        DeletedSlice(source, dump, () if dump else tuple(sorted(found)), whole=(source, dump) in whole)
        for (source, dump), found in sorted(days.items())
    )


async def _whole(store: LogStore, meant: Counter[tuple[str, str]], *, through: int) -> set[tuple[str, str]]:
    """The dumps of which no record is left."""
    dumps = sorted({dump for _, dump in meant if dump})
    if not 0 < len(dumps) <= _DUMPS_MAX:
        return set()
    filter_ = Or(tuple(Compare(_DUMP, Operator.EQ, dump) for dump in dumps))
    asked = StoreQuery(_counts(filter_, (_SOURCE, _DUMP)), TimeRange(), {0: through}, limits=_LIMITS)
    held = await _ask(store, asked)
    return {(source, dump) for source, dump, count in held or () if meant[source, dump] == count}


def _counts(filter_: Expression, by: tuple[GroupKey, ...]) -> Query:
    return Query(filter_, (Stats((Aggregate(Function.COUNT, None, _COUNT),), by),))


async def _ask(store: LogStore, asked: StoreQuery) -> list[tuple[Any, ...]] | None:
    """Its rows, no source and no dump being empty text; None: there were too many."""
    rows: list[tuple[Any, ...]] = []
    try:
        async with store.query(asked) as result:
            async for batch in result.batches():
                columns = [
                    column.fill_null("") if pa.types.is_string(column.type) else column for column in batch.columns
                ]
                rows.extend(zip(*(column.to_pylist() for column in columns), strict=True))
            return None if result.statistics.truncated_by else rows
    except (QueryTimeoutError, QueryCostError, BudgetExceededError) as error:
        raise StoreError(store.name, str(error)) from error
