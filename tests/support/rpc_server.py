"""A server with tiny servicers whose behaviour a test gives, over real mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from heimdall_server.rpc.status import DETAILS_KEY
from heimdall_server.rpc.tls_files import TlsFiles
from tests.support.pki import Pki

_M = TypeVar("_M", bound=Message)


async def _say_who() -> admin_service_pb2.GetStatusResponse:
    return admin_service_pb2.GetStatusResponse(version=current_call().principal.uri)


async def _no_rows(request: query_service_pb2.SearchRequest) -> AsyncIterator[query_service_pb2.SearchResponse]:
    del request
    yield query_service_pb2.SearchResponse(finished=query_service_pb2.SearchResponse.Finished())


async def _echo_offsets(
    requests: AsyncIterator[ingest_service_pb2.AppendRequest],
) -> AsyncIterator[ingest_service_pb2.AppendResponse]:
    async for request in requests:
        ack = ingest_service_pb2.AppendResponse.Ack(next_offset=request.batch.next_offset)
        yield ingest_service_pb2.AppendResponse(ack=ack)


async def _count_bytes(request: bytes) -> logs_service_pb2.ExportLogsServiceResponse:
    return logs_service_pb2.ExportLogsServiceResponse(
        partial_success=logs_service_pb2.ExportLogsPartialSuccess(error_message=str(len(request)))
    )


@dataclass
class Behaviour:
    """What the servicers do."""

    get_status: Callable[[], Awaitable[Any]] = _say_who
    search: Callable[[Any], AsyncIterator[Any]] = _no_rows
    append: Callable[[AsyncIterator[Any]], AsyncIterator[Any]] = _echo_offsets
    export: Callable[[bytes], Awaitable[Any]] = _count_bytes
    contexts: list[Any] = field(default_factory=list)


class _Admin(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self._behaviour.contexts.append(context)
        return await self._behaviour.get_status()

    async def GetConfig(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return admin_service_pb2.GetConfigResponse(version=1)


class _Query(query_service_pb2_grpc.QueryServiceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def Search(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        async for response in self._behaviour.search(request):
            yield response


class _Ingest(ingest_service_pb2_grpc.IngestServiceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def Append(self, request_iterator: Any, context: Any) -> Any:  # noqa: ARG002, N802
        async for response in self._behaviour.append(request_iterator):
            yield response


@asynccontextmanager
async def serving(
    pki: Pki,
    behaviour: Behaviour | None = None,
    *,
    files: TlsFiles | None = None,
    access: AccessPolicy | None = None,
    limits: RpcLimits | None = None,
) -> AsyncIterator[RpcServer]:
    """A running server on ports of the system's choice."""
    behaviour = behaviour or Behaviour()
    server = RpcServer(
        ListenConfig("127.0.0.1:0", "127.0.0.1:0"),
        files or pki.tls_files(),
        access or AccessPolicy.default(pki.trust_domain),
        limits=limits,
    )
    # The servicers leave methods out, which the stubs call abstract.
    server.add(
        "heimdall.admin.v1.AdminService",
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
        cast("Any", _Admin)(behaviour),
    )
    server.add(
        "heimdall.query.v1.QueryService",
        query_service_pb2_grpc.add_QueryServiceServicer_to_server,
        cast("Any", _Query)(behaviour),
    )
    server.add(
        "heimdall.ingest.v1.IngestService",
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server,
        cast("Any", _Ingest)(behaviour),
    )
    server.add_otlp_logs(lambda request, _: behaviour.export(request))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get_status(channel: grpc.aio.Channel, **call: Any) -> admin_service_pb2.GetStatusResponse:
    """Call AdminService.GetStatus."""
    stub = admin_service_pb2_grpc.AdminServiceStub(channel)
    call.setdefault("timeout", 5)
    response: admin_service_pb2.GetStatusResponse = await stub.GetStatus(admin_service_pb2.GetStatusRequest(), **call)
    return response


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status of an error."""
    values = [value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY]
    assert isinstance(values[0], bytes)
    return status_pb2.Status.FromString(values[0])


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """The one ErrorInfo of a status."""
    infos = unpack_all(status, error_details_pb2.ErrorInfo)
    assert len(infos) == 1
    return infos[0]


def unpack_all(status: status_pb2.Status, kind: type[_M]) -> list[_M]:
    """The details of one kind."""
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found
