"""The sets of entities that watches of one stream ask for, kept up to date: a new sighting or label reaches them within seconds.

Asked for again and again, since a set follows from many facts and nothing tells which of them changed; the same set is asked for once, however many
watches have it (`SetFinder`). What takes long is asked for less often. While the graph can't be asked, watches keep what it told last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

from heimdall_server.domain.errors import HeimdallError, QueryCostError
from heimdall_server.domain.expression.tree import Query
from heimdall_server.domain.graph import Tlp
from heimdall_server.planner.graph_terms import graph_terms
from heimdall_server.services.query.logic.sets import SetFinder, ceiling, sets_of
from heimdall_server.services.query.set_model import FoundSets

LOG: Final = logging.getLogger(__name__)
POLL_S: Final = 2.0
_PAUSE_FACTOR: Final = 10.0
"""Times what asking took: it takes a tenth of a connection's time at most."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Following:
    """What one watch asks of the graph. It is followed for as long as somebody holds it."""

    tlp_max: Tlp
    found: FoundSets
    version: int = 0
    """Counts changes of `found`."""
    error: HeimdallError | None = None
    """Why its watch can't go on."""

    def filled(self, query: Query) -> Query | None:
        """A query with the sets of now; None: it asks others, since a dump is named by another token now.

        Raises:
            QueryCostError: There are more entities by now than a query may carry.
        """
        if self.error is not None:
            raise self.error
        return self.found.filled(query) if self.found.covers(query) else None


class LiveSets:
    """See the module. For one event loop; `run` is a task of the stream."""

    def __init__(self, finder: SetFinder | None, changed: Callable[[], None]) -> None:
        """Follow nothing yet.

        Args:
            finder: Finds sets; None: no graph runs here.
            changed: Told after a set has changed.
        """
        self._finder = finder
        self._changed = changed
        self._followed: WeakSet[Following] = WeakSet()
        self._are_any = asyncio.Event()

    async def follow(self, query: Query) -> Following | None:
        """Ask what a query asks of the graph, and go on asking.

        Returns:
            None: It asks nothing.

        Raises:
            HeimdallError: As `sets_of`.
        """
        terms = graph_terms(query)
        if not terms:
            return None
        found = await sets_of(self._finder, query)
        following = Following(ceiling(terms), found)
        self._followed.add(following)
        self._are_any.set()
        return following

    async def run(self) -> None:
        """Keep them up to date until cancelled."""
        spent_s = 0.0
        while True:
            await self._are_any.wait()
            await asyncio.sleep(max(POLL_S, spent_s * _PAUSE_FACTOR))
            started_s = time.monotonic()
            for following in list(self._followed):
                await self._look(following)
            spent_s = time.monotonic() - started_s
            if not self._followed:
                self._are_any.clear()

    async def _look(self, following: Following) -> None:
        if self._finder is None or following.error is not None:
            return
        try:
            asked = {
                term: await self._finder.ask(term, following.tlp_max, fresh_s=POLL_S / 2)
                for term in following.found.sets
            }
        except QueryCostError as error:
            following.error = error
            following.version += 1
            self._changed()
            return
        except HeimdallError as error:
            LOG.warning("sets of watches aren't up to date", extra={"reason": str(error)})
            return
        position = min((position for _, position in asked.values()), key=lambda one: one.applied)
        found = FoundSets({term: entities for term, (entities, _) in asked.items()}, position)
        has_changed = found.digest != following.found.digest
        following.found = found
        if has_changed:
            following.version += 1
            self._changed()
