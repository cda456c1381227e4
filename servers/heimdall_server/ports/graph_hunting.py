"""Hunts for what dumps hold, the matches they find, and the events that watches are told.

The graph's writer queues what a dump brought and compares what logs bring, in the transaction of the facts themselves: neither is lost or
done twice, whatever dies when. A hunter takes the queue down by steps; each is a transaction, and all of it can be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_hunting import (
    EventFilter,
    EventHead,
    EventPage,
    Hunt,
    HuntState,
    HuntStep,
    HuntSums,
    LogSighting,
    Match,
    Wanted,
)


class HuntStore(Protocol):
    """What a hunter works on. All methods raise StoreError when the engine fails; a step was made as a whole then, or not at all."""

    async def next_hunt(self) -> Hunt | None:
        """The open hunt that has waited longest for its turn, with all counts; None: none is open."""
        ...

    async def look_in_graph(self, dump: bytes, *, rows_max: int, confidence_min: int, time_ns: int) -> HuntStep:
        """Look for the next entities of a dump among the sightings of logs that the graph has.

        From then on what logs bring is compared with these entities. A hunt by hand looks for those again that were looked for before.

        Args:
            dump: Whose hunt.
            rows_max: Rows of sightings looked at; a writer of the graph waits meanwhile.
            confidence_min: Entities that are less sure aren't looked for.
            time_ns: Now.
        """
        ...

    async def unsearched(self, dump: bytes, *, since_ns: int, count_max: int) -> Sequence[Wanted]:
        """The next entities of a hunt whose records since a time weren't searched, or all of one by hand; none: all were.

        Args:
            dump: Whose hunt.
            since_ns: As the hunt searches.
            count_max: At most so many.
        """
        ...

    async def keep_searched(
        self,
        dump: bytes,
        wanted: Sequence[Wanted],
        sightings: Sequence[LogSighting],
        *,
        since_ns: int,
        record_count: int,
        time_ns: int,
    ) -> HuntStep:
        """Keep what was found in the records of some entities, and that they were searched.

        Args:
            dump: Whose hunt.
            wanted: As `unsearched` gave them.
            sightings: What records say of them.
            since_ns: Records since then were searched.
            record_count: Records that were read.
            time_ns: Now.
        """
        ...

    async def move(self, dump: bytes, state: HuntState, *, time_ns: int, problem: str = "") -> None:
        """Say how far a hunt is, unless it was cancelled or got more to do meanwhile; watches are told."""
        ...

    async def start(
        self, dump: bytes, name: str, *, tlp: Tlp, since_ns: int, actor: str, time_ns: int, limits: tuple[int, int]
    ) -> bool:
        """Hunt for all that a dump holds.

        Args:
            dump: Its id.
            name: Its name.
            tlp: Of the dump.
            since_ns: Records since then are searched; 0: as the settings say.
            actor: Who wants it.
            time_ns: Now.
            limits: Entities, and matches, at most.

        Returns:
            False: one that was started by hand and goes back as far is under way; nothing was changed.
        """
        ...

    async def cancel(self, dump: bytes, *, time_ns: int) -> bool:
        """End a hunt; it isn't started again but by hand. False: there is none, or it is ended."""
        ...

    async def hunts(
        self, *, tlp_max: Tlp, dump: bytes = b"", after: tuple[int, bytes] = (0, b""), count_max: int = 100
    ) -> Sequence[Hunt]:
        """Hunts, the newest first.

        Args:
            tlp_max: The reader's ceiling.
            dump: Only this dump's; empty: all.
            after: Only behind this time of creation and dump.
            count_max: A page.
        """
        ...

    async def matches(
        self,
        *,
        tlp_max: Tlp,
        entities: Collection[bytes] = (),
        dump: bytes = b"",
        before: int = 0,
        count_max: int = 100,
    ) -> Sequence[Match]:
        """Matches, the newest first.

        Args:
            tlp_max: The reader's ceiling.
            entities: Only of these; empty: all.
            dump: Only of this dump; empty: all.
            before: Only with lesser ids; 0: from the newest.
            count_max: A page.
        """
        ...

    async def sums(self) -> HuntSums:
        """All hunts together."""
        ...


class EventLog(Protocol):
    """The events that watches are told. Events are read in the order in which they were committed: what is behind a place stays behind it."""

    async def head(self) -> EventHead:
        """Where they are."""
        ...

    async def read(self, after: int, filter_: EventFilter, *, count_max: int, scan_max: int) -> EventPage:
        """The next events behind a place that pass a filter.

        Args:
            after: The place.
            filter_: Which.
            count_max: At most so many.
            scan_max: Events looked at, at most; whoever gets none goes on from `through`.

        Raises:
            TokenError: Some of what is behind the place was let go.
        """
        ...

    async def watch_entities(self, ids: Collection[bytes], *, until_ns: int) -> None:
        """Let what is seen of some entities be told until a time, at least."""
        ...

    async def let_go(self, *, keep_count: int, time_ns: int) -> None:
        """Delete the oldest events beyond a number, and what nobody waits for any more."""
        ...


class RecordSearch(Protocol):
    """Looks for entities in stored records."""

    def sightings(
        self, wanted: Sequence[Wanted], *, since_ns: int, until_ns: int
    ) -> AsyncGenerator[tuple[Sequence[LogSighting], int], None]:
        """What records of a range of time, but those of dumps, say of entities.

        Yields:
            For some days at a time, the newest first: sightings, and how many records were read for them. Who has had enough closes it.

        Raises:
            BudgetExceededError: There is no room for the search now.
            QueryTimeoutError, QueryCostError: It is too large.
            StoreError: A store failed.
        """
        ...
