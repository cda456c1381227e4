"""Connections with a thread of their own, and a pool of them for queries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from heimdall_server.domain.errors import BudgetExceededError, StoreError
from heimdall_server.storage.clickhouse.connection import STORE_NAME, Connection, Engine

P = ParamSpec("P")
T = TypeVar("T")


class Line:
    """A connection and the one thread that talks on it, so that calls queue and never overlap."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: Connection | None = None
        self._closed = False

    @property
    def connection(self) -> Connection:
        """The connection; use it in functions given to `call` only."""
        if self._connection is None:
            raise RuntimeError("the line isn't open")
        return self._connection

    async def open(self) -> None:
        """Connect."""
        self._connection = await self.call(self._engine.connect)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the line's thread.

        Cancelling the wait doesn't stop the function: the next call comes after it.

        Raises:
            StoreError: The line is closed.
        """
        if self._closed:
            raise StoreError(STORE_NAME, "it is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """Wait for what runs, then disconnect. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self.call(connection.close)
        self._closed = True
        self._thread.shutdown(wait=False)


class LinePool:
    """The lines that queries share; each serves one query at a time."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._lines = [Line(engine, f"query-{number}") for number in range(count)]
        self._free: asyncio.LifoQueue[Line] = asyncio.LifoQueue()

    async def open(self) -> None:
        """Connect all."""
        for line in self._lines:
            await line.open()
            self._free.put_nowait(line)

    async def take(self, timeout_s: float) -> Line:
        """Wait for a free line; give it back with `give`.

        Raises:
            BudgetExceededError: None became free in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._free.get()
        except TimeoutError as error:
            raise BudgetExceededError(1.0, "concurrent queries", len(self._lines)) from error

    def give(self, line: Line) -> None:
        """Give a line back on which nothing runs."""
        self._free.put_nowait(line)

    async def close(self, timeout_s: float) -> None:
        """Close all, when they were given back or the time is over."""
        with contextlib.suppress(BudgetExceededError):
            for _ in self._lines:
                await self.take(timeout_s)
        for line in self._lines:
            await line.close()
