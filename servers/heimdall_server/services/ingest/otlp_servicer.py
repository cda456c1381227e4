"""OTLP's LogsService, with the request as bytes: the decoder wants them as they came."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb

from heimdall_server.rpc.calls import current_call
from heimdall_server.services.ingest.logic.export import ExportUseCase

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class OtlpLogsServicer:
    """See the OpenTelemetry protocol's specification.

    A request is answered when its records are durable. Rejected records are told in `partial_success`; a request that
    can't be taken now is refused as a whole with RESOURCE_EXHAUSTED or UNAVAILABLE and `RetryInfo`.
    """

    def __init__(self, use_case: ExportUseCase) -> None:
        self._use_case = use_case

    async def export(self, request: bytes, context: Context) -> pb.ExportLogsServiceResponse:  # noqa: ARG002 - gRPC's signature
        """Take in one encoded `ExportLogsServiceRequest`."""
        call = current_call()
        exported = await self._use_case.export(
            call.principal.uri, call.principal.name, request, deadline_s=call.remaining_s()
        )
        response = pb.ExportLogsServiceResponse()
        if exported.rejected_count:
            response.partial_success.rejected_log_records = exported.rejected_count
            response.partial_success.error_message = exported.message
        return response
