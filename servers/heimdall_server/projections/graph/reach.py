"""What a deletion reaches: which sources' days, and which dumps, have records that it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heimdall_server.domain.errors import BudgetExceededError, QueryCostError, QueryTimeoutError, StoreError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    Bucket,
    Expression,
    Function,
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
_DAY, _COUNT = "day", "record_count"


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
    by = (Bucket(DAY_NS, _DAY), FieldRef(Scope.CORE, "source"), FieldRef(Scope.CORE, "dump"))
    query = Query(filter_, (Stats((Aggregate(Function.COUNT, None, _COUNT),), by),))
    asked = StoreQuery(query, time_range, {0: through}, datasets=datasets, limits=_LIMITS)
    days: dict[tuple[str, str], set[int]] = {}
    try:
        async with store.query(asked) as result:
            async for batch in result.batches():
                times, sources, dumps = (batch.column(place).to_pylist() for place in range(3))
                for time, source, dump in zip(times, sources, dumps, strict=True):
                    days.setdefault((source or "", dump or ""), set()).add(int(time.timestamp()) * 10**9 // DAY_NS)
            if result.statistics.truncated_by:
                return None
    except (QueryTimeoutError, QueryCostError, BudgetExceededError) as error:
        raise StoreError(store.name, str(error)) from error
    return tuple(
        DeletedSlice(source, dump, () if dump else tuple(sorted(found)))
        for (source, dump), found in sorted(days.items())
    )
