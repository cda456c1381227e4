"""What is measured: ingest by each door, acknowledgements at an offered rate, queries."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from tests.bench import corpus
from tests.bench.instance import Instance

STREAMS = 2
EXPORTERS = 8
CALL_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class IngestFigure:
    """One way in."""

    name: str
    row_count: int
    elapsed_s: float
    server_cpu_s: float
    """Until everything was acknowledged and in the store."""
    ack_p50_s: float
    ack_p99_s: float
    rss_bytes: int

    @property
    def rows_per_s(self) -> float:
        """Acknowledged rows a second."""
        return self.row_count / self.elapsed_s


@dataclass(frozen=True)
class QueryFigure:
    """One query, warm."""

    name: str
    text: str
    p50_s: float
    p95_s: float
    path: str


def decoder_baseline(ndjson: bytes) -> float:
    """Rows a core-second of the bare decoder (polars, known schema, nothing else done with them)."""
    part = ndjson[: ndjson.rfind(b"\n", 0, 64 << 20) + 1]
    schema = pl.read_ndjson(part[: part.rfind(b"\n", 0, 1 << 20) + 1]).schema
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        frame = pl.read_ndjson(part, schema=schema)
        best = max(best, frame.height / (time.process_time() - started))
    return best


def ingest_append(instance: Instance, name: str, streams: Sequence[Sequence[pb.AppendRequest]]) -> IngestFigure:
    """Feed sources in parallel, as fast as they are taken."""
    latencies: list[float] = []

    def feed(requests: Sequence[pb.AppendRequest]) -> int:
        sent_at: dict[int, float] = {}

        def stamped() -> Iterator[pb.AppendRequest]:
            for request in requests:
                sent_at[request.batch.next_offset] = time.monotonic()
                yield request

        waiting = sorted(r.batch.next_offset for r in requests if r.HasField("batch"))
        accepted = 0
        with instance.channel() as channel:
            for response in ingest_service_pb2_grpc.IngestServiceStub(channel).Append(
                stamped(), timeout=CALL_TIMEOUT_S
            ):
                now = time.monotonic()
                if response.HasField("nack"):
                    raise RuntimeError(str(response.nack))
                while response.HasField("ack") and waiting and waiting[0] <= response.ack.next_offset:
                    latencies.append(now - sent_at[waiting.pop(0)])
                if response.HasField("finished"):
                    accepted = response.finished.accepted_count
        return accepted

    return _timed(instance, name, lambda: _parallel(feed, streams), latencies)


def ingest_otlp(instance: Instance, requests: Sequence[bytes]) -> IngestFigure:
    """Export requests from several exporters, each waiting for its answer."""
    latencies: list[float] = []
    local = threading.local()

    def export(request: bytes) -> int:
        if not hasattr(local, "call"):
            local.call = instance.channel().unary_unary(
                "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
                response_deserializer=logs_service_pb2.ExportLogsServiceResponse.FromString,
            )
        started = time.monotonic()
        local.call(request, timeout=CALL_TIMEOUT_S)
        latencies.append(time.monotonic() - started)
        return corpus.OTLP_ROWS

    with ThreadPoolExecutor(EXPORTERS) as pool:
        return _timed(instance, "OTLP, 5,000 a request", lambda: sum(pool.map(export, requests)), latencies)


def offered(instance: Instance, ndjson: bytes, *, rows_per_s: float, seconds: float) -> IngestFigure:
    """Feed one source at a steady rate in small batches; what counts is how soon it is acknowledged."""
    every_s = 0.02
    lines = ndjson.splitlines(keepends=True)
    step = int(rows_per_s * every_s)
    payloads = [b"".join(lines[i : i + step]) for i in range(0, min(len(lines), int(rows_per_s * seconds)), step)]
    requests = corpus.ndjson_batches(payloads, f"offered-{time.time_ns()}")
    latencies: list[float] = []
    sent_at: dict[int, float] = {}
    waiting = [r.batch.next_offset for r in requests if r.HasField("batch")]

    def paced() -> Iterator[pb.AppendRequest]:
        due = time.monotonic()
        for request in requests:
            time.sleep(max(0.0, due - time.monotonic()))
            due += every_s
            sent_at[request.batch.next_offset] = time.monotonic()
            yield request

    def feed() -> int:
        accepted = 0
        with instance.channel() as channel:
            stub = ingest_service_pb2_grpc.IngestServiceStub(channel)
            for response in stub.Append(paced(), timeout=CALL_TIMEOUT_S):
                now = time.monotonic()
                while response.HasField("ack") and waiting and waiting[0] <= response.ack.next_offset:
                    latencies.append(now - sent_at[waiting.pop(0)])
                if response.HasField("finished"):
                    accepted = response.finished.accepted_count
        return accepted

    return _timed(instance, f"NDJSON, {rows_per_s / 1000:.0f} k/s offered", feed, latencies)


def query(instance: Instance, name: str, text: str, *, rounds: int) -> QueryFigure:
    """Run a query until it is warm, then some times more."""
    path = ""
    times = []
    request = query_service_pb2.SearchRequest(question=query_service_pb2.Question(text=text))
    with instance.channel() as channel:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        for index in range(rounds + 2):
            started = time.monotonic()
            for response in stub.Search(request, timeout=CALL_TIMEOUT_S):
                if response.HasField("finished"):
                    path = query_service_pb2.Plan.Path.Name(response.finished.plan.path).removeprefix("PATH_").lower()
            if index >= 2:
                times.append(time.monotonic() - started)
    return QueryFigure(name, text, statistics.median(times), _percentile(times, 0.95), path)


def disk_bytes_per_row(instance: Instance) -> float:
    """Bytes at rest of a record in the warm store."""
    with instance.channel() as channel:
        status = admin_service_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_service_pb2.GetStatusRequest())
    (store,) = status.stores
    return store.size_bytes / max(store.record_count, 1)


def wait_applied(instance: Instance) -> None:
    """Wait until the store has everything."""
    with instance.channel() as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            status = stub.GetStatus(admin_service_pb2.GetStatusRequest(), timeout=10)
            if all(projection.lag_frame_count == 0 for projection in status.projections):
                return
            time.sleep(0.05)
    message = "the store didn't catch up"
    raise RuntimeError(message)


def _timed(instance: Instance, name: str, work: Callable[[], int], latencies: list[float]) -> IngestFigure:
    cpu = instance.cpu_s()
    started = time.monotonic()
    rows = work()
    elapsed = time.monotonic() - started
    wait_applied(instance)
    return IngestFigure(
        name,
        rows,
        elapsed,
        instance.cpu_s() - cpu,
        _percentile(latencies, 0.5),
        _percentile(latencies, 0.99),
        instance.rss_bytes(),
    )


def _parallel(feed: Callable[[Sequence[pb.AppendRequest]], int], streams: Sequence[Sequence[pb.AppendRequest]]) -> int:
    with ThreadPoolExecutor(len(streams)) as pool:
        return sum(pool.map(feed, streams))


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
