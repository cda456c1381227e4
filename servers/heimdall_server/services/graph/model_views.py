"""Pivots, from logs to entities, as values that wire translation and logic share."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import pyarrow as pa

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import Vertex
from heimdall_server.domain.graph_views import DumpsOf


class CutReason(enum.StrEnum):
    """Why something wasn't looked at, or isn't told."""

    RECORD_COUNT = "record_count"
    """More records match than are read; the newest were."""
    TIME = "time"
    """Reading took too long."""
    STORE_LIMIT = "store_limit"
    """The store has another limit on what a query may read."""
    DISTINCT_COUNT = "distinct_count"
    """The records name more entities than are kept apart at a time."""
    ENTITY_COUNT = "entity_count"
    """There are more entities than were asked for."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a pivot lacks."""

    reason: CutReason
    shown_count: int
    """Records that were read, or entities that are told."""


@dataclass(frozen=True, slots=True)
class RecordsIn:
    """Which records are read."""

    query: str = field(repr=False)
    """A filter; it may name personal values."""
    time_range: TimeRange
    datasets: Sequence[str]
    record_count_max: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class PivotIn:
    """What a pivot asks."""

    records: RecordsIn
    types: frozenset[str]
    """Of entities; empty: all."""
    record_count_min: int
    """Of an entity."""
    entity_count_max: int


@dataclass(frozen=True, slots=True)
class RecordsEnd:
    """There are no more records, or no more are read."""

    cut: CutReason | None


RecordBatches: TypeAlias = AsyncGenerator[pa.RecordBatch | RecordsEnd, None]


class RecordSearch(Protocol):
    """Finds records as the query service does: admitted, audited, under its limits, personal values put into tokens."""

    def records(self, caller: str, asked: RecordsIn, *, tlp_max: Tlp) -> RecordBatches:
        """Records, newest first, with the columns of `RECORD_SCHEMA` that aren't hidden; at last a `RecordsEnd`.

        Args:
            caller: Whose they are.
            asked: Which.
            tlp_max: None that is stricter; one without a marking is amber.

        Raises:
            QuerySyntaxError, InvalidArgumentError: The query can't be asked.
            PermissionDeniedError: It names a personal value, and the caller may not search for any.
            QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: As a search does, before its first record.
        """
        ...


@dataclass(frozen=True, slots=True)
class PivotEntity:
    """An entity that records name."""

    vertex: Vertex
    """As the graph knows it; otherwise without what was seen."""
    is_known: bool
    labels: Sequence[str]
    dumps: DumpsOf
    record_count: int
    first_ns: int
    last_ns: int
    sources: Sequence[tuple[str, int]]
    """Name and records, most records first; ten at most."""
    source_count: int


@dataclass(frozen=True, slots=True)
class Pivoted:
    """The answer of a pivot."""

    entities: Sequence[PivotEntity]
    record_count: int
    """Records that were read."""
    entity_count: int
    """Entities that enough records name."""
    cuts: Sequence[Cut]
    graph_lag_s: float
