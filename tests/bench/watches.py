"""What watches cost: the same offered load with and without them, and how soon a record reaches a watcher.

Every record carries the moment at which it was sent as its time, so a watcher can tell how long it was under way; both
ends run on one machine and share its clock. Watchers are a realistic crowd: selective tails and live aggregates by
turns, each with constants of its own. They share the server's cores, too, so what comes is put aside with the moment at
which it came, and read when the load is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc
import numpy as np
import pyarrow as pa

from heimdall.ingest.v1 import ingest_service_pb2 as ingest_pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc, source_pb2
from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_client.samples import sample_ndjson
from tests.bench.instance import Instance

EVERY_S = 0.02
"""A payload is sent this often."""
WATCHES_PER_STREAM = 50
_TEMPLATES = 60
_START_WAIT_S = 60.0
_SETTLE_S = 1.0
_STAMP = b"2000-01-01T00:00:00.000000000Z"
_SERVICES = (
    "checkout",
    "payments",
    "catalog",
    "search",
    "auth",
    "cart",
    "gateway",
    "mailer",
    "inventory",
    "billing",
)
_REGIONS = ("eu-central-1", "eu-west-1", "us-east-1")
_WORDS = ("timeout", "refused", "declined", "unhandled", "disk", "blocked", "upstream", "reset", "pool", "miss")
_KINDS = (
    "service:{service} AND severity:>=ERROR",
    "service:{service} | timechart 1m count() by severity",
    "host:{service}-{digit} AND {word} | fields time, service, host, body",
    "severity:>=WARN AND host:{service}-{digit} | stats count() by bucket(time, 1m), host",
    "{word} AND {number}",
    "{word} AND service:{service} | stats count(), avg(duration_ms) by bucket(time, 10s), host",
    r"service:{service} AND severity:>=WARN AND /after [0-9]*{digit} ms/ | fields time, body",
    "region:{region} AND severity:>=ERROR | stats count() by service",
    "region:{region} AND duration_ms:>29{digit}{digit} AND severity:>=WARN | fields time, service, duration_ms",
    "service:{service} | stats count(), p95(duration_ms) by bucket(time, 1m), region",
)


@dataclass(frozen=True)
class WatchFigure:
    """Watches under an offered load."""

    watch_count: int
    offered_rows_per_s: float
    taken_rows_per_s: float
    """Acknowledged while it was measured."""
    core_share: float
    """Cores of the server with watches, minus those of the same load without."""
    core_share_without: float
    p50_s: float
    """From the sending of a record to its arrival at a watcher."""
    p95_s: float
    messages_per_s: float
    """To all watchers."""
    delivered_rows_per_s: float
    bytes_per_watch: float
    """What resident memory grew by when they were created, shared out; groups and queues come with the load."""


def questions(count: int) -> Iterator[str]:
    """So many questions, no two alike for the first thousand."""
    for index in range(count):
        kind, turn = index % len(_KINDS), index // len(_KINDS)
        yield _KINDS[kind].format(
            service=_SERVICES[turn % len(_SERVICES)],
            region=_REGIONS[turn % len(_REGIONS)],
            word=_WORDS[(turn + turn // len(_WORDS)) % len(_WORDS)],
            digit=turn // len(_SERVICES) % 8,
            number=1000 + 17 * turn,
        )


def measure_watches(instance: Instance, *, watch_count: int, rows_per_s: float, seconds: float) -> WatchFigure:
    """Offer a load, first without watches, then with them.

    Args:
        instance: A running server that has nothing else to do.
        watch_count: Watches, on streams of `WATCHES_PER_STREAM`.
        rows_per_s: What is offered, in payloads every `EVERY_S`.
        seconds: How long each of the two is measured, after a quarter of that to warm up.
    """
    with _offered(instance, rows_per_s) as load, ExitStack() as stack:
        without = _Window.measure(instance, load, seconds)
        with load.paused():
            rss_bytes = instance.rss_bytes()
            readers = []
            for texts in _chunks(list(questions(watch_count)), WATCHES_PER_STREAM):
                readers.append(_Reader(instance, texts))
                stack.callback(readers[-1].close)
            for reader in readers:
                reader.wait_created()
            bytes_per_watch = (instance.rss_bytes() - rss_bytes) / watch_count
        with_watches = _Window.measure(instance, load, seconds, readers)
        for reader in readers:
            reader.check()
    latencies = np.concatenate([with_watches.latencies_s, np.zeros(0)])
    return WatchFigure(
        watch_count=watch_count,
        offered_rows_per_s=rows_per_s,
        taken_rows_per_s=with_watches.rows_per_s,
        core_share=with_watches.core_share - without.core_share,
        core_share_without=without.core_share,
        p50_s=float(np.quantile(latencies, 0.5)) if len(latencies) else float("nan"),
        p95_s=float(np.quantile(latencies, 0.95)) if len(latencies) else float("nan"),
        messages_per_s=with_watches.message_count / with_watches.elapsed_s,
        delivered_rows_per_s=with_watches.row_count / with_watches.elapsed_s,
        bytes_per_watch=bytes_per_watch,
    )


@dataclass
class _Load:
    """A source that is fed at a steady rate until it is told to stop."""

    stopping: threading.Event = field(default_factory=threading.Event)
    pausing: threading.Event = field(default_factory=threading.Event)
    acknowledged_rows: int = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is sent for the length of a block, and what was sent before is through."""
        self.pausing.set()
        time.sleep(_SETTLE_S)
        try:
            yield
        finally:
            self.pausing.clear()


@dataclass(frozen=True)
class _Window:
    """What a stretch of time saw."""

    elapsed_s: float
    core_share: float
    rows_per_s: float
    latencies_s: np.ndarray[tuple[int], np.dtype[np.float64]] = field(default_factory=lambda: np.zeros(0))
    message_count: int = 0
    row_count: int = 0

    @classmethod
    def measure(cls, instance: Instance, load: _Load, seconds: float, readers: list[_Reader] | None = None) -> _Window:
        time.sleep(seconds / 4)
        readers = readers or []
        for reader in readers:
            reader.read(reader.put_aside())
        cpu_s, started, rows = instance.cpu_s(), time.monotonic(), load.acknowledged_rows
        time.sleep(seconds)
        elapsed_s = time.monotonic() - started
        share = (instance.cpu_s() - cpu_s) / elapsed_s
        rows = load.acknowledged_rows - rows
        came = [reader.put_aside() for reader in readers]
        with load.paused():
            seen = [reader.read(one) for reader, one in zip(readers, came, strict=True)]
        return cls(
            elapsed_s,
            share,
            rows / elapsed_s,
            np.array([latency for one in seen for latency in one.latencies_s]),
            sum(one.message_count for one in seen),
            sum(one.row_count for one in seen),
        )


@contextmanager
def _offered(instance: Instance, rows_per_s: float) -> Iterator[_Load]:
    """Feed a source from a thread; every record's time is the moment it is sent."""
    step = max(1, int(rows_per_s * EVERY_S))
    lines = b"".join(
        sample_ndjson(step * _TEMPLATES, seed=time.time_ns() % 2**32, end_time_ns=time.time_ns(), span_s=60)
    ).splitlines(keepends=True)
    begin = len(b'{"time":"')
    stamped = [line[:begin] + _STAMP + line[begin + len(_STAMP) :] for line in lines]
    templates = [b"".join(stamped[at : at + step]) for at in range(0, len(stamped), step)]
    load = _Load()

    def requests() -> Iterator[ingest_pb.AppendRequest]:
        source = f"watched-{time.time_ns()}"
        kind = source_pb2.Format(kind=source_pb2.Format.KIND_NDJSON)
        yield ingest_pb.AppendRequest(open=ingest_pb.AppendRequest.Open(source_id=source, format=kind))
        offset, number, due = 0, 0, time.monotonic()
        while not load.stopping.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += EVERY_S
            while load.pausing.is_set() and not load.stopping.is_set():
                time.sleep(EVERY_S)
                due = time.monotonic()
            now_ns = time.time_ns()
            seconds, nanos = divmod(now_ns, 1_000_000_000)
            stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z".encode()
            payload = templates[number % _TEMPLATES].replace(_STAMP, stamp)
            end = offset + len(payload)
            yield ingest_pb.AppendRequest(
                batch=ingest_pb.AppendRequest.Batch(
                    offset=offset, next_offset=end, crc32c=google_crc32c.value(payload), payload=payload
                )
            )
            offset, number = end, number + 1
        yield ingest_pb.AppendRequest(finish=ingest_pb.AppendRequest.Finish())

    def feed() -> None:
        with instance.channel() as channel:
            for response in ingest_service_pb2_grpc.IngestServiceStub(channel).Append(requests(), timeout=3600):
                if response.HasField("nack"):
                    raise RuntimeError(str(response.nack))
                if response.HasField("ack"):
                    load.acknowledged_rows += response.ack.accepted_count

    with ThreadPoolExecutor(1) as pool:
        feeding: Future[None] = pool.submit(feed)
        try:
            yield load
        finally:
            load.stopping.set()
            feeding.result(timeout=_START_WAIT_S)


@dataclass
class _Seen:
    """What came to one stream in a window."""

    latencies_s: list[float] = field(default_factory=list)
    message_count: int = 0
    row_count: int = 0


class _Reader:
    """One watch stream and the thread that takes what comes."""

    def __init__(self, instance: Instance, texts: list[str]) -> None:
        self._came: list[tuple[int, bytes]] = []
        """When, and what."""
        self._ended: list[str] = []
        self._schemas: dict[str, pa.Schema] = {}
        self._closing = threading.Event()
        self._all_created = threading.Event()
        self._texts = texts
        self._channel = instance.channel()
        watch: Any = self._channel.stream_stream(
            "/heimdall.query.v1.QueryService/Watch", request_serializer=pb.WatchRequest.SerializeToString
        )
        self._call = watch(self._requests())
        self._thread = threading.Thread(target=self._read, name="watcher", daemon=True)
        self._thread.start()

    def wait_created(self) -> None:
        """Wait until every watch runs."""
        if not self._all_created.wait(_START_WAIT_S):
            message = f"{len(self._schemas)} of {len(self._texts)} watches began; ended: {self._ended[:3]}"
            raise RuntimeError(message)

    def put_aside(self) -> list[tuple[int, bytes]]:
        """What came since the last time."""
        came, self._came = self._came, []
        return came

    def read(self, came: list[tuple[int, bytes]]) -> _Seen:
        """Read what was put aside."""
        seen = _Seen()
        for now_ns, message in came:
            self._take(pb.WatchResponse.FromString(message), now_ns, seen)
        return seen

    def check(self) -> None:
        """Every watch must still be there."""
        if self._ended:
            message = f"watches ended: {self._ended[:3]}"
            raise RuntimeError(message)

    def close(self) -> None:
        """Hang up."""
        self._closing.set()
        self._call.cancel()
        self._thread.join(timeout=10)
        self._channel.close()

    def _requests(self) -> Iterator[pb.WatchRequest]:
        for number, text in enumerate(self._texts):
            yield pb.WatchRequest(create=pb.WatchRequest.Create(watch_id=f"w{number}", question=pb.Question(text=text)))
        self._closing.wait()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._came.append((time.time_ns(), message))
                if not self._all_created.is_set():
                    self.read(self.put_aside())
        except grpc.RpcError as error:
            if not self._closing.is_set():
                self._ended.append(str(error))

    def _take(self, message: pb.WatchResponse, now_ns: int, seen: _Seen) -> None:
        match message.WhichOneof("message"):
            case "created":
                schema = message.created.schema
                self._schemas[message.created.watch_id] = pa.ipc.read_schema(pa.py_buffer(schema.arrow_schema))
                if len(self._schemas) == len(self._texts):
                    self._all_created.set()
            case "cancelled":
                self._ended.append(str(message.cancelled.status))
            case "rows":
                seen.message_count += 1
                seen.row_count += message.rows.batch.row_count
                batch = pa.ipc.read_record_batch(
                    pa.py_buffer(message.rows.batch.arrow_batch), self._schemas[message.rows.watch_id]
                )
                sent_ns = batch.column("time").cast(pa.int64()).to_numpy()
                seen.latencies_s += ((now_ns - sent_ns) / 1e9).tolist()
            case "aggregate":
                seen.message_count += 1


def _chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
