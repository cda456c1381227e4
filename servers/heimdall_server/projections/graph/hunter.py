"""Hunts for what dumps hold, in the background: step by step, resting in between, and not at all while somebody else needs the machine.

What is to be done is in the store, so it goes on where it was after any end. Hunts take turns. Each looks in the graph first; what the graph can't
know (types that it doesn't look for in texts, time before it followed) is searched for in stored records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge

from heimdall_server.domain.errors import BudgetExceededError, HeimdallError, StoreError
from heimdall_server.domain.graph_hunting import Hunt, HuntState, HuntSums, LogSighting, Wanted
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph_hunting import EventLog, HuntStore, RecordSearch
from heimdall_server.projections.graph.hunt_config import HuntConfig
from heimdall_server.projections.graph.record_search import GRAPH_TYPES, SEARCHED_TYPES
from heimdall_server.projections.optional import OptionalProjection
from heimdall_server.projections.warm import ProjectionState, RetryPolicy

LOG: Final = logging.getLogger(__name__)
_ENTITIES: Final = Counter("heimdall_graph_hunted_entities_total", "Entities of dumps that were hunted for", ["where"])
_MATCHES: Final = Counter("heimdall_graph_hunt_matches_total", "New matches that hunts found", ["where"])
_RECORDS: Final = Counter("heimdall_graph_hunt_records_total", "Stored records that hunts read")
_OPEN: Final = Gauge("heimdall_graph_hunts_open", "Hunts that aren't over")
_KEPT: Final = Gauge("heimdall_graph_matches", "Matches found so far, those in later logs among them")
_LAG: Final = Gauge("heimdall_graph_hunt_lag_seconds", "Since when the hunt that waits longest has waited for its turn")
_DAY_NS: Final = 86_400 * 10**9
_IDLE_S: Final = 5.0
_PAUSE_S: Final = 1.0
_REST_S_MAX: Final = 60.0
_TIDY_S: Final = 60.0
_TELL_S: Final = 5.0
_FAILURES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class HunterProgress:
    """How hunts are going, in the words of projections."""

    state: ProjectionState
    applied: int
    """Hunts that are over."""
    lag_positions: int
    """Hunts that aren't."""
    lag_s: float
    problem: str
    notice: str


class Hunter(OptionalProjection):
    """See the module. One `run` at a time."""

    def __init__(
        self,
        store: HuntStore,
        events: EventLog,
        clock: Clock,
        config: HuntConfig,
        *,
        busy: Callable[[], str],
        records: RecordSearch | None = None,
        on_told: Callable[[], None] = lambda: None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Take its parts.

        Args:
            store: What is to be done, and what was found.
            events: What watches are told; the oldest are let go.
            clock: For times and rests.
            config: How much.
            busy: Says who needs the machine now; empty: nobody.
            records: Searches stored records; None: nothing does.
            on_told: There may be new events.
            retry: How long it waits for a store that fails.
        """
        super().__init__(retry)
        self._store = store
        self._events = events
        self._clock = clock
        self._config = config
        self._busy = busy
        self._records = records
        self._on_told = on_told
        self._wanted = asyncio.Event()
        self._sums = HuntSums(0, 0, 0, 0)
        self._graph_since_ns = 0
        self._waits_for = ""
        self._failures: Counts[bytes] = Counts()
        self._tidied_s = self._told_s = 0.0

    def wake(self) -> None:
        """There may be something to hunt for."""
        self._wanted.set()

    @property
    def progress(self) -> HunterProgress:
        """How it is. Cheap."""
        sums = self._sums
        found = f"{sums.match_count:,} matches" if sums.match_count else ""
        waits = f"hunts wait: {self._waits_for}" if self._waits_for and sums.open_count else ""
        state = self._state if self._config.enabled else ProjectionState.STOPPED
        return HunterProgress(
            state,
            sums.done_count,
            sums.open_count,
            self._lag_s(),
            self._problem,
            "; ".join(filter(None, (waits, found))),
        )

    async def run(self) -> None:
        """Hunt until cancelled."""
        self._state = ProjectionState.RUNNING
        try:
            self._graph_since_ns = (await self._patiently(self._events.head)).create_time_ns
            while True:
                self._wanted.clear()
                await self._tidy()
                if not await self._step():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_IDLE_S):
                            await self._wanted.wait()
        except asyncio.CancelledError:
            self._state = ProjectionState.STOPPED
            raise
        except Exception as error:
            self._state, self._problem = ProjectionState.FAILED, str(error)
            raise

    async def _step(self) -> bool:
        """Do a little, and rest. False: there is nothing to do."""
        if not self._config.enabled:
            return False
        self._waits_for = self._busy()
        if self._waits_for:
            await asyncio.sleep(_PAUSE_S)
            return True
        hunt = await self._patiently(self._store.next_hunt)
        if hunt is None:
            self._sums = await self._patiently(self._store.sums)
            return False
        began_s = self._clock.monotonic_s()
        try:
            await self._go_on(hunt)
            self._failures.pop(hunt.dump, None)
        except BudgetExceededError as error:
            self._waits_for = str(error)
            await asyncio.sleep(_PAUSE_S)
        except StoreError as error:
            self._state, self._problem = ProjectionState.RETRYING, str(error)
            await asyncio.sleep(_IDLE_S)
        except HeimdallError as error:
            await self._failed(hunt, str(error))
        took_s = self._clock.monotonic_s() - began_s
        self._on_told()
        if hunt.state is not HuntState.HISTORY:
            await self._rest(took_s)
        return True

    async def _rest(self, took_s: float, read_count: int = 0) -> None:
        """Keep to the share of time, and to the records a second."""
        share_s = min(_REST_S_MAX, took_s * (1 / self._config.share - 1))
        await asyncio.sleep(max(share_s, read_count / self._config.history_records_per_s - took_s))

    async def _go_on(self, hunt: Hunt) -> None:
        if hunt.state is not HuntState.HISTORY:
            await self._look_in_graph(hunt)
        else:
            await self._look_in_records(hunt)

    async def _look_in_graph(self, hunt: Hunt) -> None:
        config, now_ns = self._config, self._clock.now_ns()
        step = await self._patiently(
            lambda: self._store.look_in_graph(
                hunt.dump, rows_max=config.step_rows, confidence_min=config.confidence_min, time_ns=now_ns
            )
        )
        _ENTITIES.labels("graph").inc(step.entity_count)
        _MATCHES.labels("graph").inc(step.match_count)
        state = HuntState.GRAPH
        if step.is_last:
            state = HuntState.HISTORY if self._since_ns(hunt) else HuntState.DONE
        if state is not hunt.state:
            await self._move(hunt, state)

    async def _look_in_records(self, hunt: Hunt) -> None:
        since_ns = self._since_ns(hunt)
        if self._records is None or not since_ns:
            await self._move(hunt, HuntState.DONE)
            return
        wanted = await self._patiently(
            lambda: self._store.unsearched(hunt.dump, since_ns=since_ns, count_max=self._config.history_entities)
        )
        if not wanted:
            await self._move(hunt, HuntState.DONE)
            return
        found: list[LogSighting] = []
        record_count = 0
        for some, until_ns in self._ranges(hunt, wanted, since_ns):
            async with aclosing(self._records.sightings(some, since_ns=since_ns, until_ns=until_ns)) as days:
                began_s = self._clock.monotonic_s()
                async for sightings, read_count in days:
                    found += sightings
                    record_count += read_count
                    if len(found) >= self._config.match_count_max:
                        break
                    await self._rest(self._clock.monotonic_s() - began_s, read_count)
                    while waits_for := self._busy():
                        self._waits_for = waits_for
                        await asyncio.sleep(_PAUSE_S)
                    began_s = self._clock.monotonic_s()
        now_ns = self._clock.now_ns()
        step = await self._patiently(
            lambda: self._store.keep_searched(
                hunt.dump, wanted, found, since_ns=since_ns, record_count=record_count, time_ns=now_ns
            )
        )
        _ENTITIES.labels("records").inc(step.entity_count)
        _MATCHES.labels("records").inc(step.match_count)
        _RECORDS.inc(record_count)

    def _ranges(self, hunt: Hunt, wanted: Sequence[Wanted], since_ns: int) -> list[tuple[Sequence[Wanted], int]]:
        """What to search for, and up to when: what the graph knows only as far back as it doesn't go, unless somebody asked for all."""
        now_ns = self._clock.now_ns()
        known = [one for one in wanted if one.type in GRAPH_TYPES or one.value.startswith("[")]
        others = [one for one in wanted if one.type in SEARCHED_TYPES - GRAPH_TYPES]
        ranges: list[tuple[Sequence[Wanted], int]] = [(others, now_ns), (known, self._graph_since_ns)]
        if hunt.by_hand:
            ranges = [([*known, *others], now_ns)]
        return [(some, until_ns) for some, until_ns in ranges if some and until_ns > since_ns]

    def _since_ns(self, hunt: Hunt) -> int:
        """Where its search of records begins; 0: there is none."""
        if self._records is None:
            return 0
        if hunt.since_ns:
            return hunt.since_ns
        # By whole days of when it came in, so that all steps of a hunt begin alike.
        days = self._config.history_days
        return max(1, hunt.create_time_ns // _DAY_NS * _DAY_NS - days * _DAY_NS) if days else 0

    async def _failed(self, hunt: Hunt, problem: str) -> None:
        """A hunt that can't be done is left, so that others are."""
        self._failures[hunt.dump] += 1
        LOG.warning("hunt failed", extra={"dump": hunt.dump.hex(), "problem": problem})
        over = self._failures[hunt.dump] >= _FAILURES_MAX
        if over:
            del self._failures[hunt.dump]
        await self._move(hunt, HuntState.DONE if over else hunt.state, problem=problem)

    async def _move(self, hunt: Hunt, state: HuntState, *, problem: str = "") -> None:
        now_ns = self._clock.now_ns()
        await self._patiently(lambda: self._store.move(hunt.dump, state, time_ns=now_ns, problem=problem))

    async def _tidy(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= _TELL_S:
            self._told_s = now_s
            self._sums = await self._patiently(self._store.sums)
            _OPEN.set(self._sums.open_count)
            _KEPT.set(self._sums.match_count)
            _LAG.set(self._lag_s())
        if now_s - self._tidied_s >= _TIDY_S:
            self._tidied_s = now_s
            now_ns = self._clock.now_ns()
            await self._patiently(lambda: self._events.let_go(keep_count=self._config.event_count_max, time_ns=now_ns))

    def _lag_s(self) -> float:
        oldest_ns = self._sums.oldest_open_ns
        return max(0, self._clock.now_ns() - oldest_ns) / 1e9 if oldest_ns else 0.0
