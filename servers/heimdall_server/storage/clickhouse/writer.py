"""What changes tables: inserting frames, finding out after a crash what of a range is there, removing it.

Records go first and rollups after them, so a rollup never counts what isn't there. Nothing is atomic
across tables or partitions: `recover` makes it whole again (`adr/0003`). Every method blocks; the store
runs them one at a time on a connection of their own.
"""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.errors import FormatError, InvalidArgumentError
from heimdall_server.ports.log_store import FrameRange
from heimdall_server.storage.clickhouse.blocks import by_dataset, counted, encoded, insertable
from heimdall_server.storage.clickhouse.connection import Connection, EngineError, Parameters, Settings
from heimdall_server.storage.clickhouse.migrate import tune
from heimdall_server.storage.clickhouse.schema import (
    ROLLUPS,
    Rollup,
    Tables,
    create_records,
    create_rollup,
    period_expression,
    rollup_table,
)

_MINUTES_PER_STATEMENT: Final = 4_000
_INSERT_NICE: Final = 5
"""Where the process has the right (CAP_SYS_NICE), what is durable already gives way to acknowledgements and queries, which somebody waits for;
it can't fall behind for good, since the journal's lead is bounded."""
_SYNC: Final = "SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2"
Step = Callable[[str], None]
"""Told the name of each step before it is taken; a test kills the process there."""


def _no_step(_: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class _Span:
    """Records from one (position, row) through another, of one shard."""

    shard: int
    first: tuple[int, int]
    last: tuple[int, int]

    @property
    def condition(self) -> str:
        """As SQL. The bare bounds on `position` are what its index reads."""
        return (
            f"shard = {self.shard} AND position >= {self.first[0]} AND position <= {self.last[0]} "
            f"AND (position, row) >= {self.first} AND (position, row) <= {self.last}"
        )


def range_condition(range_: FrameRange) -> str:
    """The records of a frame range, as SQL."""
    return f"shard = {range_.shard} AND position >= {range_.first} AND position <= {range_.last}"


class Writer:
    """Inserts, recovers, removes."""

    def __init__(
        self,
        connection: Connection,
        tables: Tables,
        datasets: Mapping[str, Dataset],
        step: Step = _no_step,
        *,
        text_index: bool = True,
    ) -> None:
        """Take a connection that nothing else uses.

        Args:
            connection: For statements that change tables.
            tables: Names.
            datasets: Those that have tables, by name. Another one gets tables with the defaults when its first
                record comes: what was acknowledged is stored even if its dataset left the configuration.
            step: For tests.
            text_index: Whether such another one gets a text index.
        """
        self._connection = connection
        self._text_index = text_index
        self._tables = tables
        self._datasets = dict(datasets)
        self._filled: frozenset[str] = frozenset()
        self._removal_count = 0
        self._step = step

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Every dataset that has tables."""
        return self._datasets

    @property
    def filled(self) -> frozenset[str]:
        """Datasets that may hold records."""
        return self._filled

    @property
    def removal_count(self) -> int:
        """How often it began to take out again what an insert had put in; may be read from any thread."""
        return self._removal_count

    def mark_filled(self, names: Iterable[str]) -> None:
        """Remember that datasets hold records."""
        self._filled |= frozenset(names)

    def _make_tables(self, name: str) -> None:
        if name in self._datasets:
            return
        dataset = Dataset(name, text_index=self._text_index)
        self._connection.command(create_records(self._tables, dataset))
        for rollup in ROLLUPS:
            self._connection.command(create_rollup(self._tables, dataset, rollup))
        tune(self._connection, self._tables, name)
        self._datasets[name] = dataset

    def insert_records(self, batches: Sequence[pa.RecordBatch], token: str) -> dict[str, list[pa.RecordBatch]]:
        """Insert the records of whole frames.

        Returns:
            The same records by dataset, for `insert_rollups`.

        Raises:
            InvalidInputError: Refused for their content; nothing of them is there.
            StoreError: Some or all may be there.
        """
        parts = {name: encoded(part) for name, part in by_dataset(batches).items()}
        try:
            for name in parts:
                self._make_tables(name)
        except InvalidArgumentError as error:
            raise FormatError("a record of a dataset", "its dataset's name can't name a table") from error
        except EngineError as error:
            raise error.translated() from error
        self.mark_filled(parts)
        try:
            for name, part in parts.items():
                for number, group in enumerate(insertable(part, self._datasets[name])):
                    self._step(f"insert records {name} {number}")
                    self._connection.insert(self._tables.records(name), group, _insert_settings(token))
        except EngineError as error:
            if error.refuses_content:
                self._remove(_span(batches), parts)
                raise FormatError("what the store takes", error.name) from error
            raise error.translated() from error
        return parts

    def insert_rollups(self, parts: Mapping[str, Sequence[pa.RecordBatch]], token: str) -> None:
        """Count what `insert_records` inserted.

        Raises:
            StoreError: Some or all counts may be there.
        """
        try:
            for name, part in parts.items():
                for rollup in ROLLUPS:
                    for batch in counted(part, self._datasets[name], rollup):
                        self._step(f"insert rollup {name} {rollup.name}")
                        self._connection.insert(self._tables.rollup(name, rollup), [batch], _insert_settings(token))
        except EngineError as error:
            raise error.translated() from error

    def recover(self, range_: FrameRange, expected_rows: int) -> bool:
        """See `LogStore.recover`.

        Raises:
            StoreError: The engine failed; call again.
        """
        condition = range_condition(range_)
        try:
            found = {name: self._count(name, condition) for name in self._datasets}
            whole = sum(found.values()) == expected_rows
            for name, count in found.items():
                if not count:
                    continue
                # The counts are made right before records go: were it the other way round and the process
                # killed in between, nobody would know any more which minutes were touched.
                self._rebuild(name, condition, without="" if whole else condition)
                if not whole:
                    self._delete(name, condition)
        except EngineError as error:
            raise error.translated() from error
        return whole

    def delete(self, names: Iterable[str], condition: str, parameters: Parameters) -> int:
        """Delete the records of a condition, correct the counts, and rewrite the parts that held them.

        Safe to repeat after a crash anywhere: counts go before records do, and parts are rewritten wherever a mask is left.

        Args:
            names: Datasets.
            condition: On records.
            parameters: What it names.

        Returns:
            Records deleted.

        Raises:
            StoreError: The engine failed; call again.
        """
        deleted = 0
        try:
            for name in names:
                count = self._count(name, condition, parameters)
                if count:
                    self._rebuild(name, condition, without=condition, parameters=parameters)
                    self._delete(name, condition, parameters)
                    deleted += count
                self._purge(name)
        except EngineError as error:
            raise error.translated() from error
        return deleted

    def _purge(self, name: str) -> None:
        """Rewrite every part in which deleted rows are only masked: until then their bytes are on disk."""
        targets = {name: self._tables.records(name)}
        targets |= {rollup_table(name, rollup): self._tables.rollup(name, rollup) for rollup in ROLLUPS}
        for table, target in targets.items():
            masked = self._connection.table(
                "SELECT DISTINCT partition_id AS id FROM system.parts WHERE active AND has_lightweight_delete "
                "AND database = {database:String} AND table = {table:String}",
                {"database": self._tables.database, "table": table},
            )
            for partition in masked.column("id").to_pylist():
                self._step(f"purge {table} {partition}")
                self._connection.command(
                    f"ALTER TABLE {target} APPLY DELETED MASK IN PARTITION ID '{partition}' SETTINGS mutations_sync = 2"
                )

    def _remove(self, span: _Span, names: Mapping[str, object]) -> None:
        self._removal_count += 1
        try:
            for name in names:
                if self._count(name, span.condition):
                    self._delete(name, span.condition)
        except EngineError as error:
            raise error.translated() from error

    def _count(self, name: str, condition: str, parameters: Parameters | None = None) -> int:
        self._step(f"count {name}")
        sql = f"SELECT count() AS n FROM {self._tables.records(name)} WHERE {condition}"
        table = self._connection.table(sql, parameters)
        return int(table.column("n")[0].as_py())

    def _delete(self, name: str, condition: str, parameters: Parameters | None = None) -> None:
        records = self._tables.records(name)
        partitions = self._connection.table(
            f"SELECT DISTINCT _partition_id AS id FROM {records} WHERE {condition}", parameters
        )
        for partition in partitions.column("id").to_pylist():
            self._step(f"delete records {name} {partition}")
            self._connection.command(
                f"DELETE FROM {records} IN PARTITION ID '{partition}' WHERE {condition} {_SYNC}", parameters
            )

    def _rebuild(self, name: str, condition: str, *, without: str, parameters: Parameters | None = None) -> None:
        """Make the counts of the minutes that a condition's records touch anew, from records."""
        records = self._tables.records(name)
        period = period_expression(self._datasets[name])
        touched = self._connection.table(
            f"SELECT toString({period}) AS period, arraySort(groupUniqArray(toUnixTimestamp(minute))) AS minutes "
            f"FROM {records} WHERE {condition} GROUP BY 1 ORDER BY 1",
            parameters,
        )
        for day, minutes in zip(*(touched.column(i).to_pylist() for i in range(2)), strict=True):
            for start in range(0, len(minutes), _MINUTES_PER_STATEMENT):
                chosen = minutes[start : start + _MINUTES_PER_STATEMENT]
                for rollup in ROLLUPS:
                    self._recount(name, rollup, day, chosen, without, parameters)

    def _recount(
        self,
        name: str,
        rollup: Rollup,
        day: str,
        minutes: Sequence[int],
        without: str,
        parameters: Parameters | None,
    ) -> None:
        target = self._tables.rollup(name, rollup)
        chosen = f"minute IN ({', '.join(str(minute) for minute in minutes)})"
        bounds = f"time >= fromUnixTimestamp({minutes[0]}) AND time < fromUnixTimestamp({minutes[-1] + 60})"
        kept = f" AND NOT ({without})" if without else ""
        period = period_expression(self._datasets[name])
        dimensions = ", ".join(rollup.dimensions)
        self._step(f"clear rollup {name} {rollup.name}")
        self._connection.command(f"DELETE FROM {target} WHERE period = '{day}' AND {chosen} {_SYNC}")
        self._step(f"count rollup {name} {rollup.name}")
        self._connection.command(
            f"INSERT INTO {target} (period, minute, {dimensions}, count) "
            f"SELECT {period} AS period, minute, {dimensions}, count() FROM {self._tables.records(name)} "
            f"WHERE {period} = '{day}' AND {chosen} AND indexHint({bounds}){kept} GROUP BY ALL",
            parameters,
        )


def _insert_settings(token: str) -> Settings:
    return {
        "async_insert": 0,
        "os_threads_nice_value_query": _INSERT_NICE,
        "log_comment": token,
        "max_insert_threads": 1,
        # One part a partition: blocks are gathered up to this instead of written as they come.
        "min_insert_block_size_rows": 1 << 20,
    }


def _span(batches: Sequence[pa.RecordBatch]) -> _Span:
    first, last = batches[0], batches[-1]

    def key(batch: pa.RecordBatch, index: int) -> tuple[int, int]:
        return int(batch.column("position")[index].as_py()), int(batch.column("row")[index].as_py())

    return _Span(int(first.column("shard")[0].as_py()), key(first, 0), key(last, last.num_rows - 1))
