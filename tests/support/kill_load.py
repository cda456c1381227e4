"""Full load on a server, or a network, that is going to fail, and the judge of what is left: each record exactly once.

Every writer numbers its records from 0. What it was told is durable is a prefix of its numbers, and when it is done it
has sent all of a known count; so what the server holds must be each number below that count, once, and no other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Self

import grpc
import numpy as np
import polars as pl
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_client import IngestOptions
from heimdall_client.ingester import IngestSummary
from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
RETRYABLE: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
LINES: Final = 1_000
"""Records that an appender writes at once."""
PADDING: Final = " of a request that took its time, as told by the one who waited for it;" * 3
"""Lines of some 300 bytes: as long as those of real logs, and few of them fill what the SDK holds."""
RECORDS: Final = 1_000
"""Records of an export."""
GIVE_UP_S: Final = 90.0
PROGRESS_S: Final = 40.0
CHUNK_BYTES: Final = 256 * 1024
PAGE: Final = 500_000
"""Numbers that one search asks for."""


class Writer(threading.Thread):
    """Sends numbered records until it is told to stop; `problem` says why it couldn't."""

    def __init__(self, name: str, source: str, load: Load) -> None:
        super().__init__(name=name, daemon=True)
        self.source = source
        """As which the server keeps its records."""
        self.sent_count = 0
        self.durable = 0
        """Grows with what the server acknowledges."""
        self.problem: BaseException | None = None
        self.sent_max: float = math.inf
        """When so many were handed over, it waits: how far it gets must not hang on a machine's speed."""
        self.retry_count = 0
        self._load = load
        self._stopping = load.stopping

    def run(self) -> None:
        try:
            self.write()
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.problem = error

    def write(self) -> None:
        """Until `_stopping`; then see to it that all of `sent_count` is decided."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End what it waits for, by another thread; the load's client is closed already."""

    def _may_send(self) -> bool:
        """Wait until more may be handed over, for a moment; whether it may."""
        if self.sent_count < self.sent_max:
            return True
        time.sleep(0.01)
        return False

    def _take_numbers(self, count: int) -> range:
        first, self.sent_count = self.sent_count, self.sent_count + count
        return range(self._load.first_number + first, self._load.first_number + self.sent_count)


class Appender(Writer):
    """Appends numbered lines, a tenth of them with an address in it; the SDK resumes by itself."""

    def __init__(self, name: str, source: str, load: Load) -> None:
        super().__init__(name, source, load)
        self.summary: IngestSummary | None = None

    def write(self) -> None:
        options = IngestOptions(chunk_bytes=CHUNK_BYTES, buffer_bytes_max=8 << 20, give_up_after_s=GIVE_UP_S)
        with self._load.client.ingester(
            self.source, format="ndjson", options=options, on_retry=self._count_retry
        ) as ingester:
            while not self._stopping.is_set():
                if self._may_send():
                    ingester.write(lines(self._take_numbers(LINES)))
                self.durable = ingester.durable_offset
            self.summary = ingester.finish(timeout_s=GIVE_UP_S)

    def _count_retry(self, _error: Exception, _delay_s: float) -> None:
        self.retry_count += 1


class Exporter(Writer):
    """Exports numbered records one request after another; repeats the very bytes until they are acknowledged."""

    def __init__(self, name: str, source: str, load: Load, user: str) -> None:
        super().__init__(name, source, load)
        self._user = user
        self._channel: grpc.Channel | None = None

    def write(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)]
        credentials = self._load.server.credentials(self._user)
        address = self._load.otlp_address or self._load.server.otlp_address
        with grpc.secure_channel(address, credentials, options=options) as channel:
            self._channel = channel
            call: Any = channel.unary_unary(EXPORT, response_deserializer=pb.ExportLogsServiceResponse.FromString)
            while not self._stopping.is_set():
                if self._may_send():
                    self._deliver(call, export_request(self._take_numbers(RECORDS)))

    def abandon(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def _deliver(self, call: Any, request: bytes) -> None:
        deadline_s = time.monotonic() + GIVE_UP_S
        while True:
            try:
                answer = call(request, timeout=self._load.export_timeout_s)
            except grpc.RpcError as error:
                if error.code() not in RETRYABLE or time.monotonic() > deadline_s:
                    raise
                self.retry_count += 1
                time.sleep(0.1)
            else:
                assert not answer.partial_success.rejected_log_records
                self.durable = self.sent_count
                return


def lines(numbers: range) -> bytes:
    """NDJSON with a number a line."""
    n = pl.int_range(numbers.start, numbers.stop, eager=True).alias("n")
    text = pl.when(pl.col("n") % 10 == 0).then(pl.lit(" for someone@example.com")).otherwise(pl.lit(""))
    frame = n.to_frame().select(
        pl.format("line {} of the crash test{}{}", pl.col("n"), text, pl.lit(PADDING)).alias("msg"),
        pl.format("svc{}", pl.col("n") % 7).alias("service"),
        pl.col("n"),
    )
    return frame.write_ndjson().encode()


def export_request(numbers: range) -> bytes:
    """OTLP with a number a record."""
    now_ns = time.time_ns()
    body = common_pb2.AnyValue(string_value="exported in the crash test")
    records = [
        logs_pb2.LogRecord(
            time_unix_nano=now_ns + number,
            body=body,
            attributes=[common_pb2.KeyValue(key="n", value=common_pb2.AnyValue(int_value=number))],
        )
        for number in numbers
    ]
    scope = logs_pb2.ScopeLogs(log_records=records)
    return pb.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs(scope_logs=[scope])]).SerializeToString()


@dataclass(eq=False)
class Load:
    """Several appenders and an exporter for each user, all at once. Use it as a context manager."""

    server: ServerProcess
    client: Client
    """Of the appenders; closed if the load is left before it was finished."""
    appender_count: int = 3
    users: tuple[str, ...] = ("admin", "writer")
    name: str = "crash"
    """Of the sources that the appenders feed."""
    first_number: int = 0
    """Where counting begins: what an earlier load exported to the same server has smaller numbers."""
    otlp_address: str = ""
    """Where exports go; empty: straight to the server."""
    export_timeout_s: float = 20.0
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.appenders = [
            Appender(f"appender-{number}", f"{self.name}/lines-{number}", self) for number in range(self.appender_count)
        ]
        self.exporters = [Exporter(f"exporter-{user}", f"otlp/{user}", self, user) for user in self.users]
        self.writers: list[Writer] = [*self.appenders, *self.exporters]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A test that failed hasn't finished: its writers may wait for a server that is gone, and end with their connections."""
        self.stopping.set()
        if any(writer.is_alive() for writer in self.writers):
            self.client.close()
            for writer in self.writers:
                writer.abandon()
        for writer in self.writers:
            writer.join(timeout=PROGRESS_S)

    @property
    def sent_count(self) -> int:
        """Records that were handed over so far."""
        return sum(writer.sent_count for writer in self.writers)

    def begin_round(self, records_max: int) -> None:
        """Let each writer hand over so many more, and then wait."""
        for writer in self.writers:
            writer.sent_max = writer.sent_count + records_max

    def check_running(self) -> None:
        """See that no writer has given up."""
        for writer in self.writers:
            assert writer.problem is None, f"{writer.name}: {writer.problem!r}"

    def wait_for(self, condition: Callable[[], bool], what: str, *, timeout_s: float = PROGRESS_S) -> None:
        """Wait, as long as all writers are well."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            self.check_running()
            assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
            time.sleep(0.02)

    def wait_for_progress(self) -> None:
        """See everyone being served: else a kill would hit a server that nobody talks to."""
        before = [writer.durable for writer in self.writers]
        self.wait_for(
            lambda: all(writer.durable > durable for writer, durable in zip(self.writers, before, strict=True)),
            "an acknowledgement for every writer",
        )

    def wait_for_records(self, count: int) -> None:
        """Wait until so many more were handed over, or all that may be: a moment that comes sooner on a faster machine."""
        end = min(self.sent_count + count, sum(writer.sent_max for writer in self.writers))
        self.wait_for(lambda: self.sent_count >= end, f"{count} more records")

    def finish(self) -> None:
        """Tell the writers to stop, and wait until all they sent is decided."""
        self.stopping.set()
        for writer in self.writers:
            writer.join(timeout=GIVE_UP_S)
            assert not writer.is_alive(), f"{writer.name} hangs"
        self.check_running()

    def check_durable(self) -> None:
        """See that the server still has all that it acknowledged to the appenders, as it says itself."""
        durable = [appender.durable for appender in self.appenders]
        with self.server.client() as fresh:  # the other one may still be waiting before it connects again
            for appender, offset in zip(self.appenders, durable, strict=True):
                found = fresh.get_source(appender.source).next_offset
                assert found >= offset, f"{offset - found} acknowledged bytes of {appender.source} are lost"

    def check_exactly_once(self, client: Client) -> None:
        """See every record that was sent once: in the rows, and in the counts of the rollups, which come another way."""
        for writer in self.writers:
            numbers = numbers_of(client, writer.source, writer.sent_count, self.first_number) - self.first_number
            check_exactly_once(numbers, writer.sent_count, writer.source)
            if not self.first_number:
                (row,) = client.search(f"source:{writer.source} | stats count()", consistent=True)
                assert row["count"] == writer.sent_count, f"the count of {writer.source} is {row['count']}"


def numbers_of(client: Client, source: str, count: int, first: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of a source's records from `first` on, in any order; `count` is how many are to be expected."""
    edges = [*range(first, first + count, PAGE), None]
    parts = []
    for begin, end in pairwise(edges):
        below = "" if end is None else f" AND n:<{end}"
        question = f"source:{source} AND n:>={begin}{below} | fields n"
        table = client.search(question, consistent=True, limit=2 * PAGE).to_arrow()
        assert table.num_rows < 2 * PAGE, f"{source} has twice as many rows as it should"
        parts.append(np.asarray(table.column("n").to_numpy(), np.int64))
    return np.concatenate(parts)


def check_exactly_once(numbers: np.ndarray[Any, np.dtype[np.int64]], count: int, source: str) -> None:
    """See each number below `count` once, and no other."""
    foreign = numbers[(numbers < 0) | (numbers >= count)]
    assert not foreign.size, f"{foreign.size} records of {source} were never sent, such as {foreign[:5]}"
    times = np.bincount(numbers, minlength=count)
    missing, twice = np.flatnonzero(times == 0), np.flatnonzero(times > 1)
    assert not missing.size, f"{missing.size} acknowledged records of {source} are lost, from {missing[:5]}"
    assert not twice.size, f"{twice.size} records of {source} are there twice, from {twice[:5]}"
