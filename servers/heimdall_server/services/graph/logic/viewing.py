"""Lists of entities and sums of sightings, under the caller's ceiling."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph_views import EntityFilter, ListedEntity, SightingsBy, SightingSums
from heimdall_server.ports.graph import GraphCuration
from heimdall_server.ports.graph_views import GraphViews
from heimdall_server.services.graph.logic.entity_types import wanted_types
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import Ceiling, Named

_BOUND_BYTES: Final = 8
VALUE_CHARACTERS_MAX: Final = 192 * 1024
"""Of one page's values; characters may be four bytes, and a message one MiB."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of entities."""

    entities: Sequence[ListedEntity]
    labels: dict[bytes, list[str]]
    """By vertex."""
    next_token: str


class GraphViewing:
    """See the module."""

    def __init__(
        self, views: GraphViews, curation: GraphCuration, finder: VertexFinder, classes: frozenset[str]
    ) -> None:
        self._views = views
        self._curation = curation
        self._finder = finder
        self._classes = classes

    async def entities(self, filter_: EntityFilter, ceiling: Ceiling, *, page_size: int, token: str) -> Page:
        """A page of entities.

        Args:
            filter_: Which; the ceiling of it isn't looked at.
            ceiling: Of the caller.
            page_size: Entities at most.
            token: Of the page before; empty: the first page.

        Raises:
            InvalidArgumentError: There is no such type.
            TokenError: It is damaged, of another request, or of a graph that was made anew since.
        """
        filter_ = replace(filter_, tlp_max=ceiling.tlp, types=wanted_types(filter_.types, self._classes))
        after = _opened(token, filter_) if token else b""
        page = await self._views.entities(filter_, after=after, count_max=page_size)
        told, next_after = _short(page.entities, page.next_after)
        ids = [one.vertex.id for one in told]
        labels: dict[bytes, list[str]] = {}
        for label in await self._curation.labels(ids, tlp_max=ceiling.tlp) if ids else ():
            labels.setdefault(label.id, []).append(label.label)
        return Page(told, labels, _sealed(next_after, filter_) if next_after else "")

    async def sighting_sums(
        self, named: Named, by: SightingsBy, ceiling: Ceiling, *, first_day: int, last_day: int, count_max: int
    ) -> SightingSums:
        """Sums of an entity's sightings.

        Raises:
            NotFoundError: It isn't there, or lies above the ceiling.
        """
        id_, _ = await self._finder.find(named, ceiling.tlp)
        return await self._views.sighting_sums(
            id_, by, tlp_max=ceiling.tlp, first_day=first_day, last_day=last_day, count_max=count_max
        )


def _short(entities: Sequence[ListedEntity], next_after: bytes) -> tuple[Sequence[ListedEntity], bytes]:
    """As many as fit into a message, at least one; the next page begins behind them."""
    size = 0
    for number, one in enumerate(entities):
        size += len(one.vertex.value)
        if size > VALUE_CHARACTERS_MAX and number:
            return entities[:number], entities[number - 1].mark
    return entities, next_after


def _sealed(after: bytes, filter_: EntityFilter) -> str:
    """A page token: behind which entity it goes on, and of which request it is. It tells nothing that its page didn't, so it isn't MACed."""
    return base64.urlsafe_b64encode(_digest(filter_) + after).decode()


def _opened(token: str, filter_: EntityFilter) -> bytes:
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except ValueError as error:
        raise TokenError("it is damaged") from error
    if len(raw) <= _BOUND_BYTES:
        raise TokenError("it is damaged")
    if raw[:_BOUND_BYTES] != _digest(filter_):
        raise TokenError("it belongs to another request")
    return raw[_BOUND_BYTES:]


def _digest(filter_: EntityFilter) -> bytes:
    numbers = (int(filter_.tlp_max), filter_.confidence_min, filter_.since_ns, filter_.until_ns)
    told = repr((numbers, sorted(filter_.types), filter_.label))
    return hashlib.blake2b(told.encode(), digest_size=_BOUND_BYTES, person=b"heimdall page v1").digest()
