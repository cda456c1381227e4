"""The pool of connections over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time

from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.postgres import PostgresServer


async def test_a_task_that_is_cancelled_while_it_gets_a_connection_ends(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    """psycopg alone forgets a cancellation that comes together with what it waits for, and a loop goes on."""
    for turn in range(48):
        pool = postgres_server.pool(postgres_database)
        await pool.open()

        task = asyncio.create_task(_ask_for_ever(pool))
        await asyncio.sleep(turn / 4 * 0.001)
        # The loop stands still until there is a connection: it and the cancellation are seen in one turn, or nearly.
        time.sleep(0.01)  # noqa: ASYNC251
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        await pool.close()
        assert done, f"cancelled in turn {turn}, it goes on"
        assert task.cancelled()


async def _ask_for_ever(pool: PostgresPool) -> None:
    while True:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
