"""Makes facts again of what is left: after a deletion those of the slices that it reached, in a rebuild all that the journal has let go of."""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from heimdall_server.domain.graph_batches import Origin
from heimdall_server.ports.graph import GraphWriter
from heimdall_server.ports.graph_making import GraphRebuilds, GraphSlices
from heimdall_server.ports.journal import DeletedSlice, Deletion
from heimdall_server.projections.graph.extraction import Facts
from heimdall_server.projections.graph.facts import DAY_NS
from heimdall_server.projections.graph.stored import Found, StoredRecords

_STORED_WAIT_S: Final = 5.0
_DAY_MAX: Final = 2**31 - 1

ApplyFound = Callable[[Found, Callable[[], Origin]], Awaitable[None]]
"""Makes facts of records and applies them, in as many batches as they need, each of an origin that it asks for."""
MakeFacts = Callable[[Found, int], AsyncIterator[Facts]]
"""Makes facts of records, none of which is behind a position; in pieces."""
Patiently = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something until the stores don't fail."""


@dataclass(frozen=True, slots=True)
class MakingPorts:
    """What making again acts on."""

    stored: StoredRecords
    slices: GraphSlices
    rebuilds: GraphRebuilds
    quiet: GraphWriter
    """Keeps facts that were there before: nobody is told of them as of news."""
    wait_stored: Callable[[int, float], Awaitable[bool]]
    """Waits until the store has applied a position, deletions too, for so many seconds; whether it has."""


class DeletionOfFacts:
    """Takes out of the graph what only deleted records told. For one event loop, one deletion at a time."""

    def __init__(self, ports: MakingPorts, instance: str, *, make: MakeFacts, apply: ApplyFound) -> None:
        """Take what it acts on.

        Args:
            ports: The stores.
            instance: Who took the records in.
            make: Makes facts.
            apply: Applies records of a dump again.
        """
        self._ports = ports
        self._instance = instance
        self._make = make
        self._apply = apply

    async def take_out(self, deletion: Deletion, position: int, *, through: int, patiently: Patiently) -> None:
        """Make again what a deletion reached. Idempotent; cut off, it goes on where it was.

        Args:
            deletion: Which.
            position: Where it stands in the journal: the store has carried it out when it has applied this.
            through: The last position that the graph has applied.
            patiently: For each slice.
        """
        ports = self._ports
        while not await ports.wait_stored(position, _STORED_WAIT_S):
            continue
        stream = f"deletion/{deletion.deletion_id}/"
        found: list[DeletedSlice] = []

        async def look() -> None:
            found[:] = await self._slices(deletion)

        await patiently(look)
        for one in found:
            for day in one.days or (0,):
                origin = Origin(f"{stream}{_digest(one)}", day, day)
                await patiently(functools.partial(self._slice, one, origin, through))
        await patiently(lambda: ports.slices.forget_notes(stream))

    async def _slices(self, deletion: Deletion) -> list[DeletedSlice]:
        if deletion.slices is not None:
            return list(deletion.slices)
        first = 0 if deletion.start_time_ns is None else deletion.start_time_ns // DAY_NS
        last = _DAY_MAX if deletion.end_time_ns is None else (deletion.end_time_ns - 1) // DAY_NS
        return list(await self._ports.slices.slices(self._instance, first_day=max(0, first), last_day=last))

    async def _slice(self, one: DeletedSlice, origin: Origin, through: int) -> None:
        if not await self._ports.quiet.missing(origin):
            return
        if one.dump:
            await self._dump(one, origin, through)
        else:
            await self._day(one, origin, through)

    async def _day(self, one: DeletedSlice, origin: Origin, through: int) -> None:
        ports = self._ports
        async with ports.slices.day(self._instance, one.source, origin.first, note=origin) as told:
            if not told.is_held:
                return
            async for found in ports.stored.of_slice(one.source, "", origin.first, through=through):
                async for facts in self._make(found, through):
                    await told.add(facts.vertices, facts.provenances)

    async def _dump(self, one: DeletedSlice, origin: Origin, through: int) -> None:
        ports = self._ports
        await ports.slices.drop_dump(self._instance, one.source, one.dump)
        # What an attempt that was cut off has applied is dropped with the rest, so its notes mean nothing.
        origins = _origins(f"{origin.stream}/{secrets.token_hex(8)}")
        async for found in ports.stored.of_slice(one.source, one.dump, None, through=through):
            await self._apply(found, lambda: next(origins))
        await ports.slices.dump_done(one.dump, note=origin, attempts=f"{origin.stream}/")


def _origins(stream: str) -> Iterator[Origin]:
    return (Origin(stream, number, number) for number in count())


def _digest(one: DeletedSlice) -> str:
    return hashlib.blake2b(f"{one.source}\0{one.dump}".encode(), digest_size=16).hexdigest()
