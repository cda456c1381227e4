"""Ingest under load by each door: as fast as it is taken, or at an offered rate, for as long as asked.

The rows of the corpus go round, each time with the times at which they are sent and with offsets of its own, so none is a repeat. What is
counted is what the server acknowledged; the load ends, and its CPU is read, when the store has all of it.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc
from tests.bench import corpus
from tests.bench.instance import Instance
from tests.bench.stall import Stalls, watch_stalls
from tests.bench.stamps import Stamped

EXPORTERS: Final = 8
CALL_TIMEOUT_S: Final = 600.0
SAMPLE_S: Final = 0.25
_T = TypeVar("_T")
OFFERED_EVERY_S: Final = 0.02


@dataclass(frozen=True)
class IngestFigure:
    """One way in."""

    name: str
    row_count: int
    elapsed_s: float
    """Until the last acknowledgement."""
    stored_s: float
    """Until the store had everything."""
    server_cpu_s: float
    """Until then, merges of that time included."""
    ack_p50_s: float
    ack_p99_s: float
    stall_p99_s: float
    """Of a trivial call on a connection of its own."""
    stall_max_s: float
    rss_bytes: int
    """At its highest."""

    @property
    def rows_per_s(self) -> float:
        """Acknowledged rows a second."""
        return self.row_count / self.elapsed_s

    @property
    def stored_rows_per_s(self) -> float:
        """Rows a second that queries can see."""
        return self.row_count / self.stored_s

    @property
    def cpu_us_per_row(self) -> float:
        """Server CPU."""
        return self.server_cpu_s / self.row_count * 1e6


@dataclass
class _Sent:
    at: dict[int, float] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)


def append(
    instance: Instance,
    name: str,
    rounds: Sequence[corpus.Round],
    *,
    seconds: float = math.inf,
    settle: Callable[[Instance], None] | None = None,
) -> IngestFigure:
    """Feed one source a round, in parallel, as fast as they are taken.

    Args:
        instance: The server.
        name: Of the figure, and in the names of the sources.
        rounds: What to send.
        seconds: How long the rounds go round; infinite: each is sent once.
        settle: Waits for what follows the journal; None: `wait_applied`.
    """
    latencies: list[float] = []

    def feed(round_: corpus.Round) -> int:
        return _feed(instance, f"{name}-{id(round_)}-{time.time_ns()}", round_, latencies, seconds=seconds, every_s=0)

    return _timed(instance, name, latencies, lambda: _parallel(feed, rounds), settle)


def offered(
    instance: Instance,
    round_: corpus.Round,
    *,
    rows_per_s: float,
    seconds: float,
    settle: Callable[[Instance], None] | None = None,
) -> IngestFigure:
    """Feed one source at a steady rate in small batches; what counts is how soon it is acknowledged."""
    latencies: list[float] = []
    name = f"NDJSON, {rows_per_s / 1000:.0f} k/s offered"
    return _timed(
        instance,
        name,
        latencies,
        lambda: _feed(
            instance, f"offered-{time.time_ns()}", round_, latencies, seconds=seconds, every_s=OFFERED_EVERY_S
        ),
        settle,
    )


def export(instance: Instance, requests: Sequence[Stamped], *, seconds: float) -> IngestFigure:
    """Export requests from several exporters, each waiting for its answer."""
    latencies: list[float] = []
    end = time.monotonic() + seconds
    turn = itertools.count()

    def exporter(_: int) -> int:
        row_count = 0
        with instance.channel() as channel:
            call: Any = channel.unary_unary(
                "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
                response_deserializer=logs_service_pb2.ExportLogsServiceResponse.FromString,
            )
            while time.monotonic() < end:
                request = requests[next(turn) % len(requests)].sent_at(time.time_ns())
                started = time.monotonic()
                answer = call(request, timeout=CALL_TIMEOUT_S)
                latencies.append(time.monotonic() - started)
                row_count += corpus.OTLP_ROWS - answer.partial_success.rejected_log_records
        return row_count

    return _timed(instance, "OTLP, 5,000 a request", latencies, lambda: _parallel(exporter, range(EXPORTERS)))


def wait_applied(instance: Instance, *, only_required: bool = False) -> None:
    """Wait until the store has everything, and whatever else follows the journal unless only what is required is asked for."""
    with instance.channel() as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            status = stub.GetStatus(admin_service_pb2.GetStatusRequest(), timeout=60)
            if all(one.lag_frame_count == 0 for one in status.projections if one.required or not only_required):
                return
            time.sleep(0.05)
    message = "the store didn't catch up"
    raise RuntimeError(message)


def percentile(values: Sequence[float], share: float) -> float:
    """Of unsorted values; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _feed(
    instance: Instance, source: str, round_: corpus.Round, latencies: list[float], *, seconds: float, every_s: float
) -> int:
    """Send rounds over one stream until the time is over; at full speed if `every_s` is 0."""
    sent = _Sent()

    def requests() -> Iterator[pb.AppendRequest]:
        yield corpus.open_request(source, round_.kind)
        offset = 0
        due = time.monotonic()
        end = due + seconds
        for size, payload in itertools.cycle(round_.batches) if end < math.inf else round_.batches:
            if every_s:
                time.sleep(max(0.0, due - time.monotonic()))
                due += every_s
            now = time.monotonic()
            if now >= end:
                break
            sent.at[offset + size] = now
            sent.waiting.append(offset + size)
            yield corpus.batch_request(offset, offset + size, payload.sent_at(time.time_ns()))
            offset += size
        yield pb.AppendRequest(finish=pb.AppendRequest.Finish())

    accepted = 0
    with instance.channel() as channel:
        stub = ingest_service_pb2_grpc.IngestServiceStub(channel)
        for response in stub.Append(requests(), timeout=CALL_TIMEOUT_S):
            now = time.monotonic()
            if response.HasField("nack"):
                raise RuntimeError(str(response.nack))
            while response.HasField("ack") and sent.waiting and sent.waiting[0] <= response.ack.next_offset:
                latencies.append(now - sent.at.pop(sent.waiting.pop(0)))
            if response.HasField("finished"):
                accepted = response.finished.accepted_count
    return accepted


def _timed(
    instance: Instance,
    name: str,
    latencies: list[float],
    work: Callable[[], int],
    settle: Callable[[Instance], None] | None = None,
) -> IngestFigure:
    with watch_stalls(instance) as stalls, _peak_memory(instance) as memory:
        cpu_s = instance.cpu_s()
        started = time.monotonic()
        row_count = work()
        elapsed_s = time.monotonic() - started
        (settle or wait_applied)(instance)
        stored_s = time.monotonic() - started
        cpu_s = instance.cpu_s() - cpu_s
    found: Stalls = stalls.result()
    return IngestFigure(
        name,
        row_count,
        elapsed_s,
        stored_s,
        cpu_s,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        found.p99_s,
        found.max_s,
        max(memory),
    )


@contextmanager
def _peak_memory(instance: Instance) -> Iterator[list[int]]:
    samples = [instance.rss_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(instance.rss_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _parallel(feed: Callable[[_T], int], items: Sequence[_T]) -> int:
    with ThreadPoolExecutor(len(items)) as pool:
        return sum(pool.map(feed, items))
