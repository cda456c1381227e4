"""Hunts as people see, start and end them, and what they found, under the caller's ceiling."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from heimdall_server.domain.errors import NotFoundError, OperationStateError, TokenError
from heimdall_server.domain.graph import ID_BYTES
from heimdall_server.domain.graph_hunting import Hunt
from heimdall_server.domain.graph_ids import dump_id
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph import GraphCuration
from heimdall_server.ports.graph_hunting import HuntStore
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import DUMP_TYPE, Ceiling, Named
from heimdall_server.services.graph.model_hunting import HuntPage, MatchPage

_NUMBER_BYTES: Final = 8


class GraphHunting:
    """See the module."""

    def __init__(
        self,
        store: HuntStore,
        curation: GraphCuration,
        finder: VertexFinder,
        clock: Clock,
        *,
        limits: tuple[int, int] | None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take its parts.

        Args:
            store: Of hunts.
            curation: Knows what was merged.
            finder: Finds vertices by name.
            clock: For times.
            limits: Entities, and matches, of a hunt; None: hunts are off.
            wake: Called when there is something to hunt for.
        """
        self._store = store
        self._curation = curation
        self._finder = finder
        self._clock = clock
        self._limits = limits
        self._wake = wake

    async def hunts(self, ceiling: Ceiling, *, dump: str, page_size: int, token: str) -> HuntPage:
        """A page of hunts, the newest first.

        Raises:
            TokenError: It is damaged.
        """
        after = (0, b"")
        if token:
            raw = _opened(token, _NUMBER_BYTES + ID_BYTES)
            after = (int.from_bytes(raw[:_NUMBER_BYTES], "big"), raw[_NUMBER_BYTES:])
        found = await self._store.hunts(
            tlp_max=ceiling.tlp, dump=dump_id(dump) if dump else b"", after=after, count_max=page_size + 1
        )
        hunts = found[:page_size]
        last = hunts[-1] if len(found) > page_size else None
        return HuntPage(hunts, "" if last is None else _sealed(_number(last.create_time_ns) + last.dump))

    async def matches(
        self, ceiling: Ceiling, *, entity: Named | None, dump: str, page_size: int, token: str
    ) -> MatchPage:
        """A page of matches, the newest first.

        Raises:
            NotFoundError: The entity isn't there, or lies above the ceiling.
            TokenError: The token is damaged.
        """
        before = int.from_bytes(_opened(token, _NUMBER_BYTES), "big") if token else 0
        entities: list[bytes] = []
        if entity is not None:
            _, vertex = await self._finder.find(entity, ceiling.tlp)
            entities = [vertex.id, *(merge.id for merge in await self._curation.parts(vertex.id))]
        found = await self._store.matches(
            tlp_max=ceiling.tlp,
            entities=entities,
            dump=dump_id(dump) if dump else b"",
            before=before,
            count_max=page_size + 1,
        )
        matches = found[:page_size]
        more = len(found) > page_size
        return MatchPage(matches, _sealed(_number(matches[-1].match_id)) if more else "")

    async def start(self, ceiling: Ceiling, *, dump: str, since_ns: int, actor: str) -> tuple[Hunt, bool]:
        """Hunt for all that a dump holds.

        Returns:
            The hunt, and whether it was started: no, where one that goes back as far was under way.

        Raises:
            NotFoundError: There is no such dump, or it lies above the ceiling.
            OperationStateError: Hunts are off.
        """
        if self._limits is None:
            raise OperationStateError("hunt", "off", "the server's graph.hunt.enabled is false")
        _, vertex = await self._finder.find(Named(type=DUMP_TYPE, value=dump), ceiling.tlp)
        started = await self._store.start(
            vertex.id,
            vertex.value,
            tlp=vertex.seen.tlp,
            since_ns=since_ns,
            actor=actor,
            time_ns=self._clock.now_ns(),
            limits=self._limits,
        )
        self._wake()
        return await self._hunt(ceiling, vertex.id, dump), started

    async def cancel(self, ceiling: Ceiling, *, dump: str) -> Hunt:
        """End a hunt, also one that waits for more of its dump.

        Raises:
            NotFoundError: There is none, or it lies above the ceiling.
        """
        id_ = dump_id(dump)
        await self._hunt(ceiling, id_, dump)
        await self._store.cancel(id_, time_ns=self._clock.now_ns())
        return await self._hunt(ceiling, id_, dump)

    async def _hunt(self, ceiling: Ceiling, id_: bytes, dump: str) -> Hunt:
        for hunt in await self._store.hunts(tlp_max=ceiling.tlp, dump=id_, count_max=1):
            return hunt
        raise NotFoundError("hunt for dump", dump)


def _number(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _sealed(place: bytes) -> str:
    """A page token; it tells nothing that its page didn't, so it isn't MACed."""
    return base64.urlsafe_b64encode(place).decode()


def _opened(token: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != size:
        raise TokenError("it isn't of this list")
    return raw
