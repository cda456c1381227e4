"""Ingest on a real journal behind real mutual TLS; no store, since acknowledgements don't need one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import google_crc32c
import grpc
import pyarrow as pa
import pyarrow.compute as pc
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc, source_pb2
from heimdall_server.domain.records import with_position
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Frame
from heimdall_server.ports.protector import Protector
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.texts import masked_text
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from heimdall_server.rpc.status import DETAILS_KEY
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.names import StoredNames
from heimdall_server.services.ingest.logic.pipeline import Pipeline, PipelineLimits
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.otlp_servicer import OtlpLogsServicer
from heimdall_server.services.ingest.servicer import IngestServicer
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.disk import OS_DISK, Disk
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from tests.support.journal import KEY
from tests.support.pki import TRUST_DOMAIN, Pki

Requests = Iterable[pb.AppendRequest] | AsyncIterator[pb.AppendRequest]


@dataclass
class IngestServer:
    """A running server and a client of it."""

    journal: EmbeddedJournal
    state: IngestState
    rpc: RpcServer
    pipeline: Pipeline
    append_use_case: AppendUseCase
    channel: grpc.aio.Channel
    stub: Any = field(init=False)
    otlp: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        self.otlp = cast("Any", logs_service_pb2_grpc).LogsServiceStub(self.channel)

    async def append(self, requests: Requests, *, timeout_s: float = 20) -> list[pb.AppendResponse]:
        """Everything that the server says to these requests."""
        return [response async for response in self.stub.Append(requests, timeout=timeout_s)]

    async def send(self, source: str, data: bytes, *, payload_bytes: int = 1 << 20, **opening: Any) -> Sent:
        """Feed a whole source, from where the server has it.

        Only once the server has said something to the opening: gRPC forgets why a stream was refused if it is just being written to.
        """
        heard = asyncio.Event()
        first, *others = whole(source, data, payload_bytes=payload_bytes, **opening)

        async def requests() -> AsyncIterator[pb.AppendRequest]:
            yield first
            await heard.wait()
            for request in others:
                yield request

        responses = []
        async for response in self.stub.Append(requests(), timeout=20):
            heard.set()
            responses.append(response)
        return Sent(responses)

    def talk(self, *requests: pb.AppendRequest) -> Talk:
        """A stream that is written and read in turns, begun with these requests."""
        return Talk(self.stub.Append(timeout=20), list(requests))

    async def frames(self) -> list[Frame]:
        """Every frame that the journal holds."""
        after, through = self.journal.tail()[0] - 1, self.journal.head()[0]
        return [frame async for frame in self.journal.read(0, after=after, through=through)]

    async def records(self) -> pa.Table:
        """Every record of the journal, in order."""
        batches = [
            with_position(frame.entry.batch, shard=0, position=frame.position)
            for frame in await self.frames()
            if frame.entry.batch is not None
        ]
        return pa.Table.from_batches(batches) if batches else pa.table({"body": pa.array([], pa.string())})

    async def bodies(self) -> list[str]:
        """The bodies of all records, in journal order."""
        bodies: list[str] = (await self.records()).column("body").to_pylist()
        return bodies

    async def records_of(self, source: str) -> list[dict[str, Any]]:
        """One source's records, in journal order."""
        table = await self.records()
        if "source" not in table.column_names:
            return []
        rows: list[dict[str, Any]] = table.filter(pc.equal(table["source"], source)).to_pylist()
        return rows

    async def bodies_of(self, source: str) -> list[str]:
        """The bodies of one source's records, in journal order."""
        return [row["body"] for row in await self.records_of(source)]


def reason_of(status: status_pb2.Status) -> str:
    """The reason in a status's `ErrorInfo`."""
    info = error_details_pb2.ErrorInfo()
    return next((str(info.reason) for detail in status.details if detail.Unpack(info)), "")


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The status that a call ended with."""
    metadata: Any = error.trailing_metadata()
    return status_pb2.Status.FromString(dict(metadata)[DETAILS_KEY])


def reason_of_call(error: grpc.aio.AioRpcError) -> str:
    """The reason that a call ended with."""
    return reason_of(status_of(error))


def retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """The delay in a call's `RetryInfo`; None: it has none."""
    info = error_details_pb2.RetryInfo()
    for detail in status_of(error).details:
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None


@dataclass
class Talk:
    """One Append stream."""

    call: Any
    waiting: list[pb.AppendRequest] = field(default_factory=list)
    seen: list[pb.AppendResponse] = field(default_factory=list)

    async def write(self, *requests: pb.AppendRequest) -> None:
        """Send, without waiting for answers."""
        waiting, self.waiting = [*self.waiting, *requests], []
        for request in waiting:
            await self.call.write(request)

    async def read(self) -> pb.AppendResponse | None:
        """The next answer; None: the stream is over."""
        await self.write()
        response = await self.call.read()
        if response is grpc.aio.EOF:
            return None
        assert isinstance(response, pb.AppendResponse)
        self.seen.append(response)
        return response

    async def until(self, kind: str) -> pb.AppendResponse:
        """The next answer of a kind."""
        while (response := await self.read()) is not None:
            if response.WhichOneof("message") == kind:
                return response
        raise AssertionError(kind)

    async def rest(self) -> list[pb.AppendResponse]:
        """Everything to the stream's end."""
        rest = []
        while (response := await self.read()) is not None:
            rest.append(response)
        return rest


@dataclass
class Sent:
    """The answers to a stream."""

    responses: Sequence[pb.AppendResponse]

    def of(self, kind: str) -> list[Any]:
        """The messages of one kind."""
        return [getattr(one, kind) for one in self.responses if one.WhichOneof("message") == kind]

    @property
    def finished(self) -> pb.AppendResponse.Finished:
        """How it ended."""
        (finished,) = self.of("finished")
        assert isinstance(finished, pb.AppendResponse.Finished)
        return finished

    @property
    def row_errors(self) -> list[pb.AppendResponse.RowError]:
        """Every row error."""
        return [error for ack in self.of("ack") for error in ack.row_errors]


def opening(source: str, **fields: Any) -> pb.AppendRequest:
    """An `open`; `format` may be a kind."""
    kind = fields.pop("kind", None)
    if kind is not None:
        fields["format"] = source_pb2.Format(kind=kind, options=fields.pop("options", {}))
    return pb.AppendRequest(open=pb.AppendRequest.Open(source_id=source, **fields))


def batch(offset: int, payload: bytes, *, next_offset: int | None = None, crc: int | None = None) -> pb.AppendRequest:
    """A `batch`, right unless told otherwise."""
    return pb.AppendRequest(
        batch=pb.AppendRequest.Batch(
            offset=offset,
            next_offset=offset + len(payload) if next_offset is None else next_offset,
            crc32c=google_crc32c.value(payload) if crc is None else crc,
            payload=payload,
        )
    )


FINISH = pb.AppendRequest(finish=pb.AppendRequest.Finish())
FLUSH = pb.AppendRequest(flush=pb.AppendRequest.Flush())


def whole(
    source: str, data: bytes, *, start: int = 0, payload_bytes: int = 1 << 20, **fields: Any
) -> Sequence[pb.AppendRequest]:
    """The requests that feed a source from an offset to its end."""
    pieces = [batch(offset, data[offset : offset + payload_bytes]) for offset in range(start, len(data), payload_bytes)]
    return [opening(source, **fields), *pieces, FINISH]


@asynccontextmanager
async def ingest_server(
    pki: Pki,
    folder: Path,
    *,
    journal: dict[str, Any] | None = None,
    limits: RpcLimits | None = None,
    pipeline_limits: PipelineLimits | None = None,
    keep_raw: bool = True,
    clock: Clock | None = None,
    disk: Disk = OS_DISK,
    protector: Protector | None = None,
    deleting: Callable[[], bool] = lambda: False,
) -> AsyncIterator[IngestServer]:
    """A server on the journal in `folder`; opened again, it goes on from there."""
    clock = clock or SystemClock()
    config = JournalConfig(
        **{"path": folder / "journal", "segment_bytes": 8 << 20, "bytes_max": 1 << 30, "retain_bytes": 1 << 29,
           "disk_reserve_bytes": 0, **(journal or {})}
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        opened = await EmbeddedJournal.open(config, key=KEY, clock=clock, disk=disk)
        stack.push_async_callback(opened.close)
        state = IngestState(source_count_max=1_000)
        await opened.maintain(state)
        pipeline = Pipeline(
            journal=opened,
            protector=protector or PolicyProtector(),
            clock=clock,
            limits=pipeline_limits or PipelineLimits(),
        )
        pipeline.start()
        stack.push_async_callback(pipeline.close)
        rpc = RpcServer(
            ListenConfig("127.0.0.1:0", ""), pki.tls_files(), AccessPolicy.default(TRUST_DOMAIN), limits=limits
        )
        append = AppendUseCase(
            state=state,
            pipeline=pipeline,
            clock=clock,
            datasets=("logs", "dumps"),
            keep_raw=keep_raw,
            names=StoredNames(masked_text, KEY.derive("source names")),
        )
        servicer = IngestServicer(
            append=append,
            retry=RetryUseCase(state=state, pipeline=pipeline, journal=opened, deleting=deleting),
            state=state,
            journal_id=opened.journal_id,
            clock=clock,
            limits=rpc.limits,
            budget=rpc.inflight,
            drain=rpc.drain_signal,
        )
        export = ExportUseCase(pipeline=pipeline, state=state, clock=clock, dataset="logs", keep_raw=keep_raw)
        rpc.add(
            "heimdall.ingest.v1.IngestService", ingest_service_pb2_grpc.add_IngestServiceServicer_to_server, servicer
        )
        rpc.add_otlp_logs(OtlpLogsServicer(export).export)
        await rpc.start()
        stack.push_async_callback(rpc.stop)
        channel = await stack.enter_async_context(pki.channel(rpc.mesh_address, pki.leaf("admin")))
        yield IngestServer(opened, state, rpc, pipeline, append, channel)
