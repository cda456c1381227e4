"""Connections to PostgreSQL: bounded in number and in time, under a role that owns its schema and nothing else; measured by who uses them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.postgres import metrics
from heimdall_server.storage.postgres.breaker import Breaker
from heimdall_server.storage.postgres.config import STORE, PostgresConfig
from heimdall_server.storage.postgres.faults import faults
from heimdall_server.storage.postgres.slow_log import SlowLog
from heimdall_server.storage.postgres.watched import Watch, WatchedConnection

SCHEMA: Final = "heimdall"
APPLICATION_NAME: Final = "heimdall"
_MARGIN_S: Final = 2.0
"""A server that hangs doesn't cancel its statements; then we give up, this long after it should have."""


class PostgresPool:
    """A pool of connections. Opened by `open`; each `connection` is a transaction unless it says otherwise."""

    def __init__(
        self,
        conninfo: Callable[[], str],
        config: PostgresConfig,
        *,
        name: str = APPLICATION_NAME,
        slow_log: SlowLog | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            conninfo: Asked for each new connection: an embedded server may come back on another port.
            config: Bounds.
            name: Of the pool in metrics, and of who uses it where nobody says more (`used_by`).
            slow_log: Where slow statements go; None: one of its own.
        """
        self._address = conninfo
        self._config = config
        self._name = name
        self._slow_log = slow_log or SlowLog(config.slow_statement_s, config.slow_statement_count)
        self._watch = Watch(name, self._slow_log)
        self._turn: asyncio.Semaphore | None = None
        self._held = _Held()
        self._breaker = Breaker()
        # It isn't told that a connection is broken, but looks at each before it hands it out: after a restart all are.
        self._pool = AsyncConnectionPool[WatchedConnection](
            self.conninfo,
            connection_class=WatchedConnection,
            min_size=1,
            max_size=config.pool_size,
            timeout=config.connect_timeout_s,
            check=WatchedConnection.check,
            open=False,
            name=name,
            num_workers=2,
            reconnect_timeout=config.connect_timeout_s,
        )

    @property
    def config(self) -> PostgresConfig:
        """Its bounds."""
        return self._config

    @property
    def slow_log(self) -> SlowLog:
        """Where its slow statements are."""
        return self._slow_log

    def used_by(self, user: str, *, at_most: int | None = None) -> PostgresPool:
        """The same connections in the hands of one part of the server, which metrics and the slow log name.

        Args:
            user: Its name: `vault`, `graph_reader`.
            at_most: Connections that it may hold at a time, so that others get theirs; None: all.
        """
        view = copy.copy(self)
        view._is_of(user, at_most)  # noqa: SLF001 - its own
        return view

    async def open(self) -> None:
        """Begin to connect, in the background."""
        await self._pool.open()
        metrics.publish_pool(self._name, self._pool.get_stats, lambda: self._held.count, self._config.pool_size)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        metrics.withdraw_pool(self._name)
        await self._pool.close(timeout=1.0)

    @contextlib.asynccontextmanager
    async def connection(
        self, *, timeout_s: float | None = None, autocommit: bool = False
    ) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """A connection for a block, which is one transaction: committed at its end, rolled back if it raises.

        Args:
            timeout_s: For the whole block; None: as long as one statement may take.
            autocommit: Each statement is a transaction of its own, unless it begins one: a single one then takes one message instead of three.

        Raises:
            StoreError: PostgreSQL can't be reached, fails or is too slow. Names no value.
        """
        limit_s = (timeout_s or self._config.statement_timeout_s) + _MARGIN_S
        with _cancellable(), faults(), self._counted():
            async with asyncio.timeout(limit_s), self._taken() as connection:
                begin_s = time.monotonic()
                connection.watch = self._watch
                try:
                    if connection.autocommit is not autocommit:
                        await connection.set_autocommit(autocommit)  # no message: the driver leaves BEGIN away
                    yield connection
                except Exception:
                    await connection.explain_failed()
                    raise
                finally:
                    connection.watch = None
                    connection.pending.clear()
                    metrics.TRANSACTION_SECONDS.labels(self._watch.user).observe(time.monotonic() - begin_s)

    def conninfo(self) -> str:
        """How its connections are made, now; may hold a password, so it isn't for logs."""
        timeout_ms = int(self._config.statement_timeout_s * 1000)
        options = (
            f"-c search_path={SCHEMA} -c statement_timeout={timeout_ms} -c lock_timeout={timeout_ms} "
            f"-c idle_in_transaction_session_timeout={2 * timeout_ms}"
        )
        return make_conninfo(
            self._address(),
            application_name=APPLICATION_NAME,
            connect_timeout=max(2, int(self._config.connect_timeout_s)),
            options=options,
        )

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what no statement's own failure tells."""
        try:
            yield
        except TimeoutError:
            metrics.FAILURES.labels(self._watch.user, "no_answer").inc()
            raise
        except PoolTimeout:
            metrics.FAILURES.labels(self._watch.user, "no_connection").inc()
            raise

    def _is_of(self, user: str, at_most: int | None) -> None:
        self._watch = Watch(user, self._slow_log)
        self._turn = None if at_most is None else asyncio.Semaphore(at_most)

    @contextlib.asynccontextmanager
    async def _taken(self) -> AsyncIterator[WatchedConnection]:
        """A connection out of the pool, and back."""
        user, begin_s = self._watch.user, time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            with metrics.WAITING.labels(user).track_inprogress():
                if self._turn is not None:
                    await stack.enter_async_context(self._turn)
                connection = await self._reach(stack)
            metrics.WAIT_SECONDS.labels(user).observe(time.monotonic() - begin_s)
            stack.enter_context(metrics.IN_USE.labels(user).track_inprogress())
            stack.enter_context(self._held)
            yield connection

    async def _reach(self, stack: contextlib.AsyncExitStack) -> WatchedConnection:
        """Wait for a connection, unless the last who waited did so in vain."""
        if not self._breaker.admit():
            raise StoreError(STORE, "it can't be reached; it is tried again shortly")
        try:
            connection = await stack.enter_async_context(self._pool.connection())
        except PoolTimeout:
            # While others hold connections, all may be in use.
            if self._held.count:
                self._breaker.undecided()
            else:
                self._breaker.failed()
                metrics.BREAKER.labels(self._name).set(1)
            raise
        except BaseException:
            self._breaker.undecided()
            raise
        if self._breaker.is_open:
            metrics.BREAKER.labels(self._name).set(0)
        self._breaker.succeeded()
        return connection


class _Held:
    """Counts connections that callers hold."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """See to it that a task which is cancelled within ends.

    psycopg waits by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that arrives together with what it waits for.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    except Exception as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
