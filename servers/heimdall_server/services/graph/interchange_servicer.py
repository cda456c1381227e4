"""The interchange service's RPCs."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from heimdall.graph.v1 import interchange_service_pb2 as pb
from heimdall.graph.v1 import interchange_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import DrainingError, PermissionDeniedError, StreamProtocolError
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.limits import InflightBytes
from heimdall_server.services.graph import interchange_translate as translate
from heimdall_server.services.graph.callers import ceiling, curator
from heimdall_server.services.graph.logic.interchange.exporting import Exported, GraphExporting
from heimdall_server.services.graph.logic.interchange.importing import GraphImporting, ReaderFactory

AUDITS_ITSELF: Final = frozenset({"ImportStix", "ImportMisp", "ExportStix"})
"""Methods whose use case writes what was allowed, with what it was about; the interceptor writes what was denied or failed."""
REVEAL: Final = "privacy.reveal"
STIX, MISP = "stix", "misp"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class InterchangeUseCases:
    """What the service does."""

    importing: GraphImporting
    exporting: GraphExporting
    readers: Mapping[str, ReaderFactory]
    """By format."""


class InterchangeServicer(pb_grpc.InterchangeServiceServicer):
    """See the contract."""

    def __init__(self, use_cases: InterchangeUseCases, drain: Drain, inflight: InflightBytes) -> None:
        self._use_cases = use_cases
        self._drain = drain
        self._inflight = inflight

    async def ImportStix(
        self, request_iterator: AsyncIterator[pb.ImportStixRequest], context: Context
    ) -> AsyncIterator[pb.ImportStixResponse]:
        """See the contract."""
        async for told in self._import(STIX, request_iterator):
            if isinstance(told, pb.ImportSummary):
                yield pb.ImportStixResponse(summary=told)
            else:
                yield pb.ImportStixResponse(progress=told)

    async def ImportMisp(
        self, request_iterator: AsyncIterator[pb.ImportMispRequest], context: Context
    ) -> AsyncIterator[pb.ImportMispResponse]:
        """See the contract."""
        async for told in self._import(MISP, request_iterator):
            if isinstance(told, pb.ImportSummary):
                yield pb.ImportMispResponse(summary=told)
            else:
                yield pb.ImportMispResponse(progress=told)

    async def ExportStix(self, request: pb.ExportStixRequest, context: Context) -> AsyncIterator[pb.ExportStixResponse]:
        """See the contract."""
        if request.reveal_personal and not current_call().principal.may(REVEAL):
            raise PermissionDeniedError(current_call().principal.uri, REVEAL)
        options = translate.export_in(request)
        pieces = self._use_cases.exporting.run(curator(), options, ceiling(request.tlp_max))
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Exported):
                    yield pb.ExportStixResponse(summary=translate.exported_out(piece))
                else:
                    yield pb.ExportStixResponse(chunk=piece)
                if self._drain.draining:
                    raise DrainingError

    async def _import(
        self, format_: str, requests: AsyncIterator[pb.ImportStixRequest | pb.ImportMispRequest]
    ) -> AsyncIterator[pb.ImportProgress | pb.ImportSummary]:
        requests = aiter(requests)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "open":
            raise StreamProtocolError("the first message of an import opens it")
        options = translate.options_in(first.open)
        # An import holds at most what it reads at once, several times over; HTTP/2 holds the client back meanwhile.
        with await self._inflight.acquire(_HELD_BYTES):
            steps = self._use_cases.importing.run(
                curator(), options, self._use_cases.readers[format_], _chunks(requests)
            )
            async with aclosing(steps):
                async for counts in steps:
                    yield translate.summary_out(counts) if counts.done else translate.progress_out(counts)


_HELD_BYTES: Final = 16 * 1024 * 1024


async def _chunks(requests: AsyncIterator[pb.ImportStixRequest | pb.ImportMispRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("message") != "chunk":
            raise StreamProtocolError("an import is opened once")
        yield request.chunk
