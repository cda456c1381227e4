"""A query that runs: its batches as they come, its limits, and stopping it in the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import pyarrow as pa

from heimdall_server.domain.expression.fields import FieldKind
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Limits, Plan, ResultColumn, Statistics
from heimdall_server.storage.clickhouse.connection import EngineError, Stream
from heimdall_server.storage.clickhouse.lines import Line
from heimdall_server.storage.clickhouse.select import BLOCK_ROWS, KEY_COLUMNS, Statement, settings_clause
from heimdall_server.storage.clickhouse.stages import Output

SCHEMA_AFTER_S: Final = 1.0
"""Whoever waits so long for the first rows is told the columns meanwhile."""
_STOP_AFTER_S: Final = 0.01
_STOP_AGAIN_S: Final = 0.03
P = ParamSpec("P")
T = TypeVar("T")
Kill = Callable[[str], Awaitable[None]]
"""Stops the statement of a tag in the engine, from another connection."""
Describe = Callable[[], Awaitable[pa.Schema]]
"""Tells the columns of a query's rows, from another connection."""


class RunningQuery:
    """One query on one line. Made by the store, which gives the line back after `stop`."""

    def __init__(
        self, statement: Statement, plan: Plan, limits: Limits, line: Line, *, kill: Kill, describe: Describe
    ) -> None:
        self.statement = statement
        self.plan = plan
        self._limits = limits
        self._line = line
        self._kill = kill
        self._describe = describe
        self._opening: asyncio.Future[None] | None = None
        self.tag = f"query-{uuid.uuid4().hex}"
        self._stream: Stream | None = None
        self._ahead: deque[pa.RecordBatch] = deque()
        self._is_idle = True
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
        """Send the statement and wait for its first rows, or for the columns of one that takes its time.

        Raises:
            EngineError: It failed before there were any.
        """
        sql = f"{self.statement.sql} {settings_clause(self._limits, self.tag)}"
        self._opening = asyncio.ensure_future(self._call(self._open, sql))
        await asyncio.wait([self._opening], timeout=SCHEMA_AFTER_S if self.statement.is_snapshot else None)
        if self._opening.done():
            self._opening.result()
        if self._ahead:
            fields = list(self._ahead[0].schema)
        elif self.statement.aggregated or any(output.kind is not None for output in self.statement.outputs):
            fields = list(await self._describe())
        else:
            fields = [POSITIONED_SCHEMA.field(output.identifier) for output in self.statement.outputs]
        self._schema = pa.schema(
            [_field(output, field) for output, field in zip(self.statement.outputs, fields, strict=True)]
        )

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """See `Result.batches`."""
        try:
            while not self._ended:
                batch = await self._following()
                if batch is None:
                    return
                left = self._limits.result_rows - self._rows
                if batch.num_rows > left:
                    batch, self._truncated_by = batch.slice(0, left), "result_rows"
                self._rows += batch.num_rows
                if batch.num_rows:
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
                if self._truncated_by:
                    return
        except EngineError as error:
            if not error.is_limit or self.statement.aggregated or not self._rows:
                raise error.translated(time_s=self._limits.time_s) from error
            self._truncated_by = error.limit_name
        finally:
            self._end()

    async def stop(self) -> None:
        """Stop the statement in the engine, if it still runs; the line is free when this returns."""
        self._end()
        if self._opening is not None and not self._opening.cancel() and not self._opening.cancelled():
            self._opening.exception()  # Whoever stops it doesn't want to hear.
        if self._exhausted and self._is_idle:
            return
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

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in the line's thread; while this waits, or if it was left waiting, the line isn't idle."""
        self._is_idle = False
        answer = await self._line.call(function, *args, **kwargs)
        self._is_idle = True
        return answer

    async def _following(self) -> pa.RecordBatch | None:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            await opening
        if self._ahead:
            return self._ahead.popleft()
        return None if self._exhausted else await self._call(self._next)

    def _open(self, sql: str) -> None:
        self._stream = self._line.connection.stream(sql, self.statement.parameters)
        batch = self._next()
        while batch is not None:
            self._ahead.append(batch)
            rows = sum(each.num_rows for each in self._ahead)
            # What is most likely all: its end is heard at once, instead of by another way to this thread and back.
            is_last = self.statement.aggregated or rows >= self.statement.row_limit
            if not is_last or rows >= BLOCK_ROWS:
                return
            batch = self._next()

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
