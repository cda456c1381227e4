"""The graph service's RPCs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall.graph.v1 import graph_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import DrainingError
from heimdall_server.ports.warninglists import WarninglistBook
from heimdall_server.rpc.admission import Drain
from heimdall_server.services.graph import translate
from heimdall_server.services.graph.callers import ceiling
from heimdall_server.services.graph.dump_servicer import DumpCalls
from heimdall_server.services.graph.hunt_servicer import HuntCalls, HuntUseCases
from heimdall_server.services.graph.logic.dumps import DumpComparing
from heimdall_server.services.graph.logic.pivot import Pivoting
from heimdall_server.services.graph.logic.reading import GraphReading
from heimdall_server.services.graph.logic.viewing import GraphViewing
from heimdall_server.services.graph.view_servicer import ViewCalls
from heimdall_server.services.graph.warninglist_servicer import WarninglistCalls

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class GraphServicer(HuntCalls, WarninglistCalls, ViewCalls, DumpCalls, pb_grpc.GraphServiceServicer):
    """See the contract."""

    def __init__(
        self,
        reading: GraphReading,
        viewing: GraphViewing,
        pivoting: Pivoting,
        warninglists: WarninglistBook,
        hunts: HuntUseCases,
        comparing: DumpComparing,
        drain: Drain,
    ) -> None:
        self._reading = reading
        self._viewing = viewing
        self._pivoting = pivoting
        self._warninglists = warninglists
        self._hunts = hunts
        self._comparing = comparing
        self._drain = drain

    async def GetVertex(self, request: pb.GetVertexRequest, context: Context) -> pb.GetVertexResponse:
        """See the contract."""
        about = await self._reading.describe(translate.named_in(request.vertex), ceiling(request.tlp_max))
        return translate.described_out(about)

    async def Traverse(self, request: pb.TraverseRequest, context: Context) -> AsyncIterator[pb.TraverseResponse]:
        """See the contract."""
        filter_, limits = translate.walk_in(request)
        starts = [translate.named_in(start) for start in request.starts]
        walk = self._reading.traverse(
            starts, filter_, limits, ceiling(request.tlp_max), with_evidence=request.with_provenances
        )
        async with aclosing(walk) as levels:
            async for level in levels:
                for piece in translate.level_out(level):
                    yield piece
                if self._drain.draining:
                    raise DrainingError

    async def FindPaths(self, request: pb.FindPathsRequest, context: Context) -> pb.FindPathsResponse:
        """See the contract."""
        filter_, limits = translate.paths_in(request)
        found = await self._reading.connect(
            translate.named_in(request.start),
            translate.named_in(request.end),
            filter_,
            limits,
            ceiling(request.tlp_max),
            count_max=request.path_count_max or translate.PATH_COUNT,
        )
        return translate.connected_out(found)

    async def ListSightings(self, request: pb.ListSightingsRequest, context: Context) -> pb.ListSightingsResponse:
        """See the contract."""
        first_day, last_day = translate.days_in(request.time_range)
        found = await self._reading.sightings(
            translate.named_in(request.entity),
            ceiling(request.tlp_max),
            first_day=first_day,
            last_day=last_day,
            count_max=request.count_max or translate.SIGHTING_COUNT,
        )
        return translate.sighted_out(found)

    async def RunCypher(self, request: pb.RunCypherRequest, context: Context) -> pb.RunCypherResponse:
        """See the contract."""
        result = await self._reading.cypher(
            request.query,
            ceiling(),
            row_count_max=request.row_count_max or translate.CYPHER_ROWS,
            time_s=translate.time_in(request.timeout_duration, is_set=request.HasField("timeout_duration")),
        )
        return translate.cypher_out(result)
