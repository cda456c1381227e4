"""What records carry: fields and their values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pyarrow as pa

from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import Aggregate, Function, Query, Stats, TimeRange
from heimdall_server.planner.cost import FIXED_S, estimate_cost_s
from heimdall_server.planner.planner import choose_path
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.log_store import FieldInfo, Limits, LogStore, StoreQuery
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.iterators import closed_behind
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.services.query.logic.question import (
    check_datasets,
    check_time_range,
    read_question,
    with_tokens,
    worked_out,
)
from heimdall_server.services.query.logic.sets import SetFinder, sets_of
from heimdall_server.services.query.model import Question, Understood, Values


class CatalogueUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        store: LogStore,
        visibility: Visibility,
        admission: Admission,
        clock: Clock,
        limits: Limits,
        datasets: Collection[str],
        personal: PersonalSearch | None = None,
        sets: SetFinder | None = None,
    ) -> None:
        self._store = store
        self._visibility = visibility
        self._admission = admission
        self._clock = clock
        self._limits = limits
        self._datasets = datasets
        self._personal = personal
        self._sets = sets

    async def fields(self, caller: str, time_range: TimeRange, datasets: Sequence[str]) -> Sequence[FieldInfo]:
        """Fields with type and coverage, most covered first."""
        async with self._admission.admit(caller, cost_s=FIXED_S):
            found = await self._store.fields(check_time_range(time_range), check_datasets(datasets, self._datasets))
        return sorted(found, key=lambda info: (-info.record_count, info.name))

    async def values(
        self,
        caller: str,
        field: str,
        question: Question,
        time_range: TimeRange,
        datasets: Sequence[str],
        count_max: int,
    ) -> Values:
        """A field's most frequent values among the records that a question's filter matches.

        Raises:
            QuerySyntaxError, InvalidArgumentError: The request must change.
            PermissionDeniedError: It names a personal value, and the caller may not search for any.
            QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: See the port.
        """
        ref = resolve(field)
        totals = Stats((Aggregate(Function.COUNT, ref, "records"), Aggregate(Function.COUNT_DISTINCT, ref, "distinct")))
        now_ns, terms = self._clock.now_ns(), None if self._personal is None else self._personal.terms

        def understand() -> Understood:
            return with_tokens(Query(read_question(question, now_ns=now_ns).filter, (totals,)), terms)

        understood = await worked_out(question, terms, understand)
        if self._personal is not None:
            await self._personal.guard.allow(understood.matched)
        understood = understood.filled((await sets_of(self._sets, understood.query)).filled)
        counting = StoreQuery(
            query=understood.query,
            time_range=check_time_range(time_range),
            through=self._visibility.visible_through,
            datasets=check_datasets(datasets, self._datasets),
            limits=self._limits,
        )
        query = replace(counting, query=Query(understood.query.filter))
        rows = self._store.rows_between(query.time_range, query.datasets)
        # Two statements that read the same.
        word_index = self._store.word_index(counting.datasets)
        path = choose_path(counting, self._store.rollups, word_index=word_index).path
        cost_s = 2 * estimate_cost_s(counting, path, rows)
        memory_bytes = self._limits.memory_bytes
        async with self._admission.admit(caller, cost_s=cost_s, memory_bytes=memory_bytes) as grant:
            limits = replace(
                self._limits, memory_bytes=grant.memory_bytes, threads=grant.threads, background=grant.is_scan
            )
            values = await self._store.field_values(ref, replace(query, limits=limits), count_max=count_max)
            async with (
                self._store.query(replace(counting, limits=limits)) as result,
                closed_behind(result.batches()) as batches,
            ):
                table = pa.Table.from_batches([batch async for batch in batches], schema=result.schema)
        row = table.to_pylist()[0] if table.num_rows else {"records": 0, "distinct": 0}
        return Values(values, int(row["records"] or 0), int(row["distinct"] or 0))
