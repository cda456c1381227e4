"""The client's methods on views of the graph: from logs to entities, lists, sums of sightings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import grpc.aio

from heimdall.graph.v1 import views_pb2 as pb
from heimdall_client import status, translate
from heimdall_client.connection import Connection
from heimdall_client.graph_calls import WALK_TIMEOUT_S, Tlp, VertexLike, to_tlp, to_vertex_ref
from heimdall_client.translate import TimeLike

By = Literal["day", "hour", "source", "dump"]
PIVOT_TIMEOUT_S: Final = 180.0
_PAGE_SIZE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Pivot:
    """What records name."""

    entities: Sequence[pb.PivotResponse.Entity]
    """Those of the most records first."""
    summary: pb.PivotResponse.Summary
    """What was read, and what the answer lacks."""


class GraphViewCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def pivot(
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
        """Go from logs to entities: what the records of a query name, and what the graph knows of it.

        Args:
            query: A filter in the query language, without pipes.
            to: Types of entities (`ip`, `domain`, `email`, …); none: all.
            minimum: Only entities that at least so many records name.
            since: Only records from it on.
            until: Only records before it.
            datasets: Only these; none: all.
            limit: Entities at most; 0: 100.
            record_limit: Records read at most, the newest ones; 0: 100,000.
            timeout_s: For reading records; None: 20 s. What was read by then counts, and the summary says so.
            tlp: A lower ceiling than your own, for records, too.
        """
        request = pb.PivotRequest(
            query=query,
            time_range=translate.to_time_range(since, until),
            datasets=datasets,
            types=to,
            record_count_min=minimum,
            entity_count_max=limit,
            record_scan_max=record_limit,
            tlp_max=to_tlp(tlp),
            timeout_duration=None if timeout_s is None else translate.to_duration(timeout_s),
        )
        entities: list[pb.PivotResponse.Entity] = []
        summary = pb.PivotResponse.Summary()
        call = self._graph.Pivot(request, timeout=PIVOT_TIMEOUT_S)
        try:
            async for piece in call:
                entities += piece.entities
                if piece.HasField("summary"):
                    summary = piece.summary
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        finally:
            call.cancel()
        return Pivot(entities, summary)

    async def iterate_entities(
        self,
        *,
        types: Sequence[str] = (),
        label: str = "",
        confidence: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        page_size: int = _PAGE_SIZE,
    ) -> AsyncGenerator[pb.ListEntitiesResponse.Entity, None]:
        """Entities, the latest that came to the graph first, asked for page by page.

        Args:
            types: Of entities; none: all.
            label: Only those with this one; empty: any.
            confidence: Only those that are as sure, 0 to 100.
            since: Only those last seen at or after it.
            until: Only those first seen before it.
            tlp: A lower ceiling than your own.
            page_size: Entities asked for at a time, up to 1,000.
        """
        request = pb.ListEntitiesRequest(
            types=types,
            label=label,
            confidence_min=confidence,
            time_range=translate.to_time_range(since, until),
            tlp_max=to_tlp(tlp),
            page_size=page_size,
        )
        while True:
            page = await self._unary(self._graph.ListEntities, request, timeout_s=WALK_TIMEOUT_S)
            for one in page.entities:
                yield one
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def entities(
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
        """The first entities of `iterate_entities`; at most `limit`."""
        found: list[pb.ListEntitiesResponse.Entity] = []
        entities = self.iterate_entities(
            types=types,
            label=label,
            confidence=confidence,
            since=since,
            until=until,
            tlp=tlp,
            page_size=min(_PAGE_SIZE, max(1, limit)),
        )
        async with aclosing(entities):
            async for one in entities:
                found.append(one)
                if len(found) >= limit:
                    break
        return found

    async def sum_sightings(
        self,
        entity: VertexLike,
        *,
        by: By = "day",
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.AggregateSightingsResponse:
        """Add up how often an entity was seen.

        Args:
            entity: Which.
            by: What makes a sum.
            since: Only days that reach it.
            until: Only days that begin before it.
            limit: Sums at most; 0: 1,000. The total is of all.
            tlp: A lower ceiling than your own.
        """
        request = pb.AggregateSightingsRequest(
            entity=to_vertex_ref(entity),
            time_range=translate.to_time_range(since, until),
            by=pb.AggregateSightingsRequest.By.Value(f"BY_{by.upper()}"),
            group_count_max=limit,
            tlp_max=to_tlp(tlp),
        )
        return await self._unary(self._graph.AggregateSightings, request, timeout_s=WALK_TIMEOUT_S)
