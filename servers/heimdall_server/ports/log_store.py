"""A tier of log records that answers queries; the warm tier is one, hot and cold are others."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from heimdall_server.domain.expression.fields import FieldKind, FieldRef
from heimdall_server.domain.expression.tree import Expression, Query, TimeRange
from heimdall_server.ports.journal import Positions


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Consecutive frames of one shard."""

    shard: int
    first: int
    last: int
    """Inclusive."""


class Path(enum.StrEnum):
    """How a store answers."""

    ROLLUP = "rollup"
    MINUTE_COLUMN = "minute_column"
    TEXT_INDEX = "text_index"
    TRACE_INDEX = "trace_index"
    NEWEST_FIRST = "newest_first"
    SCAN = "scan"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may use."""

    time_s: float = 30.0
    memory_bytes: int = 1 << 30
    scan_rows: int = 200_000_000
    result_rows: int = 1_000_000
    threads: int = 2
    background: bool = False
    """Whether it gives way to queries that aren't, wherever the store can do that."""


class Order(enum.StrEnum):
    """Order of row queries."""

    NEWEST_FIRST = "newest_first"
    """(time, shard, position, row) descending."""
    OLDEST_FIRST = "oldest_first"
    """(time, shard, position, row) ascending."""
    JOURNAL = "journal"
    """(shard, position, row) ascending."""
    JOURNAL_REVERSED = "journal_reversed"
    """(shard, position, row) descending: what came in before a record."""


@dataclass(frozen=True, slots=True)
class RowKey:
    """The place of a row in an ordered result; resuming goes on strictly after it."""

    time_ns: int
    shard: int
    position: int
    row: int


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """A query with everything that pins its answer."""

    query: Query
    time_range: TimeRange
    through: Positions
    """Only records at or before these positions: a stable snapshot. Empty: all that is there."""
    after_positions: Positions = field(default_factory=dict)
    """Only records after these positions (watch history); empty: from the start."""
    datasets: Sequence[str] = ()
    """Empty: all that the caller may see (the service fills it)."""
    order: Order = Order.NEWEST_FIRST
    after: RowKey | None = None
    limits: Limits = field(default_factory=Limits)
    path: Path | None = None
    """What the planner chose. A store that can't go that way takes the next best one and says so in
    its `Plan`; the answer is the same. None: the store's own choice."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a store would answer, before or after it did."""

    path: Path
    reason: str
    """A sentence."""
    estimated_rows: int
    estimated_bytes: int
    sql: str = ""
    """The statement with placeholders, never values; for people."""
    detail: Sequence[str] = ()
    """The engine's own plan lines that name indexes and parts."""
    notice: str = ""
    """What somebody who finds nothing should know of the question; no store's, whoever asks it adds this."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a query used."""

    rows_read: int
    bytes_read: int
    elapsed_s: float
    result_rows: int
    truncated_by: str = ""
    """Name of the limit that cut the result; empty: complete."""


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of a result's batches."""

    name: str
    """As the query calls it."""
    kind: FieldKind | None
    """None: a column of the record as it is. KEYWORD: text, empty is missing. Others: null is missing."""
    hidden: bool = False
    """A part of the row's place that the query didn't ask for."""


class Result(Protocol):
    """A running query."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the batches; known before the first one. Ids are raw bytes."""
        ...

    @property
    def columns(self) -> Sequence[ResultColumn]:
        """What the schema's fields mean, in their order."""
        ...

    @property
    def key_indexes(self) -> tuple[int, int, int, int] | None:
        """Where `time`, `shard`, `position` and `row` stand among the columns: a row's `RowKey`.

        None where rows aren't records (after `stats`).
        """
        ...

    @property
    def plan(self) -> Plan:
        """The path that was taken."""
        ...

    @property
    def through(self) -> Positions:
        """The snapshot that the answer stands for; empty: everything that was there.

        The query's own, or a later one where a rollup, which has no positions, already holds more.
        """
        ...

    def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows. Once. Stops the query in the engine when closed early.

        A limit that is reached after rows were delivered ends the batches (`Statistics.truncated_by`);
        reached before the first one, or in an aggregation, it raises.

        Raises:
            QueryTimeoutError: `limits.time_s` is over.
            QueryCostError: `limits.scan_rows` or `limits.memory_bytes` is not enough.
            StoreError: The engine failed.
        """
        ...

    @property
    def statistics(self) -> Statistics:
        """Complete after the last batch; progress before."""
        ...


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field that records carry."""

    name: str
    """As a query names it."""
    type: str
    """`text`, `keyword`, `number`, `bool`, `time`, `id`, or several joined by `|`."""
    record_count: int
    """Records of the sample that carry it."""
    sampled_count: int


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A value of a field and how many records have it."""

    value: str
    """Numbers and bools as the query language writes them, ids as lower-case hex."""
    record_count: int


@dataclass(frozen=True, slots=True)
class DatasetUsage:
    """What a dataset holds."""

    dataset: str
    record_count: int
    size_bytes: int
    uncompressed_bytes: int
    oldest_time_ns: int
    newest_time_ns: int


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store this is, and whose records it holds."""

    store_id: str
    """Random, made with its tables: another one after they were deleted."""
    journal_id: str
    """Journal whose positions its records carry; empty: none yet."""


class LogStore(Protocol):
    """Insert a range exactly once, query, forget what is old.

    Guarantees: `insert` of a range is idempotent by `recover` (see `projections/warm`); what it returned
    from is durable and visible; queries never see half a frame *after* `insert` returned.
    """

    name: str

    @property
    def rollups(self) -> Sequence[frozenset[str]]:
        """Core columns of each per-minute rollup of counts; empty: the store keeps none."""
        ...

    def word_index(self, datasets: Sequence[str]) -> bool:
        """True if the words of every body of some datasets (none named: of all) are indexed."""
        ...

    def rows_between(self, time_range: TimeRange, datasets: Sequence[str]) -> int:
        """About how many records lie in a time range: what a query's cost is estimated by. Cheap, and never blocks.

        Args:
            time_range: Of the records.
            datasets: Empty: all.
        """
        ...

    async def open(self) -> None:
        """Make or migrate tables; refuse a newer schema version."""
        ...

    async def identify(self) -> StoreIdentity:
        """Which store this is. It names itself the first time.

        Raises:
            StoreError: The engine failed.
        """
        ...

    async def claim(self, journal_id: str) -> None:
        """Note, durably, whose records come in.

        Raises:
            StoreError: The engine failed.
        """
        ...

    async def holds_beyond(self, shard: int, position: int) -> bool:
        """Whether there is any record of a shard behind a position. Cheap.

        Raises:
            StoreError: The engine failed.
        """
        ...

    async def insert(self, range_: FrameRange, batches: Sequence[pa.RecordBatch], *, token: str) -> None:
        """Write records of whole frames, rollups included.

        Args:
            range_: The frames that `batches` are all records of.
            batches: `POSITIONED_SCHEMA`.
            token: Unique to this attempt (the engine's deduplication token; saves work, proves nothing).

        Raises:
            StoreError: Nothing, part or all may be in the store: `recover` decides.
            InvalidInputError: The engine refuses the content, and nothing of `batches` is in the store;
                halving finds the rows.
        """
        ...

    async def recover(self, range_: FrameRange, expected_rows: int) -> bool:
        """After a crash: is the range whole? If not, remove what is there.

        Returns:
            True: every row (and the rollups) is there, advance. False: nothing of it is, insert again.
        """
        ...

    async def delete(
        self, filter_: Expression, *, time_range: TimeRange, datasets: Sequence[str], through: Positions
    ) -> int:
        """Delete the records that a filter finds, from tables, indexes and rollups, and rewrite what held them on disk.

        Idempotent: a call that was cut short is simply made again.

        Args:
            filter_: Which; no stages.
            time_range: Of the records.
            datasets: Empty: all.
            through: Only records at or before these positions.

        Returns:
            Records deleted by this call.

        Raises:
            StoreError: Some may be deleted; call again.
            QuerySyntaxError, InvalidArgumentError: The engine can't ask this; nothing was deleted.
        """
        ...

    def settled(self, through: Positions) -> None:
        """Hear that every record through these positions is whole and that nothing later is there.

        A projection says so when it starts (after `recover`), and after each batch. Between a change and this
        a store answers from records only, since its rollups may be behind them.
        """
        ...

    def query(self, query: StoreQuery) -> AbstractAsyncContextManager[Result]:
        """Plan and start a query. Leaving the context stops it in the engine.

        Raises:
            BudgetExceededError: Every query connection is busy.
            QuerySyntaxError, InvalidArgumentError: The engine can't ask this.
            QueryTimeoutError, QueryCostError, StoreError: As `Result.batches`.
        """
        ...

    async def explain(self, query: StoreQuery) -> Plan:
        """The plan without running it."""
        ...

    async def fields(self, time_range: TimeRange, datasets: Sequence[str]) -> Sequence[FieldInfo]:
        """Fields seen, from a bounded sample of the newest records."""
        ...

    async def field_values(self, field: FieldRef, query: StoreQuery, *, count_max: int) -> Sequence[FieldValue]:
        """A field's most frequent values among the records that a query's filter matches.

        Args:
            field: The field; records that lack it don't count.
            query: Filter, time range, snapshot, datasets and limits; its stages are not looked at.
            count_max: Values wanted, most frequent first.
        """
        ...

    async def usage(self) -> Sequence[DatasetUsage]:
        """Rows and bytes of each dataset."""
        ...

    async def expire(self, dataset: str, *, before_ns: int | None, size_bytes_max: int | None) -> Mapping[str, int]:
        """Drop whole partitions, oldest first, by age and by bytes.

        Returns:
            Dropped partitions and their row counts.
        """
        ...

    async def close(self) -> None:
        """Stop queries, close clients. Idempotent."""
        ...
