"""The client's methods on hunts: what dumps hold, found in logs, and what is new in the graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Literal

from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_client import errors, status, translate
from heimdall_client.backoff import Backoff
from heimdall_client.connection import Connection
from heimdall_client.graph_calls import Tlp, VertexLike, to_tlp, to_vertex_ref
from heimdall_client.streams import StreamReader
from heimdall_client.translate import TimeLike

SILENT_S_MAX: Final = 45.0
"""Servers say something at least every ten seconds; one that is silent for so long counts as gone."""
GIVE_UP_AFTER_S: Final = 600.0
_PAGE_SIZE: Final = 1_000
GraphEventKind = Literal["match", "sighting", "hunt"]
"""New matches, new sightings of watched entities, how hunts go on."""


class GraphHuntCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def watch_graph(
        self,
        *entities: VertexLike,
        dumps: Sequence[str] = (),
        types: Sequence[str] = (),
        labels: Sequence[str] = (),
        kinds: Sequence[GraphEventKind] = (),
        tlp: Tlp = "",
        resume_token: bytes = b"",
        from_oldest: bool = False,
        on_retry: Callable[[errors.HeimdallError, float], None] | None = None,
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """What is new in the graph, as it comes. It goes on by itself after a break, without loss or repeat.

        Args:
            entities: Only about these; none: all. They become watched: what is seen of them is told.
            dumps: Only about these dumps.
            types: Only about entities of these types.
            labels: Only about entities with one of these labels.
            kinds: Only these; none: all.
            tlp: A lower ceiling than your own.
            resume_token: Go on behind a message; the rest must be as it was.
            from_oldest: Without a token: begin with the oldest event that the server keeps.
            on_retry: Told of a break, and after how many seconds it is tried again.

        Yields:
            Events, each with its token, and `progress` where nothing happens.

        Raises:
            RpcError: A status that trying again won't mend; of these TOKEN_INVALID: what came after the token was let go.
            GaveUpError: There was no progress for ten minutes.
        """
        request = pb.WatchRequest(
            entities=[to_vertex_ref(entity) for entity in entities],
            dumps=dumps,
            types=types,
            labels=labels,
            kinds=[pb.GraphEventKind.Value(f"GRAPH_EVENT_KIND_{kind.upper()}") for kind in kinds],
            tlp_max=to_tlp(tlp),
            resume_token=resume_token,
            from_oldest=from_oldest,
        )
        backoff = Backoff("the watch of the graph", give_up_after_s=GIVE_UP_AFTER_S)
        while True:
            try:
                reader: StreamReader[pb.WatchResponse] = StreamReader(self._graph.Watch(request), address=self._address)
                try:
                    while (response := await self._read(reader)) is not None:
                        backoff.progressed()
                        request.resume_token = response.resume_token
                        yield response
                finally:
                    await reader.aclose()
                raise status.unavailable("the server ended the stream", address=self._address)
            except errors.StreamLaggedError as error:
                delay_s = backoff.next_delay_s(error)
                problem: errors.HeimdallError = error
            except (errors.RpcError, errors.StalledError) as error:
                if isinstance(error, errors.RpcError) and not error.retryable:
                    raise
                delay_s, problem = backoff.next_delay_s(error), error
            if on_retry is not None:
                on_retry(problem, delay_s)
            await asyncio.sleep(delay_s)

    @staticmethod
    async def _read(reader: StreamReader[pb.WatchResponse]) -> pb.WatchResponse | None:
        try:
            return await reader.read(timeout_s=SILENT_S_MAX)
        except TimeoutError:
            raise errors.StalledError(SILENT_S_MAX) from None

    async def hunts(self, dump: str = "", *, limit: int = 1_000) -> list[pb.Hunt]:
        """Hunts, the newest first.

        Args:
            dump: Only this dump's.
            limit: At most so many.
        """
        found: list[pb.Hunt] = []
        token = ""
        while len(found) < limit:
            size = min(_PAGE_SIZE, limit - len(found))
            request = pb.ListHuntsRequest(dump=dump, page_size=size, page_token=token)
            page = await self._unary(self._graph.ListHunts, request)
            found += page.hunts
            token = page.next_page_token
            if not token:
                break
        return found

    async def matches(
        self, entity: VertexLike | None = None, *, dump: str = "", tlp: Tlp = "", limit: int = 1_000
    ) -> list[pb.Match]:
        """Entities of dumps that logs have as well, what was found last first.

        Args:
            entity: Only of this one, and of those that were merged into it.
            dump: Only of this dump.
            tlp: A lower ceiling than your own.
            limit: At most so many.
        """
        found: list[pb.Match] = []
        token = ""
        while len(found) < limit:
            request = pb.ListMatchesRequest(
                entity=None if entity is None else to_vertex_ref(entity),
                dump=dump,
                tlp_max=to_tlp(tlp),
                page_size=min(_PAGE_SIZE, limit - len(found)),
                page_token=token,
            )
            page = await self._unary(self._graph.ListMatches, request)
            found += page.matches
            token = page.next_page_token
            if not token:
                break
        return found

    async def start_hunt(self, dump: str, *, since: TimeLike | None = None) -> pb.StartHuntResponse:
        """Hunt for all that a dump holds; nothing happens where one that goes back as far is under way.

        Args:
            dump: Its name.
            since: Search stored records from then on, also for what the graph knows.
        """
        since_time = None if since is None else translate.to_timestamp(since)
        return await self._unary(self._graph.StartHunt, pb.StartHuntRequest(dump=dump, since_time=since_time))

    async def cancel_hunt(self, dump: str) -> pb.Hunt:
        """End a hunt; only `start_hunt` starts it again."""
        return (await self._unary(self._graph.CancelHunt, pb.CancelHuntRequest(dump=dump))).hunt
