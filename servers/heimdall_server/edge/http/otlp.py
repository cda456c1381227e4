"""OTLP/HTTP: `POST /v1/logs`, protobuf and JSON. The same use case as gRPC's Export, so repeats are known across both."""

from __future__ import annotations

import asyncio
from typing import Final

from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb

from heimdall_server.edge.http.messages import (
    JSON_TYPE,
    PROTOBUF_TYPE,
    Answer,
    Operation,
    Refusal,
    RefusedError,
    Request,
)
from heimdall_server.edge.http.otlp_json import to_protobuf
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.foreign import FOREIGN_POLICIES, OTLP_LOGS
from heimdall_server.services.ingest.logic.export import ExportUseCase

INGEST: Final = FOREIGN_POLICIES[f"{OTLP_LOGS}/Export"]
"""What every door asks of whoever sends records."""
_PATH: Final = "/v1/logs"


class OtlpDoor:
    """See the module."""

    name = "otlp"

    def __init__(self, use_case: ExportUseCase) -> None:
        self._use_case = use_case
        self._export = Operation("export", INGEST, self.export, takes_body=True)
        # One at a time: the conversion holds the interpreter, and a second one wouldn't be done sooner.
        self._converting = asyncio.Semaphore(1)

    def find(self, request: Request) -> Operation | None:
        """See `Door`."""
        if request.path != _PATH:
            return None
        if request.method != "POST":
            only = f"{_PATH} takes POST only"
            raise RefusedError(405, only, headers={"allow": "POST"})
        return self._export

    async def export(self, request: Request, body: bytes) -> Answer:
        """Take in one request.

        Raises:
            RefusedError: Neither protobuf nor JSON (415), or JSON that isn't such a request (400).
        """
        media_type = request.media_type
        if media_type == JSON_TYPE:
            async with self._converting:
                payload = await asyncio.to_thread(to_protobuf, body)
        elif media_type == PROTOBUF_TYPE:
            payload = body
        else:
            unknown = f"the content type must be {PROTOBUF_TYPE} or {JSON_TYPE}"
            raise RefusedError(415, unknown)
        call = current_call()
        exported = await self._use_case.export(
            call.principal.uri, call.principal.name, payload, deadline_s=call.remaining_s()
        )
        response = pb.ExportLogsServiceResponse()
        if exported.rejected_count:
            response.partial_success.rejected_log_records = exported.rejected_count
            response.partial_success.error_message = exported.message
        if media_type == JSON_TYPE:
            return Answer(200, json_format.MessageToJson(response, indent=None).encode(), JSON_TYPE)
        return Answer(200, response.SerializeToString(), PROTOBUF_TYPE)

    def refuse(self, request: Request, refusal: Refusal) -> Answer:
        """See `Door`: `google.rpc.Status` in the request's content type."""
        if request.media_type == JSON_TYPE:
            told = status_pb2.Status.FromString(refusal.details)
            return Answer(refusal.status, json_format.MessageToJson(told, indent=None).encode(), JSON_TYPE)
        return Answer(refusal.status, refusal.details, PROTOBUF_TYPE)


_DETAILS: Final = error_details_pb2.DESCRIPTOR
"""Linked in, so that a status's details have a form in JSON."""
