"""A store that is slower than the journal, or full: ingest goes on until the journal's own bound, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
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
from heimdall_server.ports.log_store import FrameRange
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import ProjectionState, RetryPolicy, WarmHooks, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from heimdall_server.wiring.clock import SystemClock
from tests.support.ingest_server import IngestServer, ingest_server, reason_of_call, retry_after_s
from tests.support.log_stores import asked, counted, opened_store, rows_of
from tests.support.pki import Pki

RECORDS = 1_000
LIMITS = ReadLimits(batch_rows=2 * RECORDS, linger_s=0.01, held_rows_max=4 * RECORDS, held_bytes_max=4 << 20)
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
    async with (
        ingest_server(pki, tmp_path, journal=JOURNAL) as server,
        opened_store(chdb_engine, f"slow_{fails}", datasets=(Dataset("logs"),)) as real,
        projecting(server, store := HamperedStore(real, fails=fails), tmp_path) as projection,
    ):
        acknowledged = 0
        held = 0
        while True:
            try:
                await server.otlp.Export(export_request(acknowledged), timeout=20)
            except grpc.aio.AioRpcError as error:
                refusal = error
                break
            acknowledged += 1
            held = max(held, projection.progress.lag_rows)
        assert reason_of_call(refusal) == "JOURNAL_FULL"
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (retry_after_s(refusal) or 0) > 0
        assert server.journal.state().size_bytes > JOURNAL["bytes_max"] - 3 * JOURNAL["segment_bytes"]
        assert acknowledged * RECORDS > 2 * LIMITS.held_rows_max, "far more than what is held was acknowledged"
        assert 0 < held <= LIMITS.held_rows_max + RECORDS
        assert projection.progress.state is (ProjectionState.RETRYING if fails else ProjectionState.RUNNING)
        assert projection.progress.visible_through.get(0, 0) == 0

        store.free.set()
        assert await projection.wait_through(server.journal.head(), 60)
        for _ in range(3):
            await server.otlp.Export(export_request(acknowledged), timeout=20)
            acknowledged += 1
        assert await projection.wait_through(server.journal.head(), 60)
        (total,) = await rows_of(real, asked(None, counted(), through=1 << 40))
        assert total["n"] == acknowledged * RECORDS, "each acknowledged record once"
