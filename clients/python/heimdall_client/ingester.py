"""Feeds one source: thin async code that drives `append_protocol` over streams which may break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import grpc.aio
import pyarrow as pa

from heimdall.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc, source_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client import arrow_payloads
from heimdall_client.append_buffer import cut_bytes
from heimdall_client.append_driver import AppendDriver, IngestOptions, OnRetry
from heimdall_client.append_protocol import AppendProtocol, Phase
from heimdall_client.streams import end_task

YIELD_BYTES: Final = 64 * 1024
"""After so many written bytes a writer lets others run."""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What became of a source."""

    source: str
    accepted_count: int
    """Records stored by this ingester."""
    rejected_count: int
    """Records that became dead letters."""
    row_errors: list[ingest_service_pb2.AppendResponse.RowError]
    """The first 100 of them."""
    start_offset: int
    """Where this ingester began."""
    next_offset: int
    """Everything before it is decided."""
    position: position_pb2.Position
    """Of the newest record; a search with `at_least=position` sees it."""
    format: source_pb2.Format
    """How the source was read."""
    elapsed_s: float
    break_count: int = 0
    """Streams that broke on the way."""
    already_complete: bool = False
    """The dump was taken in whole before; nothing was sent."""


@dataclass(slots=True)
class _Baseline:
    """What the source had before this ingester."""

    accepted_count: int = 0
    rejected_count: int = 0
    known: bool = field(default=True)


class AsyncIngester:
    r"""Feeds one source. Made by `AsyncClient.ingester`; use it as a context manager.

    Entering opens the source and learns where it goes on (`offset`). Leaving without an error flushes. What was
    written is held in memory until it is durable, up to `buffer_bytes_max`; a break is healed by opening again and
    going on from the server's offset. One task writes; others may read the properties.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client:
        ...         async with client.ingester("orders/1", format="ndjson", service="orders") as ingester:
        ...             await ingester.write(b'{"msg": "paid", "level": "info"}\n')
        ...             summary = await ingester.finish()
        ...         print(summary.accepted_count)
    """

    def __init__(
        self,
        stub: ingest_service_pb2_grpc.IngestServiceAsyncStub,
        open_: ingest_service_pb2.AppendRequest.Open,
        *,
        options: IngestOptions,
        address: str,
        on_retry: OnRetry | None = None,
        on_ack: Callable[[], None] | None = None,
    ) -> None:
        self._counts_records = open_.format.kind in (source_pb2.Format.KIND_ARROW, source_pb2.Format.KIND_OTLP)
        self._is_arrow = open_.format.kind == source_pb2.Format.KIND_ARROW
        self._protocol = AppendProtocol(
            open_,
            cut=arrow_payloads.cut_arrow if self._is_arrow else cut_bytes,
            splits=not self._counts_records,
            chunk_bytes=options.chunk_bytes,
            linger_s=options.linger_s,
            buffer_bytes_max=options.buffer_bytes_max,
        )
        self._stub = stub
        self._options = options
        self._driver = AppendDriver(
            stub, self._protocol, options=options, address=address, on_retry=on_retry, on_event=on_ack
        )
        self._until = self._driver.until
        self._changed = self._driver.changed
        self._task: asyncio.Task[None] | None = None
        self._unyielded_bytes = 0
        self._started_s = time.monotonic()
        self._baseline = _Baseline()

    @property
    def source(self) -> str:
        """The source's id."""
        return self._protocol.source_id

    @property
    def format(self) -> source_pb2.Format:
        """The format as far as it is known."""
        return self._protocol.format

    @property
    def offset(self) -> int:
        """Where the next write goes, in bytes (records for Arrow) of the source."""
        return self._protocol.written_offset

    @property
    def durable_offset(self) -> int:
        """Everything before it is acknowledged: durable, or a dead letter."""
        return self._protocol.durable_offset

    @property
    def accepted_count(self) -> int:
        """Records stored so far."""
        return self._protocol.tally.accepted_count

    @property
    def rejected_count(self) -> int:
        """Records that became dead letters so far."""
        return self._protocol.tally.rejected_count

    @property
    def already_complete(self) -> bool:
        """The source is a dump that was taken in whole before; there is nothing to write."""
        return self._driver.already_complete

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._driver.run(), name=f"ingest {self.source}")
        try:
            await self._until(lambda: self._driver.opened)
            await self._take_baseline()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._protocol.phase is not Phase.FINISHED and self._task is not None:
                await self.flush(timeout_s=self._options.give_up_after_s)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Hang up. What isn't acknowledged is forgotten here; `flush` or `finish` first."""
        task, self._task = self._task, None
        if task is not None:
            await end_task(task)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the source's next bytes; they need not end with a record.

        Returns as soon as they are in the buffer; waits while that is full.

        Raises:
            HeimdallError: The source has failed; the first reason again each time.
        """
        if self._counts_records:
            msg = "this source counts records: use append_arrow"
            raise TypeError(msg)
        view = memoryview(data)
        step = self._options.chunk_bytes
        for start in range(0, len(view), step):
            part = data if isinstance(data, bytes) and len(data) <= step else bytes(view[start : start + step])
            await self._put(part, None)

    async def append_arrow(self, data: pa.Table | pa.RecordBatch) -> None:
        """Take the source's next records.

        Args:
            data: Columns as the server maps them (`time`, `severity`, `service`, `body`, …; others are attributes).

        Raises:
            HeimdallError: The source has failed, or one record is too large.
        """
        if not self._is_arrow:
            msg = "this source counts bytes: open it with format='arrow'"
            raise TypeError(msg)
        bytes_max = min(self._options.chunk_bytes, self._protocol.limits.payload_bytes_max or 2**62)
        batches = data.to_batches() if isinstance(data, pa.Table) else [data]
        for batch in batches:
            pieces = arrow_payloads.payloads(batch, bytes_max=bytes_max)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                await self._put(*piece)

    async def flush(self, *, timeout_s: float = 60.0) -> int:
        """Wait until what was written is durable.

        Returns:
            The durable offset. Less than `offset`: what lies between is an incomplete record, which stays held.

        Raises:
            GaveUpError: It took longer than `timeout_s`.
            HeimdallError: The source has failed.
        """
        protocol = self._protocol
        target, ticket = protocol.written_offset, protocol.want_flush()
        self._changed.notify()
        await self._until(lambda: protocol.is_flushed(ticket) or protocol.durable_offset >= target, timeout_s=timeout_s)
        return protocol.durable_offset

    async def finish(self, *, timeout_s: float | None = None) -> IngestSummary:
        """Say that the source ends here, and wait until all of it is decided.

        Args:
            timeout_s: None: as long as there is progress (see `IngestOptions.give_up_after_s`).

        Raises:
            GaveUpError: It took longer.
            HeimdallError: The source has failed.
        """
        self._protocol.want_finish()
        self._changed.notify()
        await self._until(lambda: self._protocol.phase is Phase.FINISHED, timeout_s=timeout_s)
        return await self.summary()

    async def summary(self) -> IngestSummary:
        """What became of the source so far.

        After a break an acknowledgement may have been lost with its counts; the server is asked then.
        """
        tally = self._protocol.tally
        accepted, rejected = tally.accepted_count, tally.rejected_count
        if self._driver.break_count and self._baseline.known:
            with contextlib.suppress(grpc.aio.AioRpcError):
                source = await self._get_source()
                accepted = source.accepted_count - self._baseline.accepted_count
                rejected = source.rejected_count - self._baseline.rejected_count
        return IngestSummary(
            source=self.source,
            accepted_count=accepted,
            rejected_count=rejected,
            row_errors=list(tally.row_errors),
            start_offset=self._driver.start_offset,
            next_offset=self._protocol.durable_offset,
            position=tally.position,
            format=self._protocol.format,
            elapsed_s=time.monotonic() - self._started_s,
            break_count=self._driver.break_count,
            already_complete=self._driver.already_complete,
        )

    async def _put(self, payload: bytes, count: int | None) -> None:
        await self._until(lambda: self._protocol.has_room)
        self._protocol.write(payload, count=count, now_s=time.monotonic())
        self._changed.notify()
        self._unyielded_bytes += len(payload)
        if self._unyielded_bytes >= YIELD_BYTES:
            self._unyielded_bytes = 0
            await asyncio.sleep(0)

    async def _take_baseline(self) -> None:
        """Remember the source's counts, should acknowledgements be lost later."""
        if self._driver.start_offset and not self._driver.already_complete:
            try:
                source = await self._get_source()
            except grpc.aio.AioRpcError:
                self._baseline.known = False
            else:
                self._baseline = _Baseline(source.accepted_count, source.rejected_count)

    async def _get_source(self) -> source_pb2.Source:
        request = ingest_service_pb2.GetSourceRequest(
            source_id=self.source, dump_content_sha256=self._protocol.dump_content_sha256
        )
        return (await self._stub.GetSource(request, timeout=10.0)).source
