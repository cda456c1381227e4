"""Opens PostgreSQL for a server process: the embedded one or one elsewhere, set up, migrated, with a pool.

Nothing that is acknowledged waits for PostgreSQL, so a server starts without it, too: what it lacks is made up for as soon as it
answers. What no waiting mends (a newer schema, a folder that isn't ours) refuses to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from heimdall_server.domain.errors import ConfigurationError, StoreError
from heimdall_server.storage.postgres.config import PostgresConfig
from heimdall_server.storage.postgres.embedded import EmbeddedPostgres, EmbeddedState
from heimdall_server.storage.postgres.extensions import CYPHER_ROLE, has_graph, require
from heimdall_server.storage.postgres.faults import faults
from heimdall_server.storage.postgres.health import PostgresHealth
from heimdall_server.storage.postgres.migrate import migrate
from heimdall_server.storage.postgres.passwords import load_or_mint
from heimdall_server.storage.postgres.place import PLACES
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.roles import APP_ROLE, DATABASE, set_up
from heimdall_server.storage.postgres.slow_log import SlowLog

LOG: Final = logging.getLogger(__name__)
PASSWORD_FILE: Final = "postgres.password"  # noqa: S105 - a name
CYPHER_PASSWORD_FILE: Final = "postgres-cypher.password"  # noqa: S105 - a name
_CYPHER_POOL_SIZE: Final = 3
_FIRST_WAIT_S: Final = 0.2
_WAIT_S_MAX: Final = 15.0


class Postgres:
    """A PostgreSQL that this process uses. Made by `open_postgres`."""

    def __init__(
        self,
        pool: PostgresPool,
        embedded: EmbeddedPostgres | None,
        app_password: str,
        *,
        cypher_pool: PostgresPool | None = None,
        cypher_password: str = "",
        serves_graph: bool = True,
    ) -> None:
        self.pool = pool
        """For adapters. Until PostgreSQL was there once, and is set up, calls fail with `StoreError`."""
        self.cypher_pool = cypher_pool
        """Under the role that only reads the graph; None: there is no such role, so Cypher can't be run."""
        self._embedded = embedded
        self._app_password = app_password
        self._cypher_password = cypher_password
        self._serves_graph = serves_graph
        self._problem = "it wasn't reached yet"
        self._prepared = False

    @property
    def health(self) -> PostgresHealth:
        """What its operator asks about it."""
        return PostgresHealth(self.pool.used_by("admin", at_most=1))

    @property
    def embedded(self) -> EmbeddedState | None:
        """How the embedded one is; None: it is a server elsewhere."""
        return None if self._embedded is None else self._embedded.state

    @property
    def notice(self) -> str:
        """What an operator should know; empty: nothing."""
        if not self._prepared:
            return f"postgres isn't ready, the server runs without: {self._problem}"
        if self._embedded is not None and not self._embedded.state.running:
            return f"the embedded postgres is down: {self._embedded.state.problem}"
        return ""

    async def prepare(self) -> None:
        """Set it up and migrate it. Idempotent.

        Raises:
            ConfigurationError: A newer program made its schema.
            StoreError: It can't be reached, or failed.
        """
        if self._embedded is not None:
            superuser = self._embedded.conninfo()
            await set_up(
                superuser,
                self._embedded.conninfo(database=DATABASE),
                app_password=self._app_password,
                cypher_password=self._cypher_password,
            )
        with faults():
            async with await psycopg.AsyncConnection.connect(self.pool.conninfo(), autocommit=True) as connection:
                if self._serves_graph:
                    await require(connection)
                # One that was there before stays up to date, also where it isn't served: erasures reach it.
                await migrate(connection, graph=self._serves_graph or await has_graph(connection))
        if not self._prepared:
            await self.pool.open()
            if self.cypher_pool is not None:
                await self.cypher_pool.open()
            self._prepared = True

    async def prepare_patiently(self) -> None:
        """Try `prepare` until it is done.

        Raises:
            ConfigurationError: As `prepare`; it stays in `notice`.
        """
        failures = 0
        while not self._prepared:
            try:
                await self.prepare()
            except StoreError as error:
                self._problem = error.detail
                failures += 1
                wait_s = min(_WAIT_S_MAX, _FIRST_WAIT_S * 2 ** min(failures, 16))
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not secrecy
            except ConfigurationError as error:
                self._problem = str(error)
                LOG.warning("postgres can't be used", extra={"problem": self._problem})
                raise
        LOG.info("postgres is ready")


async def open_postgres(
    config: PostgresConfig,
    *,
    data_dir: Path,
    keys_dir: Path,
    stack: contextlib.AsyncExitStack,
    places: Path = PLACES,
    serves_graph: bool = True,
) -> Postgres:
    """Open it, and leave closing it to the stack.

    Args:
        config: Which one.
        data_dir: Heimdall's, whose lock this process holds.
        keys_dir: Where the passwords of the embedded one lie.
        stack: Closes it: connections first, then the embedded one's process.
        places: Where root keeps the embedded one's data.
        serves_graph: Whether the graph is served; else a server elsewhere needn't have what it needs.

    Returns:
        It, also if it doesn't answer within `start_timeout_s`: then it is tried on, in the background.

    Raises:
        ConfigurationError: It can't be used; says why and what to do.
        StoreError: The folder of the embedded one can't be made.
    """
    embedded: EmbeddedPostgres | None = None
    password = cypher_password = ""
    cypher_pool: PostgresPool | None = None
    few = replace(config, pool_size=_CYPHER_POOL_SIZE)
    slow = SlowLog(config.slow_statement_s, config.slow_statement_count)
    if config.dsn_file is not None:
        conninfo = await asyncio.to_thread(_read_dsn, config.dsn_file)
        pool = PostgresPool(lambda: conninfo, config, slow_log=slow)
        if config.cypher_dsn_file is not None:
            cypher_conninfo = await asyncio.to_thread(_read_dsn, config.cypher_dsn_file, "cypher_dsn_file")
            cypher_pool = PostgresPool(lambda: cypher_conninfo, few, name="cypher", slow_log=slow)
    else:
        password = await asyncio.to_thread(load_or_mint, keys_dir / PASSWORD_FILE)
        cypher_password = await asyncio.to_thread(load_or_mint, keys_dir / CYPHER_PASSWORD_FILE)
        server = await EmbeddedPostgres.start(config, data_dir=data_dir, keys_dir=keys_dir, places=places)
        stack.push_async_callback(server.stop)
        pool = PostgresPool(
            lambda: server.conninfo(user=APP_ROLE, password=password, database=DATABASE), config, slow_log=slow
        )
        cypher_pool = PostgresPool(
            lambda: server.conninfo(user=CYPHER_ROLE, password=cypher_password, database=DATABASE),
            few,
            name="cypher",
            slow_log=slow,
        )
        embedded = server
    stack.push_async_callback(pool.close)
    if cypher_pool is not None:
        stack.push_async_callback(cypher_pool.close)
    postgres = Postgres(
        pool,
        embedded,
        password,
        cypher_pool=cypher_pool,
        cypher_password=cypher_password,
        serves_graph=serves_graph,
    )
    if embedded is not None:
        with contextlib.suppress(StoreError):  # the notice says it
            await embedded.wait_ready(config.start_timeout_s)
    preparing = asyncio.create_task(postgres.prepare_patiently(), name="postgres-prepare")
    stack.push_async_callback(_end, preparing)
    await asyncio.wait({preparing}, timeout=config.start_timeout_s)
    if preparing.done():
        preparing.result()
    return postgres


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # it was told by the notice


def _read_dsn(path: Path, setting: str = "dsn_file") -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ConfigurationError((f"postgres.{setting}: {path}: {error.strerror}",)) from error
    try:
        conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        # The driver's sentence quotes what it couldn't read, which may be the password.
        problem = (
            f"postgres.{setting}: {path} holds no connection string; it is `postgresql://user:password@host/database`"
        )
        raise ConfigurationError((problem,)) from None
    if not text:
        raise ConfigurationError((f"postgres.{setting}: {path} is empty",))
    return text
