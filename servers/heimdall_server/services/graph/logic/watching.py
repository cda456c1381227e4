"""Watches of the graph: events from the log of events, from a place on, as far as the caller may see them.

A watch reads the log page by page and keeps nothing but its place, so it costs the same however far it is behind, and no event is lost
between history and now: there is only the log. One question a second tells all watches whether there is anything new; who writes events in this process
rings, so that it is asked at once.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Gauge

from heimdall_server.domain.errors import (
    BudgetExceededError,
    DrainingError,
    HeimdallError,
    StreamLaggedError,
    TokenError,
)
from heimdall_server.domain.graph_hunting import EventFilter, EventHead, EventKind
from heimdall_server.domain.graph_ids import dump_id
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph import GraphCuration
from heimdall_server.ports.graph_hunting import EventLog
from heimdall_server.rpc.metrics import LAGGED
from heimdall_server.services.graph.logic.entity_types import wanted_types
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.outbox import WatchOutbox
from heimdall_server.services.graph.model import Ceiling
from heimdall_server.services.graph.model_hunting import Told, WatchAsked

LOG: Final = logging.getLogger(__name__)
_WATCHES: Final = Gauge("heimdall_graph_watches", "Watches of the graph that run")
_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_NUMBER_BYTES: Final = 8
_WATCHED_NS: Final = 3600 * 10**9
_RENEW_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class GraphWatchLimits:
    """Bounds of watches of the graph."""

    watch_count_max: int = 256
    """Of the process."""
    heartbeat_s: float = 10.0
    """A watch says something at least this often."""
    lag_s: float = 30.0
    """A reader that takes nothing for so long is left, with a token."""
    poll_s: float = 1.0
    """How often it is asked whether there is anything new, at least."""
    page_events: int = 256
    """Events that are read at once."""
    scan_events: int = 20_000
    """Events that one statement looks at."""


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """What watches ask."""

    events: EventLog
    curation: GraphCuration
    names: VertexNames
    classes: frozenset[str]
    """Of personal data."""
    clock: Clock
    key: bytes
    """Of the tokens' MAC."""


class GraphWatching:
    """See the module. For one event loop."""

    def __init__(self, ports: WatchPorts, limits: GraphWatchLimits) -> None:
        self._ports = ports
        self._limits = limits
        self._head: EventHead | None = None
        self._asked_s = 0.0
        self._rung = asyncio.Event()
        self._asking = asyncio.Lock()
        self._stale = True
        self.watch_count = 0
        """Watches that run."""

    def ring(self) -> None:
        """There may be new events. Cheap."""
        self._stale = True
        self._rung.set()
        self._rung = asyncio.Event()

    async def watch(self, asked: WatchAsked, ceiling: Ceiling, draining: asyncio.Event) -> AsyncGenerator[Told, None]:
        """Tell what is asked for until the reader hangs up or the server drains.

        Raises:
            TokenError: It isn't ours, is of another request or database, or what came after it was let go.
            InvalidArgumentError, PermissionDeniedError: As `VertexNames.ids` and `wanted_types`.
            BudgetExceededError: There are too many watches.
            StreamLaggedError: The reader took nothing for too long.
            DrainingError: The server goes away.
            StoreError: The log can't be read.
        """
        limits = self._limits
        if self.watch_count >= limits.watch_count_max:
            raise BudgetExceededError(5.0, "watches of the graph", limits.watch_count_max)
        self.watch_count += 1
        _WATCHES.inc()
        try:
            filter_ = await self._filter(asked, ceiling)
            outbox = WatchOutbox(lag_s=limits.lag_s)
            task = asyncio.create_task(self._guarded(asked, filter_, draining, outbox), name="graph-watch")
            try:
                while (told := await outbox.get()) is not None:
                    yield told
            finally:
                task.cancel()
                await asyncio.wait([task])
        finally:
            self.watch_count -= 1
            _WATCHES.dec()

    async def _guarded(
        self, asked: WatchAsked, filter_: EventFilter, draining: asyncio.Event, outbox: WatchOutbox
    ) -> None:
        try:
            await self._follow(asked, filter_, draining, outbox)
        except Exception as error:  # told to the reader, behind what waits for them
            if not isinstance(error, HeimdallError):
                LOG.exception("watch of the graph failed")
            if isinstance(error, StreamLaggedError):
                LAGGED.inc()
            outbox.close(error)

    async def _follow(
        self, asked: WatchAsked, filter_: EventFilter, draining: asyncio.Event, outbox: WatchOutbox
    ) -> None:
        self._stale = True  # a token may be of another process, which has seen more
        limits, head = self._limits, await self._newest()
        place = self._begin(asked, head)
        seal = self._sealer(asked, head)
        at_head_s = said_s = time.monotonic()
        renewed_s = await self._renew(filter_, -_RENEW_S)
        await outbox.put(Told(None, 0.0, seal(place)))
        while not draining.is_set():
            rung = self._rung
            head = await self._newest()
            while place < head.last and not draining.is_set():
                page = await self._ports.events.read(
                    place, filter_, count_max=limits.page_events, scan_max=limits.scan_events
                )
                for event in page.events:
                    await outbox.put(Told(event, 0.0, seal(event.seq)))
                place = page.through
                said_s = time.monotonic() if page.events else said_s
                if time.monotonic() - said_s >= limits.heartbeat_s:
                    break
            now_s = time.monotonic()
            at_head_s = now_s if place >= head.last else at_head_s
            if now_s - said_s >= limits.heartbeat_s and outbox.has_room:
                said_s = now_s
                await outbox.put(Told(None, now_s - at_head_s, seal(place)))
            renewed_s = await self._renew(filter_, renewed_s)
            if place >= head.last:
                await _any_of(rung, draining, timeout_s=limits.poll_s)
        await outbox.put(Told(None, 0.0, seal(place)))
        raise DrainingError

    async def _newest(self) -> EventHead:
        """Where the log ends. Asked once for all who want to know it at about the same time."""
        async with self._asking:
            now_s = time.monotonic()
            if self._head is None or self._stale or now_s - self._asked_s >= self._limits.poll_s:
                self._stale = False
                self._head = await self._ports.events.head()
                self._asked_s = now_s
            return self._head

    async def _filter(self, asked: WatchAsked, ceiling: Ceiling) -> EventFilter:
        entities: set[bytes] = set()
        for named in asked.entities:
            entities.update(await self._ports.names.ids(named))
        for id_ in list(entities):
            entities.update(merge.id for merge in await self._ports.curation.parts(id_))
        return EventFilter(
            ceiling.tlp,
            kinds=asked.kinds or frozenset(EventKind),
            entities=frozenset(entities),
            dumps=frozenset(map(dump_id, asked.dumps)),
            types=wanted_types(asked.types, self._ports.classes),
            labels=frozenset(asked.labels),
        )

    async def _renew(self, filter_: EventFilter, renewed_s: float) -> float:
        """See to it that sightings of entities that are named are told."""
        now_s = time.monotonic()
        if not filter_.entities or now_s - renewed_s < _RENEW_S:
            return renewed_s
        await self._ports.events.watch_entities(filter_.entities, until_ns=self._ports.clock.now_ns() + _WATCHED_NS)
        return now_s

    def _begin(self, asked: WatchAsked, head: EventHead) -> int:
        if not asked.resume_token:
            return head.gone if asked.from_oldest else head.last
        body, mac = asked.resume_token[:-_MAC_BYTES], asked.resume_token[-_MAC_BYTES:]
        if not hmac.compare_digest(self._mac(body), mac):
            raise TokenError("it wasn't made by this instance, or is damaged")
        number = body[len(_VERSION) + len(head.log_id) :][:_NUMBER_BYTES]
        place = int.from_bytes(number, "big")
        if body != self._body(asked, head, place):
            raise TokenError("it belongs to another watch, or to another database")
        if place > head.last:
            raise TokenError("it is ahead of what this server has, which was put back to an earlier state")
        return place

    def _sealer(self, asked: WatchAsked, head: EventHead) -> Callable[[int], bytes]:
        begin = self._body(replace(asked, resume_token=b""), head, 0)
        before, after = len(_VERSION) + len(head.log_id), len(_VERSION) + len(head.log_id) + _NUMBER_BYTES

        def seal(place: int) -> bytes:
            body = begin[:before] + place.to_bytes(_NUMBER_BYTES, "big") + begin[after:]
            return body + self._mac(body)

        return seal

    def _body(self, asked: WatchAsked, head: EventHead, place: int) -> bytes:
        # Keyed: what was asked for may be guessed from a bare digest.
        bound = self._mac(b"asked\0" + asked.spelled)
        return _VERSION + head.log_id + place.to_bytes(_NUMBER_BYTES, "big") + bound

    def _mac(self, message: bytes) -> bytes:
        return hmac.digest(self._ports.key, message, "sha256")[:_MAC_BYTES]


async def _any_of(*events: asyncio.Event, timeout_s: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
