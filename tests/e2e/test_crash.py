"""kill -9 of the server under load, again and again: what was acknowledged is there exactly once.

`ROUNDS` (5) is how often it is killed, `SEED` repeats a run's moments.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_client import IngestOptions
from heimdall_client.ingester import IngestSummary
from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess, server_process

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 2**31)
LINES = 60
PAUSE_S = 0.01
RECORDS = 20
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


@dataclass
class Appender(threading.Thread):
    """Appends numbered lines; the SDK resumes by itself."""

    client: Client
    stopping: threading.Event
    written: int = 0
    durable_offset: int = 0
    summary: IngestSummary | None = None
    problem: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name="appender", daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            options = IngestOptions(chunk_bytes=16 * 1024, give_up_after_s=90)
            with self.client.ingester("crash/lines", format="ndjson", options=options) as ingester:
                while not self.stopping.is_set():
                    ingester.write(self._lines())
                    self.durable_offset = ingester.durable_offset
                    time.sleep(PAUSE_S)
                self.summary = ingester.finish(timeout_s=60)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.problem = error

    def _lines(self) -> bytes:
        first, self.written = self.written, self.written + LINES
        return b"".join(
            json.dumps({"msg": f"line {number} of the crash test", "n": number}).encode() + b"\n"
            for number in range(first, self.written)
        )


@dataclass
class Exporter(threading.Thread):
    """Exports numbered records one request after another; repeats the very bytes until they are acknowledged."""

    server: ServerProcess
    stopping: threading.Event
    acknowledged: int = 0
    retries: int = 0
    problem: BaseException | None = None
    _next: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        super().__init__(name="exporter", daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]
        try:
            with grpc.secure_channel(self.server.otlp_address, self.server.credentials(), options=options) as channel:
                call: Any = channel.unary_unary(EXPORT, response_deserializer=pb.ExportLogsServiceResponse.FromString)
                while not self.stopping.is_set():
                    self._deliver(call, self._request())
                    time.sleep(PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.problem = error

    def _request(self) -> bytes:
        first, self._next = self._next, self._next + RECORDS
        now_ns = time.time_ns()
        records = [
            logs_pb2.LogRecord(
                time_unix_nano=now_ns + number,
                body=common_pb2.AnyValue(string_value="exported in the crash test"),
                attributes=[common_pb2.KeyValue(key="n", value=common_pb2.AnyValue(int_value=number))],
            )
            for number in range(first, self._next)
        ]
        scope = logs_pb2.ScopeLogs(log_records=records)
        return pb.ExportLogsServiceRequest(
            resource_logs=[logs_pb2.ResourceLogs(scope_logs=[scope])]
        ).SerializeToString()

    def _deliver(self, call: Any, request: bytes) -> None:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                answer = call(request, timeout=10)
            except grpc.RpcError as error:
                if error.code() not in RETRYABLE or time.monotonic() > deadline_s:
                    raise
                self.retries += 1
                time.sleep(0.1)
            else:
                assert not answer.partial_success.rejected_log_records
                self.acknowledged = self._next
                return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, JOURNAL__SEGMENT_BYTES=str(1 << 20), JOURNAL__RETAIN_BYTES="0") as running:
        yield running


def _numbers(client: Client, source: str) -> Counter[int]:
    table = client.search(f"source:{source} | fields n", consistent=True, limit=1_000_000).to_arrow()
    return Counter(int(number) for number in table.column("n").to_pylist())


def _wait_for_progress(appender: Appender, exporter: Exporter) -> None:
    """See both being served: else a kill would hit a server that nobody talks to."""
    durable, exported = appender.durable_offset, exporter.acknowledged
    deadline_s = time.monotonic() + 30
    while appender.durable_offset <= durable or exporter.acknowledged <= exported:
        for thread in (appender, exporter):
            assert thread.problem is None, f"{thread.name}: {thread.problem!r} (SEED={SEED})"
        assert time.monotonic() < deadline_s, f"no acknowledgement for 30 s (SEED={SEED})"
        time.sleep(0.02)


def _check(numbers: Counter[int], count: int) -> None:
    missing = [number for number in range(count) if number not in numbers]
    twice = [number for number, times in numbers.items() if times > 1]
    foreign = [number for number in numbers if number >= count]
    assert not missing, f"{len(missing)} acknowledged records are lost, from {missing[:5]}"
    assert not twice, f"{len(twice)} records are there twice, from {sorted(twice)[:5]}"
    assert not foreign, f"{len(foreign)} records were never sent"


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_what_was_acknowledged_survives_kills_exactly_once(server: ServerProcess) -> None:
    moments = random.Random(SEED)
    stopping = threading.Event()
    with Client(server.client_config()) as client:
        appender, exporter = Appender(client, stopping), Exporter(server, stopping)
        appender.start()
        exporter.start()
        for _ in range(ROUNDS):
            _wait_for_progress(appender, exporter)
            time.sleep(moments.uniform(0.0, 0.7))
            durable = appender.durable_offset
            server.kill()
            server.start()
            with Client(server.client_config()) as fresh:  # the other one is still waiting before it connects again
                source = fresh.get_source("crash/lines")
            assert source.next_offset >= durable, f"acknowledged bytes are lost (SEED={SEED})"
        stopping.set()
        for thread in (appender, exporter):
            thread.join(timeout=60)
            assert not thread.is_alive(), f"{thread.name} hangs (SEED={SEED})"
            assert thread.problem is None, f"{thread.name}: {thread.problem!r} (SEED={SEED})"

        assert appender.summary is not None
        assert appender.summary.accepted_count == appender.written, f"SEED={SEED}"
        assert appender.summary.break_count >= ROUNDS
        assert appender.written > 0
        assert exporter.acknowledged > 0
        assert exporter.retries > 0, "no kill hit an export"
        _check(_numbers(client, "crash/lines"), appender.written)
        _check(_numbers(client, "otlp/admin"), exporter.acknowledged)

        # The counts of the rollups, too: they are written by another way than the rows.
        for source_id, count in (("crash/lines", appender.written), ("otlp/admin", exporter.acknowledged)):
            (row,) = client.search(f"source:{source_id} | stats count()", consistent=True)
            assert row["count"] == count
    server.stop()
