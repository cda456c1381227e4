"""One moment of the graph: a reading transaction, bounded in time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from psycopg import errors as pg

from heimdall_server.domain.errors import QueryTimeoutError
from heimdall_server.storage.postgres.graph.rows import begin
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool


@contextlib.asynccontextmanager
async def reading(pool: PostgresPool, time_s: float) -> AsyncIterator[Connection]:
    """A connection whose block sees one moment and changes nothing.

    Args:
        pool: Where it comes from.
        time_s: For each statement; a little more for the block.

    Raises:
        QueryTimeoutError: A statement took longer.
        StoreError: PostgreSQL can't be reached or fails.
    """
    async with moment(pool, time_s) as (connection, _):
        yield connection


@contextlib.asynccontextmanager
async def moment(pool: PostgresPool, time_s: float) -> AsyncIterator[tuple[Connection, bool]]:
    """The same, and whether anything is merged in it."""
    async with pool.connection(timeout_s=time_s, autocommit=True) as connection:
        try:
            # It begins the transaction itself: the driver would by a message of its own.
            has_merges = await begin(connection, time_s=time_s)
            yield connection, has_merges
        except pg.QueryCanceled:
            raise QueryTimeoutError(time_s) from None
