"""A journal with its warm store and its graph in one process, for tests of how facts are made again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.language.parser import parse
from heimdall_server.ports.journal import Deletion, Entry
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.graph.deletions import DeletedRecords
from heimdall_server.projections.graph.facts import DAY_NS
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.making import MakingPorts
from heimdall_server.projections.graph.reach import reach_of
from heimdall_server.projections.graph.stored import Found, Page, StoredRecords
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import RetryPolicy, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.graph.rebuilds import PostgresGraphRebuilds
from heimdall_server.storage.postgres.graph.remaking import PostgresGraphSlices
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.graphs import canonical_dump
from tests.support.journal import opened, small_config
from tests.support.log_stores import DATASETS
from tests.support.random_records import record
from tests.support.warm_process import SystemClock

QUICK = ReadLimits(batch_rows=20, linger_s=0.01, held_rows_max=100)
PATIENT = RetryPolicy(first_wait_s=0.01, wait_s_max=0.05)
WAIT_S = 60.0


class NoSealer:
    """There are no tokens here."""

    def open(self, value: object) -> str:
        raise AssertionError(value)


@dataclass
class ModelStored:
    """What a store holds that has applied the whole journal, deletions included: read from the journal, which still has it all."""

    journal: EmbeddedJournal

    async def of_slice(self, source: str, dump: str, day: int | None, *, through: int) -> AsyncIterator[Found]:
        """See `StoredRecords`."""
        found = []
        for position, batch in await self._left(1, through):
            days = np.asarray(batch.column("time").cast(pa.int64())) // DAY_NS
            wanted = pc.and_(pc.equal(batch.column("source"), source), pc.equal(batch.column("dump"), dump))
            kept = batch.filter(pc.and_(wanted, pa.array(days == day))) if day is not None else batch.filter(wanted)
            if len(kept):
                found.append((position, kept))
        for half in (found[::2], found[1::2]):  # a store gives them in another order
            if half:
                yield half

    async def page(self, first: int, last: int) -> Page:
        """See `StoredRecords`."""
        end = min(first + 1, last)
        return Page(first, end, [(position, batch) for position, batch in await self._left(first, end) if len(batch)])

    async def _left(self, first: int, last: int) -> list[tuple[int, pa.RecordBatch]]:
        deleted = DeletedRecords(self.journal)
        deleted.begin(0)
        await deleted.learn()
        frames = [frame async for frame in self.journal.read(0, after=first - 1, through=last)]
        return [
            (frame.position, deleted.without(frame.entry.batch, frame.position))
            for frame in frames
            if frame.entry.batch is not None
        ]


@dataclass
class MakingBench:
    """See the module."""

    journal: EmbeddedJournal
    pool: PostgresPool
    store: ClickHouseLogStore | None = None
    warm: WarmProjection | None = None
    keyring: Keyring | None = None
    """Opens what is behind tokens, and names their entities; None: there are no tokens."""

    def projection(self, writer: Any = None, slices: Any = None, read: ReadLimits = QUICK) -> GraphProjection:
        """A projection into the graph, which doesn't run yet."""

        async def applied(_: int) -> bool:
            return True

        identities = Identities(
            PostgresVault(self.pool),
            self.keyring or NoSealer(),  # type: ignore[arg-type]
            partial(hmac.digest, self._identity_key, digest=hashlib.sha256),
            wait_applied=applied,
        )
        return GraphProjection(
            self.journal,
            writer or PostgresGraphWriter(self.pool),
            identities,
            SystemClock(),
            making=self.making(writer, slices),
            read=read,
            retry=PATIENT,
        )

    @property
    def _identity_key(self) -> bytes:
        return b"" if self.keyring is None else self.keyring.identity_key("personal entities")

    def making(self, writer: Any = None, slices: Any = None) -> MakingPorts:
        """What facts are made again with."""

        async def stored(position: int, timeout_s: float) -> bool:
            return self.warm is None or await self.warm.wait_through({0: position}, timeout_s)

        records: Any = ModelStored(self.journal) if self.store is None else StoredRecords(self.store, span=2)
        return MakingPorts(
            records,
            slices or PostgresGraphSlices(self.pool),
            PostgresGraphRebuilds(self.pool),
            writer or PostgresGraphWriter(self.pool),
            stored,
        )

    @contextlib.asynccontextmanager
    async def running(self, found: GraphProjection) -> AsyncIterator[GraphProjection]:
        """Let it run for the length of a block."""
        task = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]

    async def follow(self, **parts: Any) -> GraphProjection:
        """Bring the graph up to date."""
        async with self.running(self.projection(**parts)) as found:
            assert await found.wait_applied(self.journal.head()[0], WAIT_S), found.progress
        return found

    async def delete(self, filter_: str, *, number: int, **bounds: Any) -> None:
        """Write a deletion of what is there, as the operation does; without a store nobody knows what it reaches."""
        through = self.journal.head()[0]
        slices = None
        if self.store is not None and self.warm is not None:
            assert await self.warm.wait_through({0: through}, WAIT_S)
            expression = parse(filter_, now_ns=0).filter
            range_ = TimeRange(bounds.get("start_time_ns"), bounds.get("end_time_ns"))
            slices = await reach_of(self.store, expression, range_, (), through=through)
        start, end = bounds.get("start_time_ns"), bounds.get("end_time_ns")
        deletion = Deletion(f"d-{number}", filter_, start, end, (), through, slices)
        await self.journal.append([Entry(None, deletions=(deletion,))])

    async def graph(self, **how: Any) -> list[tuple[object, ...]]:
        """The graph as it is, but for what was applied in which pieces.

        Args:
            how: As for `canonical_statements`.
        """
        return [row for row in await canonical_dump(self.pool, **how) if row[0] != "graph_applied"]


@contextlib.asynccontextmanager
async def making_bench(
    engine: ChdbEngine, database: str, folder: Path, pool: PostgresPool
) -> AsyncIterator[MakingBench]:
    """One with an empty journal."""
    store = ClickHouseLogStore(engine, ClickHouseConfig(database, DATASETS, 2))
    await store.open()
    async with opened(small_config(folder / "journal")) as journal:
        warm = WarmProjection(
            journal,
            store,
            CheckpointFile(folder / "warm.json"),
            SystemClock(),
            limits=ReadLimits(linger_s=0.01),
            retry=PATIENT,
        )
        task = asyncio.create_task(warm.run())
        try:
            yield MakingBench(journal, pool, store, warm)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await store.close()
            connection = engine.connect()
            connection.command(f"DROP DATABASE `{database}` SYNC")
            connection.close()


def frame(rows: Sequence[dict[str, Any]]) -> Entry:
    """A frame of records."""
    made = [record(number, **row) for number, row in enumerate(rows)]
    return Entry(pa.RecordBatch.from_pylist(made, schema=RECORD_SCHEMA))
