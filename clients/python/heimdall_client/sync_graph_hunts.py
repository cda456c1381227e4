"""The blocking client's methods on hunts; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.errors import HeimdallError
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.graph_hunt_calls import GraphEventKind
from heimdall_client.loop_thread import LoopThread
from heimdall_client.sync_streams import iterate
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncGraphHuntCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def watch_graph(
        self,
        *entities: VertexLike,
        dumps: Sequence[str] = (),
        types: Sequence[str] = (),
        labels: Sequence[str] = (),
        kinds: Sequence[GraphEventKind] = (),
        tlp: Tlp = "",
        resume_token: bytes = b"",
        from_oldest: bool = False,
        on_retry: Callable[[HeimdallError, float], None] | None = None,
    ) -> Iterator[pb.WatchResponse]:
        """What is new in the graph; see `AsyncClient.watch_graph`."""
        watch = self._twin.watch_graph(
            *entities,
            dumps=dumps,
            types=types,
            labels=labels,
            kinds=kinds,
            tlp=tlp,
            resume_token=resume_token,
            from_oldest=from_oldest,
            on_retry=on_retry,
        )
        return iterate(self._portal, watch)

    def hunts(self, dump: str = "", *, limit: int = 1_000) -> list[pb.Hunt]:
        """Hunts; see `AsyncClient.hunts`."""
        return self._run(self._twin.hunts(dump, limit=limit))

    def matches(
        self, entity: VertexLike | None = None, *, dump: str = "", tlp: Tlp = "", limit: int = 1_000
    ) -> list[pb.Match]:
        """Entities of dumps that logs have as well; see `AsyncClient.matches`."""
        return self._run(self._twin.matches(entity, dump=dump, tlp=tlp, limit=limit))

    def start_hunt(self, dump: str, *, since: TimeLike | None = None) -> pb.StartHuntResponse:
        """Hunt for all that a dump holds; see `AsyncClient.start_hunt`."""
        return self._run(self._twin.start_hunt(dump, since=since))

    def cancel_hunt(self, dump: str) -> pb.Hunt:
        """End a hunt; see `AsyncClient.cancel_hunt`."""
        return self._run(self._twin.cancel_hunt(dump))
