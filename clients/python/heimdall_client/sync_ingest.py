"""The blocking halves of ingesters: each drives its asynchronous twin on the loop's thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from heimdall.ingest.v1 import source_pb2
from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.loop_thread import LoopThread
from heimdall_client.records import encode_record
from heimdall_client.translate import TimeLike

LOG_BUFFER_BYTES: Final = 64 * 1024
"""Lines that `log` gathers before it goes to the loop's thread."""


class Ingester:
    r"""Feeds one source. Made by `Client.ingester`; use it as a context manager. See `AsyncIngester`.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client, client.ingester("orders/1", format="ndjson") as ingester:
        ...         ingester.write(b'{"msg": "paid", "level": "info"}\n')
        ...         print(ingester.finish().accepted_count)
    """

    def __init__(self, portal: LoopThread, twin: AsyncIngester) -> None:
        self._portal = portal
        self._twin = twin

    @property
    def source(self) -> str:
        """The source's id."""
        return self._twin.source

    @property
    def format(self) -> source_pb2.Format:
        """The format as far as it is known."""
        return self._twin.format

    @property
    def offset(self) -> int:
        """Where the next write goes."""
        return self._twin.offset

    @property
    def durable_offset(self) -> int:
        """Everything before it is acknowledged."""
        return self._twin.durable_offset

    @property
    def accepted_count(self) -> int:
        """Records stored so far."""
        return self._twin.accepted_count

    @property
    def rejected_count(self) -> int:
        """Records that became dead letters so far."""
        return self._twin.rejected_count

    @property
    def already_complete(self) -> bool:
        """The source is a dump that was taken in whole before."""
        return self._twin.already_complete

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the source's next bytes; waits while the buffer is full."""
        self._portal.run(self._twin.write(data))

    def append_arrow(self, data: pa.Table | pa.RecordBatch) -> None:
        """Take the source's next records; for `format="arrow"`."""
        self._portal.run(self._twin.append_arrow(data))

    def flush(self, *, timeout_s: float = 60.0) -> int:
        """Wait until what was written is durable; returns the durable offset."""
        return self._portal.run(self._twin.flush(timeout_s=timeout_s))

    def finish(self, *, timeout_s: float | None = None) -> IngestSummary:
        """Say that the source ends here, and wait until all of it is decided."""
        return self._portal.run(self._twin.finish(timeout_s=timeout_s))

    def summary(self) -> IngestSummary:
        """What became of the source so far."""
        return self._portal.run(self._twin.summary())

    def close(self) -> None:
        """Hang up; `flush` or `finish` first."""
        self._portal.run(self._twin.aclose())

    def __enter__(self) -> Self:
        self._portal.run(self._twin.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.run(self._twin.__aexit__(kind, error, trace))


class RecordIngester:
    """Sends a program's own log records. Made by `Client.record_ingester`; use it as a context manager. Thread-safe.

    `log` only adds a line to a buffer, which goes on its way when it is full or after `IngestOptions.linger_s`.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client:
        ...         with client.record_ingester("orders/worker-1", service="orders") as log:
        ...             log.log("paid", attributes={"order": 17, "amount": 12.5})
    """

    def __init__(self, portal: LoopThread, twin: AsyncIngester, *, linger_s: float) -> None:
        self._portal = portal
        self._twin = twin
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._lines = bytearray()
        self._timer_set = False
        self._failure: BaseException | None = None

    def log(
        self,
        body: str,
        *,
        severity: str | int = "INFO",
        service: str = "",
        host: str = "",
        attributes: Mapping[str, Any] | None = None,
        time: TimeLike | None = None,
        trace_id: str = "",
        span_id: str = "",
    ) -> None:
        """Send a record; see `encode_record`. Waits only while the buffers are full.

        Raises:
            HeimdallError: The source has failed.
        """
        line = encode_record(
            body,
            severity=severity,
            service=service,
            host=host,
            attributes=attributes,
            time_=time,
            trace_id=trace_id,
            span_id=span_id,
        )
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._lines += line
            full = len(self._lines) >= LOG_BUFFER_BYTES
            start_timer, self._timer_set = not self._timer_set, True
        if full:
            self._portal.run(self._drain())
        elif start_timer:
            self._portal.loop.call_soon_threadsafe(self._portal.loop.call_later, self._linger_s, self._on_timer)

    def flush(self, *, timeout_s: float = 60.0) -> int:
        """Wait until every record is durable; returns the durable offset."""
        self._portal.run(self._drain())
        return self._portal.run(self._twin.flush(timeout_s=timeout_s))

    def summary(self) -> IngestSummary:
        """What became of the records so far."""
        return self._portal.run(self._twin.summary())

    def __enter__(self) -> Self:
        self._portal.run(self._twin.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._portal.run(self._drain())
        self._portal.run(self._twin.__aexit__(kind, error, trace))

    async def _drain(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, bytearray()
        if lines:
            await self._twin.write(bytes(lines))

    def _on_timer(self) -> None:
        with self._lock:
            self._timer_set = False
        task = self._portal.loop.create_task(self._drain())
        task.add_done_callback(self._note_failure)

    def _note_failure(self, task: Any) -> None:  # noqa: ANN401 - a task of any result
        if not task.cancelled() and task.exception() is not None:
            with self._lock:
                self._failure = task.exception()
