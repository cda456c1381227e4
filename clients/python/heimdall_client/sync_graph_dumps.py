"""The blocking client's methods on dumps in the graph; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from heimdall.graph.v1 import dumps_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.graph_dump_calls import MatchMethod
from heimdall_client.loop_thread import LoopThread

_Result = TypeVar("_Result")


class SyncGraphDumpCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def match_dumps(
        self,
        dump_a: VertexLike,
        dump_b: VertexLike,
        *,
        minimum: float = 0.0,
        method: MatchMethod = "by_size",
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.MatchDumpsResponse:
        """What two dumps have in common; see `AsyncClient.match_dumps`."""
        return self._run(self._twin.match_dumps(dump_a, dump_b, minimum=minimum, method=method, limit=limit, tlp=tlp))
