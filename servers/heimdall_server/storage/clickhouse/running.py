"""A query that runs: its batches as they come, its limits, and stopping it in the engine."""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import pyarrow as pa

from heimdall_server.domain.expression.fields import FieldKind
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Limits, Plan, ResultColumn, Statistics
from heimdall_server.storage.clickhouse.connection import EngineError, Stream
from heimdall_server.storage.clickhouse.lines import Line
from heimdall_server.storage.clickhouse.select import KEY_COLUMNS, Statement, settings_clause
from heimdall_server.storage.clickhouse.stages import Output

_STOP_AFTER_S: Final = 0.01
_STOP_AGAIN_S: Final = 0.03
Kill = Callable[[str], Awaitable[None]]
"""Stops the statement of a tag in the engine, from another connection."""


class RunningQuery:
    """One query on one line. Made by the store, which gives the line back after `stop`."""

    def __init__(self, statement: Statement, plan: Plan, limits: Limits, line: Line, kill: Kill) -> None:
        self.statement = statement
        self.plan = plan
        self._limits = limits
        self._line = line
        self._kill = kill
        self.tag = f"query-{uuid.uuid4().hex}"
        self._stream: Stream | None = None
        self._first: pa.RecordBatch | None = None
        self._schema = pa.schema([])
        self._started_s = time.monotonic()
        self._elapsed_s = 0.0
        self._rows = 0
        self._truncated_by = ""
        self._ended = False
        self._exhausted = False

    @property
    def schema(self) -> pa.Schema:
        """See `Result.schema`."""
        return self._schema

    @property
    def columns(self) -> Sequence[ResultColumn]:
        """See `Result.columns`."""
        return [ResultColumn(each.name, each.kind, each.hidden) for each in self.statement.outputs]

    @property
    def key_indexes(self) -> tuple[int, int, int, int] | None:
        """See `Result.key_indexes`."""
        if self.statement.aggregated:
            return None
        places = {each.identifier: index for index, each in enumerate(self.statement.outputs)}
        time_, shard, position, row = (places[name] for name in KEY_COLUMNS)
        return time_, shard, position, row

    @property
    def through(self) -> Positions:
        """See `Result.through`."""
        return self.statement.through

    @property
    def statistics(self) -> Statistics:
        """See `Result.statistics`."""
        progress = self._stream.progress if self._stream is not None else None
        return Statistics(
            rows_read=progress.rows_read if progress else 0,
            bytes_read=progress.bytes_read if progress else 0,
            elapsed_s=self._elapsed_s if self._ended else time.monotonic() - self._started_s,
            result_rows=self._rows,
            truncated_by=self._truncated_by,
        )

    async def start(self) -> None:
        """Send the statement and wait for its first rows.

        Raises:
            EngineError: It failed before there were any.
        """
        sql = f"{self.statement.sql} {settings_clause(self._limits, self.tag)}"
        self._first = await self._line.call(self._open, sql)
        if self._first is not None:
            fields = list(self._first.schema)
        elif self.statement.aggregated or any(output.kind is not None for output in self.statement.outputs):
            fields = list(await self._line.call(self._empty_schema))
        else:
            fields = [POSITIONED_SCHEMA.field(output.identifier) for output in self.statement.outputs]
        self._schema = pa.schema(
            [_field(output, field) for output, field in zip(self.statement.outputs, fields, strict=True)]
        )

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """See `Result.batches`."""
        batch = self._first
        self._first = None
        try:
            while batch is not None and not self._ended:
                left = self._limits.result_rows - self._rows
                if batch.num_rows > left:
                    batch, self._truncated_by = batch.slice(0, left), "result_rows"
                self._rows += batch.num_rows
                if batch.num_rows:
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
                if self._truncated_by:
                    return
                batch = await self._line.call(self._next)
        except EngineError as error:
            if not error.is_limit or self.statement.aggregated or not self._rows:
                raise error.translated(time_s=self._limits.time_s) from error
            self._truncated_by = error.limit_name
        finally:
            self._end()

    async def stop(self) -> None:
        """Stop the statement in the engine, if it still runs; the line is free when this returns."""
        self._end()
        closing = asyncio.ensure_future(self._line.call(self._close))
        wait_s = _STOP_AFTER_S
        while not closing.done():
            # The thread may be waiting for rows: only the engine can wake it. It may also not have sent the
            # statement yet, so ask more than once.
            await asyncio.wait([closing], timeout=wait_s)
            if not closing.done():
                await self._kill(self.tag)
                wait_s = _STOP_AGAIN_S
        closing.result()
        if self._stream is not None and not self._exhausted:
            # A server goes on reading for a while after its client has hung up.
            await self._kill(self.tag)

    def _open(self, sql: str) -> pa.RecordBatch | None:
        self._stream = self._line.connection.stream(sql, self.statement.parameters)
        return self._next()

    def _empty_schema(self) -> pa.Schema:
        # Streams of no rows tell no schema.
        connection = self._line.connection
        return connection.table(f"SELECT * FROM ({self.statement.sql}) LIMIT 0", self.statement.parameters).schema

    def _next(self) -> pa.RecordBatch | None:
        if self._stream is None:
            return None
        try:
            batch = self._stream.next()
        except EngineError:
            self._exhausted = True
            raise
        self._exhausted = batch is None
        return batch

    def _close(self) -> None:
        if self._stream is not None:
            try:
                self._stream.close()
            except EngineError as error:
                if not error.is_cancelled:
                    raise

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._elapsed_s = time.monotonic() - self._started_s


def _field(output: Output, found: pa.Field) -> pa.Field:
    if output.kind is None:
        return POSITIONED_SCHEMA.field(output.identifier)
    nullable = output.kind is not FieldKind.KEYWORD and found.nullable
    return pa.field(output.name, found.type, nullable=nullable)
