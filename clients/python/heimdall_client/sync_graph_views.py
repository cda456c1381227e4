"""The blocking client's methods on views of the graph; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from heimdall.graph.v1 import views_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.graph_view_calls import By, Pivot
from heimdall_client.loop_thread import LoopThread
from heimdall_client.sync_streams import iterate
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncGraphViewCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def pivot(
        self,
        query: str,
        *,
        to: Sequence[str] = (),
        minimum: int = 1,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 0,
        record_limit: int = 0,
        timeout_s: float | None = None,
        tlp: Tlp = "",
    ) -> Pivot:
        """From logs to entities; see `AsyncClient.pivot`."""
        return self._run(
            self._twin.pivot(
                query,
                to=to,
                minimum=minimum,
                since=since,
                until=until,
                datasets=datasets,
                limit=limit,
                record_limit=record_limit,
                timeout_s=timeout_s,
                tlp=tlp,
            )
        )

    def iterate_entities(
        self,
        *,
        types: Sequence[str] = (),
        label: str = "",
        confidence: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        page_size: int = 1_000,
    ) -> Iterator[pb.ListEntitiesResponse.Entity]:
        """Entities, page by page; see `AsyncClient.iterate_entities`."""
        entities = self._twin.iterate_entities(
            types=types, label=label, confidence=confidence, since=since, until=until, tlp=tlp, page_size=page_size
        )
        return iterate(self._portal, entities)

    def entities(
        self,
        *,
        types: Sequence[str] = (),
        label: str = "",
        confidence: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        limit: int = 100,
    ) -> list[pb.ListEntitiesResponse.Entity]:
        """The first entities; see `AsyncClient.entities`."""
        return self._run(
            self._twin.entities(
                types=types, label=label, confidence=confidence, since=since, until=until, tlp=tlp, limit=limit
            )
        )

    def sum_sightings(
        self,
        entity: VertexLike,
        *,
        by: By = "day",
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.AggregateSightingsResponse:
        """Sums of sightings; see `AsyncClient.sum_sightings`."""
        return self._run(self._twin.sum_sightings(entity, by=by, since=since, until=until, limit=limit, tlp=tlp))
