"""Loki's push: `POST /loki/api/v1/push`, protobuf (snappy) and JSON, and the question whether the server is ready."""

from __future__ import annotations

import asyncio
from typing import Final

from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.edge.http import loki_entries
from heimdall_server.edge.http.messages import (
    JSON_TYPE,
    PROTOBUF_TYPE,
    TEXT_TYPE,
    Answer,
    Operation,
    Refusal,
    RefusedError,
    Request,
)
from heimdall_server.edge.http.otlp import INGEST
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.foreign import ANY_AUTHENTICATED
from heimdall_server.services.ingest.logic.export import ExportUseCase

_PATHS: Final = ("/loki/api/v1/push", "/api/prom/push")


class LokiDoor:
    """See the module."""

    name = "loki"

    def __init__(self, use_case: ExportUseCase) -> None:
        self._use_case = use_case
        self._push = Operation("push", INGEST, self.push, takes_body=True, snappy_type=PROTOBUF_TYPE)
        self._ready = Operation("ready", MethodPolicy(permission=ANY_AUTHENTICATED), self._is_ready)

    def find(self, request: Request) -> Operation | None:
        """See `Door`."""
        if request.path == "/ready" and request.method in ("GET", "HEAD"):
            return self._ready
        if request.path not in _PATHS:
            return None
        if request.method != "POST":
            only = f"{request.path} takes POST only"
            raise RefusedError(405, only, headers={"allow": "POST"})
        return self._push

    async def push(self, request: Request, body: bytes) -> Answer:
        """Take in one push. As Loki has it: if some entries are refused, the others are stored and the answer is 400.

        Raises:
            RefusedError: Neither protobuf nor JSON (415), or not such a request (400).
        """
        if request.media_type == JSON_TYPE:
            read = loki_entries.of_json
        elif request.media_type in (PROTOBUF_TYPE, ""):
            read = loki_entries.of_protobuf
        else:
            unknown = f"the content type must be {PROTOBUF_TYPE} or {JSON_TYPE}"
            raise RefusedError(415, unknown)
        lines = await asyncio.to_thread(lambda: loki_entries.to_documents(read(body)))
        if not lines:
            return Answer(204)
        call = current_call()
        exported = await self._use_case.export(
            call.principal.uri, call.principal.name, lines, deadline_s=call.remaining_s()
        )
        if exported.rejected_count:
            total = exported.accepted_count + exported.rejected_count
            raise RefusedError(400, f"{exported.rejected_count} of {total} entries refused: {exported.message}")
        return Answer(204)

    def refuse(self, request: Request, refusal: Refusal) -> Answer:  # noqa: ARG002 - as `Door`
        """See `Door`: text."""
        return Answer(refusal.status, f"{refusal.sentence}\n".encode(), TEXT_TYPE)

    async def _is_ready(self, request: Request, _: bytes) -> Answer:  # noqa: ARG002 - as other operations
        return Answer(200, b"ready\n", TEXT_TYPE)
