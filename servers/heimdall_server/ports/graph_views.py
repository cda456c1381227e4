"""Views of the graph that aren't walks. Whatever is told is visible under the reader's ceiling."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_views import DumpsOf, EntityFilter, EntityPage, SightingsBy, SightingSums


class GraphViews(Protocol):
    """Lists, sums, and what is asked about many entities at once.

    All methods raise StoreError when the engine fails, QueryTimeoutError when it takes too long.
    """

    async def entities(self, filter_: EntityFilter, *, after: bytes = b"", count_max: int = 100) -> EntityPage:
        """A page of entities, those that the graph knows for the shortest time first.

        A page that looked at many which don't pass ends early: it may have few entities, or none, and yet there are more. What comes in
        meanwhile moves nothing.

        Args:
            filter_: Which.
            after: A mark of an earlier page, under the same filter; empty: the first page.
            count_max: Entities of a page.

        Raises:
            TokenError: The entity of the mark is no longer there: it was erased, or the graph was made anew.
        """
        ...

    async def sighting_sums(
        self, entity: bytes, by: SightingsBy, *, tlp_max: Tlp, first_day: int, last_day: int, count_max: int
    ) -> SightingSums:
        """Add up the sightings of an entity and of those that it is merged with.

        Args:
            entity: Its id.
            by: What makes a group.
            tlp_max: The reader's ceiling.
            first_day: Days since 1970, inclusive.
            last_day: The same.
            count_max: Groups at most.
        """
        ...

    async def merged(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, bytes]:
        """Of some entities those that are part of another, and which one stands for them; both are visible. Cheap where nothing is merged."""
        ...

    async def dumps_of(self, ids: Collection[bytes], *, tlp_max: Tlp, count_max: int = 10) -> Mapping[bytes, DumpsOf]:
        """Dumps that entities, and what was merged into them, were sighted in; none for one that was in none.

        Args:
            ids: Entities.
            tlp_max: The reader's ceiling.
            count_max: Dumps of one entity at most.
        """
        ...
