"""The graph service's RPC about warninglists."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc

from heimdall.graph.v1 import warninglists_pb2 as pb
from heimdall_server.domain.warninglists import Warninglist
from heimdall_server.ports.warninglists import WarninglistBook

PROBLEMS_TOLD: Final = 100
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class WarninglistCalls:
    """See the module; a part of `GraphServicer`."""

    _warninglists: WarninglistBook

    async def ListWarninglists(
        self, request: pb.ListWarninglistsRequest, context: Context
    ) -> pb.ListWarninglistsResponse:
        """See the contract."""
        found = await self._warninglists.in_force()
        return pb.ListWarninglistsResponse(
            warninglists=[_warninglist_out(one) for one in found.lists], problems=found.problems[:PROBLEMS_TOLD]
        )


def _warninglist_out(one: Warninglist) -> pb.Warninglist:
    return pb.Warninglist(
        name=one.name,
        title=one.title,
        description=one.description,
        source=one.source,
        licence=one.licence,
        version=one.version,
        match=one.match.value,
        types=one.types,
        entry_count=len(one.entries),
        confidence=one.confidence,
        stops_walks=one.stops_walks,
    )
