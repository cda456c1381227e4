"""The blocking client's methods on the graph; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.loop_thread import LoopThread
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncGraphCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def vertex(self, vertex: VertexLike) -> pb.GetVertexResponse:
        """A vertex; see `AsyncClient.vertex`."""
        return self._run(self._twin.vertex(vertex))

    def neighbourhood(
        self,
        *starts: VertexLike,
        depth: int = 1,
        degree: int = 0,
        limit: int = 0,
        edges: Sequence[str] = (),
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
    ) -> list[pb.TraverseResponse]:
        """A walk; see `AsyncClient.traverse`."""
        return self._run(
            self._twin.neighbourhood(
                *starts, depth=depth, degree=degree, limit=limit, edges=edges, since=since, until=until, tlp=tlp
            )
        )

    def paths(
        self,
        start: VertexLike,
        end: VertexLike,
        *,
        length: int = 0,
        limit: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
    ) -> pb.FindPathsResponse:
        """Ways between two vertices; see `AsyncClient.paths`."""
        return self._run(self._twin.paths(start, end, length=length, limit=limit, since=since, until=until, tlp=tlp))

    def sightings(
        self,
        entity: VertexLike,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.ListSightingsResponse:
        """Sightings of an entity; see `AsyncClient.sightings`."""
        return self._run(self._twin.sightings(entity, since=since, until=until, limit=limit, tlp=tlp))

    def cypher(self, query: str, *, limit: int = 0) -> pb.RunCypherResponse:
        """Run Cypher; see `AsyncClient.cypher`."""
        return self._run(self._twin.cypher(query, limit=limit))
