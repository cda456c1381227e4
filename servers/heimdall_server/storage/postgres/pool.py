"""Connections to PostgreSQL: bounded in number and in time, under a role that owns its schema and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from heimdall_server.storage.postgres.config import PostgresConfig
from heimdall_server.storage.postgres.faults import faults

SCHEMA: Final = "heimdall"
APPLICATION_NAME: Final = "heimdall"
_MARGIN_S: Final = 2.0
"""A server that hangs doesn't cancel its statements; then we give up, this long after it should have."""


class PostgresPool:
    """A pool of connections. Opened by `open`; each `connection` is a transaction unless it says otherwise."""

    def __init__(self, conninfo: Callable[[], str], config: PostgresConfig) -> None:
        """Connect to nothing yet.

        Args:
            conninfo: Asked for each new connection: an embedded server may come back on another port.
            config: Bounds.
        """
        self._address = conninfo
        self._config = config
        # It isn't told that the connection is broken, but tries each before it hands it out: after a restart all are.
        self._pool = AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]](
            self.conninfo,
            min_size=1,
            max_size=config.pool_size,
            timeout=config.connect_timeout_s,
            check=AsyncConnectionPool.check_connection,
            open=False,
            name="heimdall",
            num_workers=2,
            reconnect_timeout=config.connect_timeout_s,
        )

    @property
    def config(self) -> PostgresConfig:
        """Its bounds."""
        return self._config

    async def open(self) -> None:
        """Begin to connect, in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._pool.close(timeout=1.0)

    @contextlib.asynccontextmanager
    async def connection(
        self, *, timeout_s: float | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """A connection for a block, which is one transaction: committed at its end, rolled back if it raises.

        Args:
            timeout_s: For the whole block; None: as long as one statement may take.

        Raises:
            StoreError: PostgreSQL can't be reached, fails or is too slow. Names no value.
        """
        limit_s = (timeout_s or self._config.statement_timeout_s) + _MARGIN_S
        with _cancellable(), faults():
            async with asyncio.timeout(limit_s), self._pool.connection() as connection:
                yield connection

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
