"""Connections for what nothing waits for: processes of the embedded PostgreSQL behind them give way to all others."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_server.storage.postgres.opening import open_postgres
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.postgres import small_postgres


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can enter."""
    path = Path(tempfile.mkdtemp(prefix="heimdall-background-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def niceness(pool: PostgresPool) -> int:
    async with pool.connection() as connection:
        return os.getpriority(os.PRIO_PROCESS, connection.info.backend_pid)


async def test_what_nothing_waits_for_is_kept_by_processes_that_give_way_and_all_else_by_others(folder: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        postgres = await open_postgres(
            small_postgres(background_nice=19),
            data_dir=folder / "data_dir",
            keys_dir=folder / "keys",
            stack=stack,
            places=folder / "places",
        )
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert await niceness(postgres.background_pool.used_by("graph_writer")) == 19
        assert [await niceness(pool) for pool in (postgres.pool, postgres.cypher_pool) if pool] == [ours, ours]
