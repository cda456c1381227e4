"""The warm tier on ClickHouse: in this process (chDB) or on a server, by the same statements."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import pyarrow as pa

from heimdall_server.domain.datasets import DEFAULT_DATASETS, Dataset
from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.needs import query_needs
from heimdall_server.domain.expression.tree import (
    Aggregate,
    And,
    Exists,
    Expression,
    Function,
    Limit,
    Query,
    Sort,
    SortKey,
    Stats,
    TimeRange,
)
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import (
    DatasetUsage,
    FieldInfo,
    FieldValue,
    FrameRange,
    Path,
    Plan,
    Result,
    StoreIdentity,
    StoreQuery,
)
from heimdall_server.storage.clickhouse.connection import STORE_NAME, Connection, Engine, EngineError
from heimdall_server.storage.clickhouse.explaining import bytes_a_row, estimated_rows, plan_lines
from heimdall_server.storage.clickhouse.inventory import (
    dataset_usage,
    drop_period,
    expired_periods,
    sampled_fields,
)
from heimdall_server.storage.clickhouse.lines import Line, LinePool
from heimdall_server.storage.clickhouse.migrate import filled_datasets, migrate
from heimdall_server.storage.clickhouse.ownership import claim, holds_beyond, identity
from heimdall_server.storage.clickhouse.running import RunningQuery
from heimdall_server.storage.clickhouse.schema import ROLLUPS, Tables, rollup_table
from heimdall_server.storage.clickhouse.select import Statement, build, deletion
from heimdall_server.storage.clickhouse.settling import Settled, Settling
from heimdall_server.storage.clickhouse.volume import Volume, counted_days
from heimdall_server.storage.clickhouse.writer import Step, Writer

_LOG = logging.getLogger(__name__)
_ROLLUP_STARTS_MAX: Final = 3
_SETTLE_WAIT_S_MIN: Final = 0.25
_SETTLE_WAIT_S_PER_ROW: Final = 1e-7
"""Rollups are waited for about as long as a loaded machine would read the records instead."""
_CLOSE_WAIT_S: Final = 2.0
_COUNT: Final = "record_count"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClickHouseConfig:
    """What a store is made of, besides its engine."""

    database: str = "heimdall"
    datasets: tuple[Dataset, ...] = DEFAULT_DATASETS
    """At least one."""
    query_connections: int = 10
    """Queries that run at once; others wait for one of these, within their own time."""
    text_index: bool = True
    """False: no dataset indexes the words of bodies, whatever its own setting says."""


class ClickHouseLogStore:
    """`LogStore` on ClickHouse.

    One line (a connection and its thread) changes tables, one controls, and each running query has one.
    """

    name = STORE_NAME

    def __init__(self, engine: Engine, config: ClickHouseConfig | None = None, *, step: Step | None = None) -> None:
        """Take an engine; nothing is connected yet.

        Args:
            engine: Where connections come from.
            config: Database, datasets, connections.
            step: Told each step that changes something, before it is taken: for tests.
        """
        self._config = config or ClickHouseConfig()
        self._tables = Tables(self._config.database)
        self._step = step
        self._changes = Line(engine, "changes")
        self._control = Line(engine, "control")
        self._pool = LinePool(engine, self._config.query_connections)
        self._settling = Settling()
        self._volume = Volume()
        self._running: set[RunningQuery] = set()
        self._releasing: set[asyncio.Task[None]] = set()
        self._writer: Writer | None = None

    @property
    def rollups(self) -> Sequence[frozenset[str]]:
        """See `LogStore.rollups`."""
        return [frozenset(rollup.dimensions) for rollup in ROLLUPS]

    def word_index(self, datasets: Sequence[str]) -> bool:
        """See `LogStore.word_index`."""
        return all(dataset.text_index for dataset in self._chosen(datasets))

    def rows_between(self, time_range: TimeRange, datasets: Sequence[str]) -> int:
        """See `LogStore.rows_between`."""
        return self._volume.between(time_range, datasets)

    async def open(self) -> None:
        """See `LogStore.open`.

        Raises:
            ConfigurationError: A newer program wrote the database, or a dataset's partitioning changed.
            StoreError: The engine can't be opened.
        """
        try:
            await self._control.open()
            await self._changes.open()
            await self._pool.open()
            self._writer = await self._changes.call(self._open_writer)
            await self._count_days()
        except BaseException:
            await self.close()
            raise

    async def identify(self) -> StoreIdentity:
        """See `LogStore.identify`."""
        return await self._change(lambda connection: identity(connection, self._tables))

    async def claim(self, journal_id: str) -> None:
        """See `LogStore.claim`."""
        await self._change(lambda connection: claim(connection, self._tables, journal_id))

    async def holds_beyond(self, shard: int, position: int) -> bool:
        """See `LogStore.holds_beyond`."""
        names = list(self._opened().datasets)
        return await self._change(lambda connection: holds_beyond(connection, self._tables, names, shard, position))

    async def insert(self, range_: FrameRange, batches: Sequence[pa.RecordBatch], *, token: str) -> None:
        """See `LogStore.insert`. Unsettled when records have come in, until `settled`."""
        del range_  # The positions are in the records; `recover` is what needs the range.
        filled = [batch for batch in batches if batch.num_rows]
        if not filled:
            return
        writer = self._opened()
        self._settling.insert()
        parts = await self._changes.call(writer.insert_records, filled, token)
        for name, part in parts.items():
            self._volume.add(writer.datasets[name], part)
        self._settling.unsettle()
        await self._changes.call(writer.insert_rollups, parts, token)

    async def recover(self, range_: FrameRange, expected_rows: int) -> bool:
        """See `LogStore.recover`."""
        self._settling.unsettle()
        return await self._changes.call(self._opened().recover, range_, expected_rows)

    async def delete(
        self, filter_: Expression, *, time_range: TimeRange, datasets: Sequence[str], through: Positions
    ) -> int:
        """See `LogStore.delete`. Unsettled from here until `settled`."""
        chosen = self._chosen(datasets)
        deletions = [(dataset.name, *deletion(dataset, filter_, time_range, through)) for dataset in chosen]
        self._settling.unsettle()
        deleted = 0
        for name, condition, parameters in deletions:
            deleted += await self._changes.call(self._opened().delete, [name], condition, parameters)
        if deleted:
            await self._count_days()
        return deleted

    def settled(self, through: Positions) -> None:
        """See `LogStore.settled`."""
        self._settling.settle(through)

    @contextlib.asynccontextmanager
    async def query(self, query: StoreQuery) -> AsyncIterator[Result]:
        """See `LogStore.query`."""
        self._opened()
        line = await self._pool.take(query.limits.time_s)
        started: list[RunningQuery] = []
        try:
            yield await self._start(query, line, started)
        except EngineError as error:
            raise error.translated(time_s=query.limits.time_s) from error
        finally:
            # Whoever gives up waiting must not leave a statement running or a line taken.
            release = asyncio.ensure_future(self._release(line, started))
            self._releasing.add(release)
            release.add_done_callback(self._releasing.discard)
            await asyncio.shield(release)

    async def explain(self, query: StoreQuery) -> Plan:
        """See `LogStore.explain`."""
        settled = self._settling.now
        statement = self._build(query, settled, to_explain=True)
        try:
            return await self._control.call(self._explain, query, statement, settled)
        except EngineError as error:
            raise error.translated() from error

    async def fields(self, time_range: TimeRange, datasets: Sequence[str]) -> Sequence[FieldInfo]:
        """See `LogStore.fields`."""
        names = [dataset.name for dataset in self._chosen(datasets)]
        return await self._ask(lambda connection: sampled_fields(connection, self._tables, names, time_range))

    async def field_values(self, field: FieldRef, query: StoreQuery, *, count_max: int) -> Sequence[FieldValue]:
        """See `LogStore.field_values`."""
        count = FieldRef(Scope.COMPUTED, _COUNT)
        stages = (
            Stats((Aggregate(Function.COUNT, None, _COUNT),), (field,)),
            Sort((SortKey(count, descending=True),)),
            Limit(count_max),
        )
        asked = Query(And((query.query.filter, Exists(field))), stages)
        values: list[FieldValue] = []
        async with self.query(replace(query, query=asked, path=None)) as result:
            async for batch in result.batches():
                shown = batch.column(0).cast(pa.string()).to_pylist()
                values += map(FieldValue, shown, batch.column(1).to_pylist())
        return values

    async def usage(self) -> Sequence[DatasetUsage]:
        """See `LogStore.usage`."""
        names = list(self._opened().datasets)
        return await self._ask(lambda connection: [dataset_usage(connection, self._tables, name) for name in names])

    async def expire(self, dataset: str, *, before_ns: int | None, size_bytes_max: int | None) -> Mapping[str, int]:
        """See `LogStore.expire`. Keys are the first days of the dropped periods, `YYYY-MM-DD`."""
        config = self._opened().datasets.get(dataset)
        if config is None:
            return {}
        tables, connection = self._tables, self._changes.connection
        dropped: dict[str, int] = {}
        try:
            expired = await self._changes.call(
                expired_periods, connection, tables, config, before_ns=before_ns, size_bytes_max=size_bytes_max
            )
            for period, rows in expired.items():
                await self._changes.call(drop_period, connection, tables, dataset, period)
                dropped[period] = rows
            if dropped:
                await self._count_days()
        except EngineError as error:
            raise error.translated() from error
        return dropped

    async def close(self) -> None:
        """See `LogStore.close`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            for running in list(self._running):
                await self._kill(running.tag)
            if self._releasing:
                await asyncio.wait(self._releasing)
        await self._pool.close(_CLOSE_WAIT_S if writer is not None else 0.0)
        await self._changes.close()
        await self._control.close()

    async def _start(self, query: StoreQuery, line: Line, started: list[RunningQuery]) -> RunningQuery:
        """Start a query; again if what it reads without positions changed meanwhile."""
        dimensions = query_needs(query.query).dimensions
        by_rollup = dimensions is not None and any(dimensions <= rollup for rollup in self.rollups)
        whole, removals = self._settling.records, self._opened().removal_count
        rows = self.rows_between(query.time_range, query.datasets)
        wait_s = min(max(rows * _SETTLE_WAIT_S_PER_ROW, _SETTLE_WAIT_S_MIN), query.limits.time_s / 4)
        for _ in range(_ROLLUP_STARTS_MAX):
            settled = await self._settling.wait(wait_s) if by_rollup else None
            running = await self._run(query, self._build(query, settled, whole=whole), line, started)
            if await self._is_current(running.statement, settled, whole, removals):
                return running
            await running.stop()
            by_rollup, whole = by_rollup and settled is not None, None
        return await self._run(query, self._build(query, None), line, started)

    async def _is_current(
        self, statement: Statement, settled: Settled | None, whole: Settled | None, removals: int
    ) -> bool:
        """Whether a statement that runs reads what it says that it reads."""
        if statement.path is Path.ROLLUP:
            return settled is not None and self._settling.still(settled)
        if not statement.unpositioned:
            return True
        if whole is None or not self._settling.records_still(whole):
            return False
        # What is committed after this was not there when the statement began; what was refused and is gone may have been.
        return not self._settling.inserting or not (
            await self._control.call(self._holds_beyond, list(self._opened().datasets), whole.through)
            or self._opened().removal_count != removals
        )

    def _holds_beyond(self, names: Sequence[str], through: Positions) -> bool:
        connection = self._control.connection
        return any(holds_beyond(connection, self._tables, names, shard, last) for shard, last in through.items())

    async def _run(
        self, query: StoreQuery, statement: Statement, line: Line, started: list[RunningQuery]
    ) -> RunningQuery:
        plan = Plan(statement.path, statement.reason, 0, 0, statement.sql)
        running = RunningQuery(
            statement, plan, query.limits, line, kill=self._kill, describe=lambda: self._describe(query)
        )
        started[:] = [running]
        self._running.add(running)
        await running.start()
        return running

    async def _release(self, line: Line, started: Sequence[RunningQuery]) -> None:
        try:
            for running in started:
                await running.stop()
                self._running.discard(running)
        except (EngineError, StoreError) as error:
            _LOG.warning("a query didn't stop cleanly: %s", type(error).__name__)
        finally:
            self._pool.give(line)

    async def _kill(self, tag: str) -> None:
        await self._control.call(
            lambda: self._control.connection.command(
                "KILL QUERY WHERE Settings['log_comment'] = {tag:String} ASYNC", {"tag": tag}
            )
        )

    async def _describe(self, query: StoreQuery) -> pa.Schema:
        # Streams tell no schema before their first rows, nor where there are none.
        statement = self._build(query, None, to_explain=True)
        sql = f"SELECT * FROM ({statement.sql}) WHERE false"  # noqa: S608 - what a person says travels as parameters
        return await self._control.call(lambda: self._control.connection.table(sql, statement.parameters).schema)

    async def _change(self, action: Callable[[Connection], T]) -> T:
        """Do a short thing between changes of tables."""
        self._opened()
        try:
            return await self._changes.call(lambda: action(self._changes.connection))
        except EngineError as error:
            raise error.translated() from error

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        """Ask a short question on a query line."""
        self._opened()
        line = await self._pool.take(30.0)
        try:
            return await line.call(lambda: question(line.connection))
        except EngineError as error:
            raise error.translated() from error
        finally:
            self._pool.give(line)

    def _explain(self, query: StoreQuery, statement: Statement, settled: Settled | None) -> Plan:
        connection = self._control.connection
        rows = size = 0
        for dataset in self._chosen(query.datasets):
            alone = self._build(query, settled, [dataset], to_explain=True)
            names = [dataset.name, *(rollup_table(dataset.name, rollup) for rollup in ROLLUPS)]
            width = bytes_a_row(connection, self._tables, names, alone.sql)
            for table, count in estimated_rows(connection, alone.sql, alone.parameters).items():
                rows += count
                size += int(count * width.get(table, 0.0))
        lines = plan_lines(connection, statement.sql, statement.parameters)
        return Plan(statement.path, statement.reason, rows, size, statement.sql, tuple(lines))

    def _build(
        self,
        query: StoreQuery,
        settled: Settled | None,
        datasets: Sequence[Dataset] | None = None,
        *,
        whole: Settled | None = None,
        to_explain: bool = False,
    ) -> Statement:
        return build(
            query,
            self._tables,
            datasets or self._chosen(query.datasets),
            rollup_through=settled.through if settled else None,
            whole_through=whole.through if whole else None,
            to_explain=to_explain,
        )

    def _chosen(self, names: Sequence[str]) -> list[Dataset]:
        """The datasets to read: those that are asked for and hold something, else any one (empty) of them.

        Reading one table is cheaper than reading it beside empty ones.
        """
        writer = self._opened()
        wanted = [dataset for name, dataset in writer.datasets.items() if not names or name in names]
        if not wanted:
            raise StoreError(STORE_NAME, "none of the datasets asked for has a table")
        return [dataset for dataset in wanted if dataset.name in writer.filled] or wanted[:1]

    async def _count_days(self) -> None:
        datasets = self._opened().datasets
        self._volume.replace(await self._changes.call(counted_days, self._changes.connection, self._tables, datasets))

    def _open_writer(self) -> Writer:
        connection = self._changes.connection
        try:
            indexed = self._config.text_index
            wanted = [replace(one, text_index=one.text_index and indexed) for one in self._config.datasets]
            datasets = migrate(connection, self._tables, wanted)
            steps = [self._step] if self._step else []
            writer = Writer(connection, self._tables, datasets, *steps, text_index=indexed)
            writer.mark_filled(filled_datasets(connection, self._tables))
        except EngineError as error:
            raise error.translated() from error
        return writer

    def _opened(self) -> Writer:
        if self._writer is None:
            raise StoreError(STORE_NAME, "it isn't open")
        return self._writer
