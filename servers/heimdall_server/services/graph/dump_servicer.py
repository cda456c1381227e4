"""The graph service's RPC about dumps."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from heimdall.graph.v1 import dumps_pb2 as pb
from heimdall_server.services.graph import translate, translate_dumps
from heimdall_server.services.graph.callers import ceiling
from heimdall_server.services.graph.logic.dumps import DumpComparing

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class DumpCalls:
    """See the module; a part of `GraphServicer`."""

    _comparing: DumpComparing

    async def MatchDumps(self, request: pb.MatchDumpsRequest, context: Context) -> pb.MatchDumpsResponse:
        """See the contract."""
        found = await self._comparing.match(
            translate.named_in(request.dump_a),
            translate.named_in(request.dump_b),
            ceiling(request.tlp_max),
            method=translate_dumps.method_in(request.method),
            containment_min=request.containment_min,
            count_max=request.match_count_max or translate_dumps.MATCH_COUNT,
            time_s=translate.time_in(request.timeout_duration, is_set=request.HasField("timeout_duration")),
        )
        return translate_dumps.matched_out(found)
