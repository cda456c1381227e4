"""What making the graph again needs of its store: slices of facts, rebuilds, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pyarrow as pa

from heimdall_server.domain.graph import Provenance
from heimdall_server.domain.graph_batches import Origin
from heimdall_server.domain.graph_making import Rebuild, RefusedRow
from heimdall_server.ports.journal import DeletedSlice


class DayTold(Protocol):
    """What the records say that are left of a source's day, told piece by piece."""

    @property
    def is_held(self) -> bool:
        """Whether the graph has any sighting of that source and day. If not, nothing need be told."""
        ...

    async def add(self, vertices: pa.RecordBatch, provenances: Sequence[Provenance]) -> None:
        """Tell of sightings.

        Args:
            vertices: `VERTEX_SCHEMA`; others than sightings are passed over.
            provenances: Which `provenance` indexes.

        Raises:
            StoreError: The engine failed; begin the day again.
        """
        ...


class GraphSlices(Protocol):
    """Facts of some records, replaced by what is left to be told.

    All methods raise StoreError when the engine fails; what they did is then as if it hadn't been begun, and is begun again.
    """

    async def is_empty(self) -> bool:
        """Whether no fact was ever made of records."""
        ...

    async def slices(self, instance: str, *, first_day: int = 0, last_day: int = 2**31 - 1) -> Sequence[DeletedSlice]:
        """Everything that facts were made of: sources with the days of their sightings, and all dumps.

        Args:
            instance: Who took the records in.
            first_day: Of sightings of logs, inclusive.
            last_day: The same.
        """
        ...

    def day(self, instance: str, source: str, day: int, *, note: Origin) -> AbstractAsyncContextManager[DayTold]:
        """Replace the sightings of a source's logs on a day by what is told within the block, when it ends.

        Sightings that nobody tells of are gone then, with their entities where nothing else tells of these; what other
        provenances say stays. It is one transaction, with the note that it is done.

        Args:
            instance: Who took the records in.
            source: Theirs.
            day: Days since 1970 UTC.
            note: What is noted as applied.
        """
        ...

    async def drop_dump(self, instance: str, source: str, dump: str) -> None:
        """Delete what the records of a dump told, unless others tell it, too. Its records are to be applied again then."""
        ...

    async def dump_done(self, dump: str, *, note: Origin, attempts: str) -> None:
        """Hear that what is left of a dump was applied again: what hung on facts that didn't come back goes as well.

        Args:
            dump: Its name.
            note: What is noted as applied.
            attempts: What the streams begin with by which its records were applied; their notes go.
        """
        ...

    async def forget_notes(self, streams: str) -> None:
        """Delete the notes of streams that begin with this."""
        ...


class GraphRebuilds(Protocol):
    """Rebuilds, one at a time. All methods raise StoreError when the engine fails."""

    async def begin(self, rebuild: Rebuild) -> None:
        """Drop all observed facts as `GraphWriter.forget` does, and remember the rebuild, together or not at all."""
        ...

    async def current(self) -> Rebuild | None:
        """The one that hasn't ended."""
        ...

    async def get(self, rebuild_id: str) -> Rebuild | None:
        """One of the last; None: there is none of this id."""
        ...

    async def last(self) -> Rebuild | None:
        """The newest one, ended or not."""
        ...

    async def end(self, rebuild_id: str, *, time_ns: int, notice: str) -> None:
        """Note that it is done."""
        ...


class RefusedFacts(Protocol):
    """What the store refused."""

    async def list(self, *, count_max: int = 100) -> Sequence[RefusedRow]:
        """The newest first.

        Raises:
            StoreError: The engine failed.
        """
        ...
