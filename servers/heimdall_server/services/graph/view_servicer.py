"""The graph service's RPCs that aren't walks: pivots, lists, sums."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from heimdall.graph.v1 import views_pb2 as pb
from heimdall_server.domain.errors import PermissionDeniedError
from heimdall_server.rpc.calls import current_call
from heimdall_server.services.graph import translate, translate_views
from heimdall_server.services.graph.callers import ceiling
from heimdall_server.services.graph.logic.pivot import Pivoting
from heimdall_server.services.graph.logic.viewing import GraphViewing

SEARCH: Final = "query.search"
"""What a pivot asks for besides `graph.read`: it reads records."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ViewCalls:
    """See the module; a part of `GraphServicer`."""

    _viewing: GraphViewing
    _pivoting: Pivoting

    async def ListEntities(self, request: pb.ListEntitiesRequest, context: Context) -> pb.ListEntitiesResponse:
        """See the contract."""
        page = await self._viewing.entities(
            translate_views.list_in(request),
            ceiling(request.tlp_max),
            page_size=request.page_size or translate_views.PAGE_SIZE,
            token=request.page_token,
        )
        return translate_views.page_out(page)

    async def AggregateSightings(
        self, request: pb.AggregateSightingsRequest, context: Context
    ) -> pb.AggregateSightingsResponse:
        """See the contract."""
        by = translate_views.sums_in(request.by)
        first_day, last_day = translate.days_in(request.time_range)
        sums = await self._viewing.sighting_sums(
            translate.named_in(request.entity),
            by,
            ceiling(request.tlp_max),
            first_day=first_day,
            last_day=last_day,
            count_max=request.group_count_max or translate_views.SUM_GROUPS,
        )
        return translate_views.sums_out(sums, by)

    async def Pivot(self, request: pb.PivotRequest, context: Context) -> AsyncIterator[pb.PivotResponse]:
        """See the contract."""
        caller = current_call().principal
        if not caller.may(SEARCH):
            raise PermissionDeniedError(caller.uri, SEARCH, "going from records to entities")
        asked = translate_views.pivot_in(request)
        pivoted = await self._pivoting.pivot(caller.uri, asked, ceiling(request.tlp_max))
        for piece in translate_views.pivot_out(pivoted):
            yield piece
