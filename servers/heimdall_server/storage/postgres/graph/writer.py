"""Batches into the graph: checked, tried again after conflicts, and halved when PostgreSQL refuses something of one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from psycopg import errors as pg

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, Provenance
from heimdall_server.domain.graph_batches import (
    Applied,
    CheckedBatch,
    Flags,
    GraphBatch,
    Origin,
    checked,
    content_digest,
)
from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.storage.postgres.config import STORE
from heimdall_server.storage.postgres.graph.dumps import TABLES as DUMP_TABLES
from heimdall_server.storage.postgres.graph.facts import Longs
from heimdall_server.storage.postgres.graph.known_records import known_records
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.news import News
from heimdall_server.storage.postgres.graph.progress import missing_of, rewind
from heimdall_server.storage.postgres.graph.ranges import Range
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.graph.terms import Provenances, Terms
from heimdall_server.storage.postgres.graph.transaction import Shared, apply_once, lock_writers
from heimdall_server.storage.postgres.metrics import RETRIES, kind_of
from heimdall_server.storage.postgres.pool import PostgresPool

_CONFLICTS: Final = (pg.SerializationFailure, pg.DeadlockDetected, pg.LockNotAvailable)
_CONTENT: Final = (pg.DataError, pg.IntegrityError, pg.ProgramLimitExceeded)
"""What a row may cause. Classes 22, 23 and 54 of SQLSTATE."""


_OBSERVED: Final = ("graph_fact_provenance", "graph_applied", "graph_content", *DUMP_TABLES)


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """How long a batch may take and how often it is tried."""

    timeout_s: float = 60.0
    """For one try, all of its statements together."""
    retry_count_max: int = 6
    """After conflicts with others, which leave nothing behind. A lost connection isn't among them: the caller repeats the batch."""
    first_wait_s: float = 0.02
    """Doubled each time, half of it at random."""
    wait_s_max: float = 1.0
    trial_count_max: int = 1000
    """Of parts of a batch that holds something PostgreSQL refuses; a part that is refused after as many is given up whole."""


class _RefusedContentError(Exception):
    """PostgreSQL refuses something of a batch; nothing of it was kept."""


class _ConflictError(Exception):
    """Another transaction was in the way; nothing was kept, and another try may do better."""


async def forget_observed(connection: Connection) -> None:
    """Drop all observed facts within the caller's transaction; see `ports.graph.GraphWriter.forget`."""
    tables = [*map(table, VERTEX_KINDS), *map(table, EDGE_KINDS)]
    await lock_writers(connection)
    await connection.execute(f"TRUNCATE {', '.join([*tables, *_OBSERVED])}".encode())


class PostgresGraphWriter:
    """Implements `ports.graph.GraphWriter`. Thread-bound to the event loop; callers may overlap, batches take turns."""

    def __init__(
        self,
        pool: PostgresPool,
        policy: WritePolicy | None = None,
        *,
        news: News | None = None,
        step: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            pool: Connections.
            policy: Bounds.
            news: Notes what somebody waits for; None: nobody does.
            step: Told each step before it is taken, within the transaction; a test fails there.
        """
        self._pool = pool
        self._policy = policy or WritePolicy()
        self._shared = Shared(Terms(), Provenances(), news=news)
        self._step = step
        self._turn = asyncio.Lock()
        self._trials = 0

    async def missing(self, origin: Origin) -> Sequence[Range]:
        """See the port."""
        async with self._pool.connection() as connection:
            return await missing_of(connection, origin)

    async def rewind(self, stream: str, through: int, *, parts: str) -> Sequence[Range]:
        """See the port."""
        async with self._pool.connection() as connection:
            await lock_writers(connection)
            return await rewind(connection, stream, through, parts=parts)

    async def knows(self, provenance: Provenance, numbers: Longs, hashes: Hashes) -> Flags:
        """See the port."""
        async with self._pool.connection() as connection:
            return await known_records(connection, provenance, numbers, hashes)

    async def apply(self, batch: GraphBatch) -> Applied:
        """See the port."""
        found = await asyncio.to_thread(checked, batch)
        # Records that come again are left out before facts are made of them, so what is made of records isn't the same again.
        is_kept = not found.refused and not batch.records
        digest = await asyncio.to_thread(content_digest, batch) if is_kept else b""
        with contextlib.suppress(_RefusedContentError):
            return await self._patiently(found, digest)
        await self._isolate(found)
        try:
            return await self._patiently(found)
        except _RefusedContentError as error:
            raise StoreError(STORE, f"{error}, and it isn't a row of the batch") from None

    async def forget(self) -> None:
        """See the port. Waits for readers that are at it."""
        async with self._pool.connection(timeout_s=self._policy.timeout_s) as connection:
            await forget_observed(connection)

    async def _patiently(self, batch: CheckedBatch, digest: bytes = b"", *, keep: bool = True) -> Applied:
        policy, wait_s = self._policy, self._policy.first_wait_s
        for attempt in range(policy.retry_count_max):
            try:
                return replace(await self._try(batch, digest, keep=keep), retry_count=attempt)
            except _ConflictError as error:
                RETRIES.labels("graph_writer", kind_of(error.__context__)).inc()
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not secrecy
                wait_s = min(policy.wait_s_max, wait_s * 2)
        try:
            return replace(await self._try(batch, digest, keep=keep), retry_count=policy.retry_count_max)
        except _ConflictError as error:
            raise StoreError(STORE, f"{error}, {policy.retry_count_max + 1} times") from None

    async def _try(self, batch: CheckedBatch, digest: bytes, *, keep: bool) -> Applied:
        async with self._turn:  # nobody may use numbers that another's transaction made and may take back
            kept = False
            try:
                async with self._pool.connection(timeout_s=self._policy.timeout_s) as connection:
                    applied = await self._within(connection, batch, digest)
                    if not keep:
                        await connection.rollback()
                kept = keep
            finally:
                if not kept:
                    self._shared.terms.forget()
                    self._shared.provenances.forget()
            return applied

    async def _within(self, connection: Connection, batch: CheckedBatch, digest: bytes) -> Applied:
        try:
            applied = await apply_once(connection, batch, self._shared, digest)
            if self._step is not None:
                await self._step("applied")
        except _CONFLICTS as error:
            raise _ConflictError(f"{type(error).__name__} ({error.sqlstate})") from None
        except _CONTENT as error:
            raise _RefusedContentError(f"postgres refuses it: {type(error).__name__} ({error.sqlstate})") from None
        return applied

    async def _isolate(self, batch: CheckedBatch) -> None:
        """Find the rows that are refused by trying halves, without keeping anything."""
        self._trials = 0
        for is_vertex in (True, False):
            rows = np.flatnonzero(batch.vertex_ok if is_vertex else batch.edge_ok)
            for bad, reason in await self._halve(batch, rows, is_vertex=is_vertex):
                batch.refuse(is_vertex=is_vertex, rows=bad, reason=reason)
            batch.refuse_loose_edges()

    async def _halve(self, batch: CheckedBatch, rows: Longs, *, is_vertex: bool) -> list[tuple[list[int], str]]:
        mask = np.zeros(len(batch.vertex_ok if is_vertex else batch.edge_ok), bool)
        mask[rows] = True
        no_edges = np.zeros(len(batch.edge_ok), bool)
        part = replace(
            batch,
            vertex_ok=mask if is_vertex else batch.vertex_ok,
            edge_ok=no_edges if is_vertex else mask,
            refused=[],
        )
        try:
            self._trials += 1
            await self._patiently(part, keep=False)
        except _RefusedContentError as error:
            if len(rows) == 1 or self._trials > self._policy.trial_count_max:
                return [(rows.tolist(), str(error))]
            middle = len(rows) // 2
            halves = [await self._halve(batch, half, is_vertex=is_vertex) for half in (rows[:middle], rows[middle:])]
            return halves[0] + halves[1]
        return []
