"""What records carry: fields and their values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.log_store import FieldInfo, FieldValue, Limits, LogStore, StoreQuery
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.question import (
    Question,
    check_datasets,
    check_time_range,
    understand,
)


@dataclass(frozen=True, slots=True)
class Values:
    """A field's top values."""

    values: Sequence[FieldValue]


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
    ) -> None:
        self._store = store
        self._visibility = visibility
        self._admission = admission
        self._clock = clock
        self._limits = limits
        self._datasets = datasets

    async def fields(self, caller: str, time_range: TimeRange, datasets: Sequence[str]) -> Sequence[FieldInfo]:
        """Fields with type and coverage, most covered first."""
        async with self._admission.admit(caller):
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
        """A field's most frequent values among the records that a question's filter matches."""
        query = StoreQuery(
            query=understand(question, now_ns=self._clock.now_ns()).query,
            time_range=check_time_range(time_range),
            through=self._visibility.visible_through,
            datasets=check_datasets(datasets, self._datasets),
            limits=self._limits,
        )
        async with self._admission.admit(caller):
            return Values(await self._store.field_values(resolve(field), query, count_max=count_max))
