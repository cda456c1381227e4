"""The graph service's RPCs about hunts, matches and what is new."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.services.graph import translate, translate_hunting
from heimdall_server.services.graph.callers import ceiling
from heimdall_server.services.graph.logic.hunting import GraphHunting
from heimdall_server.services.graph.logic.watching import GraphWatching

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class HuntUseCases:
    """What is behind these calls."""

    hunting: GraphHunting
    watching: GraphWatching


class HuntCalls:
    """See the module; a part of `GraphServicer`."""

    _hunts: HuntUseCases
    _drain: Drain

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """See the contract."""
        asked = translate_hunting.watch_in(request)
        watch = self._hunts.watching.watch(asked, ceiling(request.tlp_max), self._drain.event)
        async with aclosing(watch) as told:
            async for one in told:
                yield translate_hunting.told_out(one)

    async def ListHunts(self, request: pb.ListHuntsRequest, context: Context) -> pb.ListHuntsResponse:
        """See the contract."""
        page = await self._hunts.hunting.hunts(
            ceiling(),
            dump=request.dump,
            page_size=request.page_size or translate_hunting.PAGE_SIZE,
            token=request.page_token,
        )
        return translate_hunting.hunts_out(page)

    async def ListMatches(self, request: pb.ListMatchesRequest, context: Context) -> pb.ListMatchesResponse:
        """See the contract."""
        page = await self._hunts.hunting.matches(
            ceiling(request.tlp_max),
            entity=translate.named_in(request.entity) if request.HasField("entity") else None,
            dump=request.dump,
            page_size=request.page_size or translate_hunting.PAGE_SIZE,
            token=request.page_token,
        )
        return translate_hunting.matches_out(page)

    async def StartHunt(self, request: pb.StartHuntRequest, context: Context) -> pb.StartHuntResponse:
        """See the contract."""
        since_ns = max(1, request.since_time.ToNanoseconds()) if request.HasField("since_time") else 0
        hunt, started = await self._hunts.hunting.start(
            ceiling(), dump=request.dump, since_ns=since_ns, actor=current_call().principal.uri
        )
        return pb.StartHuntResponse(hunt=translate_hunting.hunt_out(hunt), started=started)

    async def CancelHunt(self, request: pb.CancelHuntRequest, context: Context) -> pb.CancelHuntResponse:
        """See the contract."""
        hunt = await self._hunts.hunting.cancel(ceiling(), dump=request.dump)
        return pb.CancelHuntResponse(hunt=translate_hunting.hunt_out(hunt))
