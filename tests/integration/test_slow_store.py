"""A store that is slower than the journal, or full: ingest goes on until the journal's own bound, in bounded memory.

That the test sees a server that gets it wrong is itself tested: on ones that are broken on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.errors import StoreError
from heimdall_server.ports.journal import Entry
from heimdall_server.ports.log_store import FrameRange
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadAhead, ReadLimits
from heimdall_server.projections.warm import ProjectionState, RefusedRecord, RetryPolicy, WarmHooks, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from tests.support.ingest_server import IngestServer, ingest_server, reason_of_call, retry_after_s
from tests.support.log_stores import asked, counted, opened_store, rows_of
from tests.support.pki import Pki

RECORDS = 1_000
LIMITS = ReadLimits(batch_rows=2 * RECORDS, linger_s=0.01, held_rows_max=4 * RECORDS, held_bytes_max=4 << 20)
EXPORTS_MAX = 70
"""Twice what the journal has room for."""
EXPORT_S = 20.0
IMPATIENT_S = 1.0
JOURNAL = {"segment_bytes": 1 << 20, "bytes_max": 12 << 20, "retain_bytes": 0}


class HamperedStore:
    """A store in front of which inserts wait, or fail, while it is hampered."""

    def __init__(self, store: ClickHouseLogStore, *, fails: bool) -> None:
        self._store = store
        self._fails = fails
        self.free = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def insert(self, range_: FrameRange, batches: Sequence[pa.RecordBatch], *, token: str) -> None:
        if self._fails and not self.free.is_set():
            raise StoreError("warm", "NOT_ENOUGH_SPACE")
        await self.free.wait()
        await self._store.insert(range_, batches, token=token)


@contextlib.asynccontextmanager
async def projecting(server: IngestServer, store: HamperedStore, folder: Path) -> AsyncIterator[WarmProjection]:
    projection = WarmProjection(
        server.journal,
        store,
        CheckpointFile(folder / "warm.json"),
        SystemClock(),
        limits=LIMITS,
        retry=RetryPolicy(first_wait_s=0.01, wait_s_max=0.05),
        hooks=WarmHooks(on_advanced=server.journal.trim),
    )
    following = asyncio.create_task(projection.run())
    try:
        yield projection
    finally:
        following.cancel()
        await asyncio.wait({following})


def export_request(number: int) -> logs_service_pb2.ExportLogsServiceRequest:
    records = [
        logs_pb2.LogRecord(
            time_unix_nano=1_767_225_600_000_000_000 + row,
            body=common_pb2.AnyValue(string_value=f"record {number}/{row} " + "x" * 200),
        )
        for row in range(RECORDS)
    ]
    return logs_service_pb2.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=records)])]
    )


@pytest.mark.parametrize("fails", [False, True])
async def test_acknowledgements_go_on_until_the_journal_is_full_and_again_when_the_store_has_caught_up(
    pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine, fails: bool
) -> None:
    await fill_and_catch_up(pki, tmp_path, chdb_engine, f"slow_{fails}", fails=fails)


async def fill_and_catch_up(
    pki: Pki, folder: Path, engine: ChdbEngine, database: str, *, fails: bool, export_s: float = EXPORT_S
) -> None:
    """Export while the store takes nothing until the journal is full; then let the store catch up, and see what it has."""
    async with (
        ingest_server(pki, folder, journal=JOURNAL) as server,
        opened_store(engine, database, datasets=(Dataset("logs"),)) as real,
        projecting(server, store := HamperedStore(real, fails=fails), folder) as projection,
    ):
        acknowledged = 0
        held = 0
        while True:
            try:
                await server.otlp.Export(export_request(acknowledged), timeout=export_s)
            except grpc.aio.AioRpcError as error:
                refusal = error
                break
            acknowledged += 1
            held = max(held, projection.progress.lag_rows)
            assert acknowledged < EXPORTS_MAX, "the journal has no bound"
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "the store's trouble reaches clients"
        assert reason_of_call(refusal) == "JOURNAL_FULL"
        assert (retry_after_s(refusal) or 0) > 0
        assert server.journal.state().size_bytes > JOURNAL["bytes_max"] - 3 * JOURNAL["segment_bytes"]
        assert acknowledged * RECORDS > 2 * LIMITS.held_rows_max, "far more than what is held was acknowledged"
        assert projection.progress.state is (ProjectionState.RETRYING if fails else ProjectionState.RUNNING)
        assert projection.progress.visible_through.get(0, 0) == 0
        assert 0 < held <= LIMITS.held_rows_max + RECORDS, "what waits for the store fills the memory"

        store.free.set()
        assert await projection.wait_through(server.journal.head(), 60)
        for _ in range(3):
            await server.otlp.Export(export_request(acknowledged), timeout=export_s)
            acknowledged += 1
        assert await projection.wait_through(server.journal.head(), 60)
        (total,) = await rows_of(real, asked(None, counted(), through=1 << 40))
        assert total["n"] == acknowledged * RECORDS, "each acknowledged record once"


append = EmbeddedJournal.append
insert_good = WarmProjection._insert_good


def waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async def append_and_wait(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
        positions = await append(self, entries)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * IMPATIENT_S):
                while self._through < positions[-1]:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        return positions

    monkeypatch.setattr(EmbeddedJournal, "append", append_and_wait)


def lets_go_of_what_the_store_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    check = EmbeddedJournal._check_bound

    def let_go(self: EmbeddedJournal, size_bytes: int) -> None:
        self._through = self._shelf.head
        check(self, size_bytes)

    monkeypatch.setattr(EmbeddedJournal, "_check_bound", let_go)


def reads_on_while_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadAhead, "_has_room", lambda _self: True)


def gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: WarmProjection, _failures: int, error: StoreError) -> None:
        raise error

    monkeypatch.setattr(WarmProjection, "_back_off", fail)


def inserts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def insert(
        self: WarmProjection, range_: FrameRange, batches: Sequence[pa.RecordBatch], token: str
    ) -> list[RefusedRecord]:
        await insert_good(self, range_, batches, token)
        return await insert_good(self, range_, batches, f"{token}/again")

    monkeypatch.setattr(WarmProjection, "_insert_good", insert)


def leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def insert(
        self: WarmProjection, range_: FrameRange, batches: Sequence[pa.RecordBatch], token: str
    ) -> list[RefusedRecord]:
        return await insert_good(self, range_, [*batches[:-1], batches[-1].slice(1)], token)

    monkeypatch.setattr(WarmProjection, "_insert_good", insert)


@pytest.mark.parametrize(
    ("spoil", "fails", "verdict"),
    [
        (waits_for_the_store, False, "the store's trouble reaches clients"),
        (lets_go_of_what_the_store_lacks, False, "the journal has no bound"),
        (reads_on_while_nothing_is_taken, False, "fills the memory"),
        (gives_up, True, "RETRYING"),
        (inserts_twice, False, "each acknowledged record once"),
        (leaves_out, False, "each acknowledged record once"),
    ],
)
async def test_a_server_is_found_out_that(
    pki: Pki,
    tmp_path: Path,
    chdb_engine: ChdbEngine,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    fails: bool,
    verdict: str,
) -> None:
    spoil(monkeypatch)
    export_s = IMPATIENT_S if spoil is waits_for_the_store else EXPORT_S
    with pytest.raises(AssertionError, match=verdict):
        await fill_and_catch_up(pki, tmp_path, chdb_engine, spoil.__name__, fails=fails, export_s=export_s)
