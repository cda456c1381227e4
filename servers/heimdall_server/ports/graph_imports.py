"""The log of imports: what other programs told us, as truth that the graph's facts are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_imports import ImportedEntity, ImportRow, KeptObject


class ImportLog(Protocol):
    """Rows in a dense order, from 1.

    Guarantees: what `append` returned from is durable; a row whose digest is there is not added again; rows have consecutive numbers in the
    order in which they became visible, so whoever has read up to a number misses none. Survives `GraphWriter.forget`. An erased row leaves a gap.

    All methods raise StoreError when the engine fails or is too slow.
    """

    async def known(self, digests: Collection[bytes]) -> Collection[bytes]:
        """Those of some digests that are there."""
        ...

    async def counted(self, source: str, refs: Collection[bytes]) -> Mapping[bytes, int]:
        """What sightings of a source have counted so far, by reference; none for one that nobody told of."""
        ...

    async def entities(self, refs: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, ImportedEntity]:
        """The entities that earlier objects were, by reference: the newest row counts, of those under the ceiling."""
        ...

    async def append(self, rows: Sequence[ImportRow], *, actor: str, time_ns: int) -> int:
        """Add the rows that aren't there, with the labels that they give.

        Args:
            rows: At most some thousands.
            actor: Who brings them in.
            time_ns: Now.

        Returns:
            How many were added.
        """
        ...

    async def head(self) -> int:
        """The last number; 0: nothing was imported."""
        ...

    async def read(self, first: int, last: int, *, count_max: int) -> Sequence[tuple[int, ImportRow]]:
        """Rows by number, both inclusive, in order; fewer than there are if they are more than `count_max`. Without labels."""
        ...

    async def kept(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, tuple[str, Tlp]]:
        """Objects that entities were told of as, and how far each may go, by entity: the newest under the ceiling."""
        ...

    async def kept_of_facts(
        self, facts: Collection[bytes], *, tlp_max: Tlp, count_max: int
    ) -> Mapping[bytes, Sequence[KeptObject]]:
        """Objects that relations and sightings were told of as, the newest first.

        Args:
            facts: Ids of edges and of sightings.
            tlp_max: The ceiling.
            count_max: Of one fact.
        """
        ...
