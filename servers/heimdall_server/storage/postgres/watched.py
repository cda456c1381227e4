"""Connections that tell how their statements do: how long each took, how it failed, and of slow ones the plan.

PostgreSQL's own auto_explain isn't among the modules that the embedded one brings, and a server elsewhere may not have it loaded; so the
plan is asked for here, behind the statement and on its connection, where temporary tables and the transaction's settings are still there. It is the
generic plan, which PostgreSQL makes without knowing values: there are none to leave out. Nothing is run a second time.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.abc import Params, Query
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from heimdall_server.storage.postgres.metrics import FAILURES, kind_of
from heimdall_server.storage.postgres.shapes import Shape, plan_without_values, shape_of
from heimdall_server.storage.postgres.slow_log import SlowLog

Row = tuple[Any, ...]
_EXPLAINED: Final = re.compile(r"\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_PLACEHOLDER: Final = re.compile(r"%(?:%|[sbt]|\((?P<name>[^)]*)\)[sbt])")
_PENDING_MAX: Final = 4
"""Failed statements of one transaction whose plans are asked for when it is over."""
_EXPLAIN_MS: Final = 1000
_SAVEPOINT: Final = "heimdall_explain"


@dataclass(frozen=True, slots=True)
class Watch:
    """Who uses a connection, and where slow statements go."""

    user: str
    log: SlowLog


@dataclass(frozen=True, slots=True)
class _Failed:
    text: str
    shape: Shape
    duration_s: float
    outcome: str


class WatchedCursor(psycopg.AsyncCursor[Row]):
    """Measures what it executes."""

    async def execute(
        self,
        query: Any,  # noqa: ANN401 - psycopg has overloads by its kind
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """See psycopg."""
        async with _measured(self, query, params):
            await super().execute(query, params, prepare=prepare, binary=binary)
        return self

    async def executemany(self, query: Query, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """See psycopg."""
        async with _measured(self, query, ()):
            await super().executemany(query, params_seq, returning=returning)

    @contextlib.asynccontextmanager
    async def copy(
        self,
        statement: Any,  # noqa: ANN401 - psycopg has overloads by its kind
        params: Params | None = None,
        *,
        writer: AsyncWriter | None = None,
    ) -> AsyncIterator[AsyncCopy]:
        """See psycopg. It takes as long as whoever writes or reads."""
        async with _measured(self, statement, params), super().copy(statement, params, writer=writer) as copy:
            yield copy


class WatchedConnection(psycopg.AsyncConnection[Row]):
    """A connection whose cursors measure."""

    watch: Watch | None = None
    """Of who holds it now; None: nobody does."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - psycopg's own
        super().__init__(*arguments, **named)
        self.cursor_factory = WatchedCursor
        self.pending: list[_Failed] = []

    @staticmethod
    async def check(connection: WatchedConnection) -> None:
        """Raise if a connection out of the pool can't be used: for `AsyncConnectionPool`.

        A server that died has closed it, or says why it is going to: there is something to read. Only then is it worth a round trip to ask.
        """
        with selectors.PollSelector() as selector:  # `select` knows no descriptors above 1,023
            selector.register(connection.fileno(), selectors.EVENT_READ)
            is_quiet = not selector.select(0)
        if not is_quiet:
            await AsyncConnectionPool.check_connection(connection)

    async def explain_failed(self) -> None:
        """Note slow statements that failed, with their plans. The transaction, which failed with them, is rolled back."""
        watch, pending = self.watch, self.pending
        self.pending = []
        if watch is None or not pending:
            return
        for one in pending:
            plan = problem = ""
            if watch.log.wants_plan(one.shape.fingerprint):
                try:
                    await self.rollback()
                    begin = "BEGIN; " if self.autocommit else ""
                    await psycopg.AsyncCursor(self).execute(
                        f"{begin}SET LOCAL search_path = heimdall, ag_catalog".encode()
                    )
                    plan, problem = await _plan(self, one.text, one.shape)
                    await self.rollback()
                except psycopg.Error as error:
                    plan, problem = "", f"it wasn't told: {kind_of(error)}"
            watch.log.note(
                user=watch.user,
                fingerprint=one.shape.fingerprint,
                statement=one.shape.text,
                duration_s=one.duration_s,
                outcome=one.outcome,
                plan=plan,
                plan_problem=problem,
            )


@contextlib.asynccontextmanager
async def _measured(cursor: WatchedCursor, query: Query, params: Params | None) -> AsyncIterator[None]:
    connection = cursor.connection
    watch = connection.watch if isinstance(connection, WatchedConnection) else None
    if watch is None or not isinstance(connection, WatchedConnection):
        yield
        return
    begin_s = time.monotonic()
    try:
        yield
    except psycopg.Error as error:
        duration_s, kind = time.monotonic() - begin_s, kind_of(error)
        FAILURES.labels(watch.user, kind).inc()
        if watch.log.is_slow(duration_s) and len(connection.pending) < _PENDING_MAX:
            text = _text(connection, query, params)
            connection.pending.append(_Failed(text, shape_of(text), duration_s, kind))
        raise
    duration_s = time.monotonic() - begin_s
    if watch.log.is_slow(duration_s):
        text = _text(connection, query, params)
        shape = shape_of(text)
        plan = problem = ""
        if watch.log.wants_plan(shape.fingerprint):
            plan, problem = await _plan(connection, text, shape)
        watch.log.note(
            user=watch.user,
            fingerprint=shape.fingerprint,
            statement=shape.text,
            duration_s=duration_s,
            row_count=cursor.rowcount,
            plan=plan,
            plan_problem=problem,
        )


def _text(connection: WatchedConnection, query: Query, params: Params | None) -> str:
    """A statement as PostgreSQL gets it: with `$1` where psycopg has `%s`."""
    if isinstance(query, bytes):
        text = query.decode()
    elif isinstance(query, str):
        text = query
    elif isinstance(query, sql.Composable):
        text = query.as_string(connection)
    else:
        text = str(query)
    if params is None:
        return text
    names: dict[str, int] = {}
    count = 0

    def numbered(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] == "%%":
            return "%"
        if found["name"] is not None:
            return f"${names.setdefault(found['name'], len(names) + 1)}"
        count += 1
        return f"${count}"

    return _PLACEHOLDER.sub(numbered, text)


async def _plan(connection: WatchedConnection, text: str, shape: Shape) -> tuple[str, str]:
    """The plan of a statement, and why there is none. The transaction stays as it was."""
    if not _EXPLAINED.match(text):
        return "", "statements of this kind have none"
    status = connection.info.transaction_status
    if status not in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
        return "", "its transaction had failed"
    is_within = status is TransactionStatus.INTRANS
    cursor = psycopg.AsyncCursor(connection)
    try:
        if is_within:
            await cursor.execute(f"SAVEPOINT {_SAVEPOINT}; SET LOCAL statement_timeout = {_EXPLAIN_MS}".encode())
        await cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}".encode(), prepare=False)
        row = await cursor.fetchone()
    except psycopg.Error as error:
        # Types of parameters that nothing in the statement tells, most of the time.
        plan, problem = "", f"postgres doesn't explain it without values: {type(error).__name__}"
    else:
        plan = plan_without_values(_decoded(row), is_cypher=shape.is_cypher)
        problem = "" if plan else "it is too long"
    if is_within and connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        await cursor.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}".encode())
    return plan, problem


def _decoded(row: Sequence[Any] | None) -> Any:  # noqa: ANN401 - JSON
    value = row[0] if row else []
    return value if isinstance(value, list | Mapping) else []
