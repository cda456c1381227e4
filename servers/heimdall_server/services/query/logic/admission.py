"""Which queries run: short ones at once, others one by one, callers in fair turns, within budgets of memory and threads.

Three classes have slots of their own, so that scans never keep a panel waiting and panels never starve a scan: also not a
panel that reads some million records, which is no longer short, but needn't wait behind a scan of all. What a
query will cost decides its class, and what it did cost decides it the next time it is asked. A query that was thought to
be short and runs on gives its slot back and keeps running besides.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.turns import FairQueue

_MIB: Final = 1024 * 1024
_REMEMBERED_MAX: Final = 1024
_RETRY_S_MAX: Final = 30.0


class QueryClass(StrEnum):
    """How a query is treated."""

    SHORT = "short"
    MEDIUM = "medium"
    SCAN = "scan"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on running queries."""

    concurrent_max: int = 4
    """Short queries that run at once; more wait."""
    concurrent_per_caller_max: int = 3
    """Short queries of one identity that run at once, overrun ones with them: slow readers block nobody else."""
    mediums_max: int = 1
    """Queries of medium length that run at once, besides."""
    scans_max: int = 1
    """Scans that run at once, besides."""
    overrun_max: int = 2
    """Queries that turned out not to be short and keep running besides; when there are more, they keep their slots."""
    short_s: float = 0.25
    """Seconds of a core beyond which a query isn't short."""
    medium_s: float = 2.5
    """Seconds of a core beyond which a query is a scan."""
    overrun_s: float = 2.0
    """A short query that runs for longer gives its slot back."""
    waiting_max: int = 256
    """Queries that wait; more are refused."""
    per_caller_max: int = 64
    """Queries of one identity, running or waiting; more are refused."""
    wait_s: float = 10.0
    """How long a short query waits before it is refused; others wait for as long as their own time allows."""
    threads_max: int = 8
    """Threads of the engine for all running queries."""
    threads_per_query_max: int = 2
    """Threads of a short query while few others run; else it has one. Others always have one."""
    memory_bytes_max: int = 3072 * _MIB
    """Memory of the engine for all running queries, each counted with what it may use."""
    short_memory_bytes_max: int = 384 * _MIB
    """Memory of a query that isn't a scan; one that needs more is run again as one."""
    history_max: int = 2
    """Watches that read history from the store at once, besides these queries; others wait for as long as it takes."""

    def __post_init__(self) -> None:
        """Check that a query can run at all.

        Raises:
            ConfigurationError: It can't; all that is wrong is named.
        """
        at_least_one = (
            "concurrent_max",
            "concurrent_per_caller_max",
            "mediums_max",
            "scans_max",
            "threads_max",
            "threads_per_query_max",
            "history_max",
        )
        problems = [f"admission.{name}: at least 1" for name in at_least_one if getattr(self, name) < 1]
        if not 0 < self.short_memory_bytes_max <= self.memory_bytes_max:
            problems.append("admission.short_memory_bytes_max: from 1 to admission.memory_bytes_max")
        if problems:
            raise ConfigurationError(tuple(problems))


@dataclass(slots=True)
class Grant:
    """What an admitted query may use."""

    caller: str
    kind: QueryClass
    threads: int
    memory_bytes: int
    waited_s: float = 0.0
    is_overrun: bool = False
    """It was short and runs on, besides."""
    is_void: bool = False
    """It may use nothing: no turn is needed any more."""

    @property
    def is_scan(self) -> bool:
        """Whether it was let in as a scan."""
        return self.kind is QueryClass.SCAN


@dataclass(slots=True)
class _Asked:
    caller: str
    cost_s: float
    memory_bytes: int
    granted: asyncio.Future[Grant] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Lets queries in. Belongs to one event loop."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._reading = asyncio.Semaphore(limits.history_max)
        self._queues: dict[QueryClass, FairQueue[_Asked]] = {kind: FairQueue() for kind in QueryClass}
        self._running: Counter[QueryClass] = Counter()
        self._overrun = 0
        self._threads = 0
        self._memory_bytes = 0
        self._callers: Counter[str] = Counter()
        self._short_of: Counter[str] = Counter()
        self._known_costs: OrderedDict[str, float] = OrderedDict()

    @property
    def threads_used(self) -> int:
        """Threads that running queries have."""
        return self._threads

    @property
    def memory_bytes_used(self) -> int:
        """Memory that running queries may use."""
        return self._memory_bytes

    def running(self, kind: QueryClass) -> int:
        """Queries of a class that run, those that overran left out."""
        return self._running[kind]

    @property
    def overrun_count(self) -> int:
        """Queries that weren't as short as was thought, and run."""
        return self._overrun

    def waiting(self, kind: QueryClass) -> int:
        """Queries of a class that wait."""
        return len(self._queues[kind])

    def cost_s(self, shape: str, estimated_s: float) -> float:
        """What a query will cost: what it did the last time, else the estimate.

        Args:
            shape: Equal for queries that cost the same.
            estimated_s: Seconds in the engine.
        """
        return self._known_costs.get(shape, estimated_s)

    def is_scan(self, cost_s: float) -> bool:
        """Whether a query of that cost is a scan."""
        return self._class_of(cost_s) is QueryClass.SCAN

    def scan_cost_s(self, estimated_s: float) -> float:
        """The cost of a query that must be let in as a scan."""
        return max(estimated_s, 2 * self._limits.medium_s, 2 * self._limits.short_s)

    def _class_of(self, cost_s: float) -> QueryClass:
        if cost_s <= self._limits.short_s:
            return QueryClass.SHORT
        return QueryClass.MEDIUM if cost_s <= self._limits.medium_s else QueryClass.SCAN

    def learn(self, shape: str, cost_s: float) -> None:
        """Remember what a query cost."""
        known = self._known_costs.get(shape)
        # Half of the new, so that one slow moment doesn't banish a query, and one of luck doesn't bring it back.
        self._known_costs[shape] = cost_s if known is None else (known + cost_s) / 2
        self._known_costs.move_to_end(shape)
        if len(self._known_costs) > _REMEMBERED_MAX:
            self._known_costs.popitem(last=False)

    @asynccontextmanager
    async def admit(
        self,
        caller: str,
        *,
        cost_s: float = 0.0,
        memory_bytes: int = 1024 * _MIB,
        timeout_s: float | None = None,
        unless: asyncio.Future[None] | None = None,
    ) -> AsyncIterator[Grant]:
        """Run the body when there is room and it is the caller's turn.

        Args:
            caller: Whose it is.
            cost_s: Seconds in the engine, estimated; decides the class and whose turn it is.
            memory_bytes: What it may use at most.
            timeout_s: How long one that isn't short waits; none: as a short query.
            unless: If this is done first, no turn is needed, and the grant is void; the caller still counts as one that runs or waits.

        Raises:
            BudgetExceededError: No room in time; nothing was run.
        """
        limits = self._limits
        kind = self._class_of(cost_s)
        self._check(caller)
        self._callers[caller] += 1
        try:
            bound = limits.memory_bytes_max if kind is QueryClass.SCAN else limits.short_memory_bytes_max
            asked = _Asked(caller, cost_s, min(memory_bytes, bound))
            grant = await self._granted(asked, kind, timeout_s, unless)
            if grant.is_void:
                self._queues[kind].charge(caller, -cost_s)
                yield grant
                return
            started_s = time.monotonic()
            overrun = asyncio.get_running_loop().call_later(self._limits.overrun_s, self._overran, grant)
            try:
                yield grant
            finally:
                overrun.cancel()
                self._queues[kind].charge(caller, time.monotonic() - started_s - cost_s)
                self._give_back(grant)
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

    @asynccontextmanager
    async def admit_history(self) -> AsyncIterator[None]:
        """Read one page of a watch's history when there is room; a watch is never refused for others' sake."""
        async with self._reading:
            yield

    def _check(self, caller: str) -> None:
        limits = self._limits
        if self._callers[caller] >= limits.per_caller_max:
            raise self._refused("queries of one caller", limits.per_caller_max)
        waiting = sum(len(queue) for queue in self._queues.values())
        if waiting >= limits.waiting_max:
            raise self._refused("waiting queries", limits.waiting_max)

    def _refused(self, budget: str, limit: int, kind: QueryClass = QueryClass.SHORT) -> BudgetExceededError:
        metrics.REFUSED.labels(budget).inc()
        return BudgetExceededError(min(1.0 + self.waiting(kind) / self._slots(kind), _RETRY_S_MAX), budget, limit)

    def _slots(self, kind: QueryClass) -> int:
        limits = self._limits
        match kind:
            case QueryClass.SHORT:
                return limits.concurrent_max
            case QueryClass.MEDIUM:
                return limits.mediums_max
            case QueryClass.SCAN:
                return limits.scans_max

    async def _granted(
        self, asked: _Asked, kind: QueryClass, timeout_s: float | None, unless: asyncio.Future[None] | None
    ) -> Grant:
        ticket = self._queues[kind].push(asked.caller, asked.cost_s, asked)
        self._dispatch()
        started_s = time.monotonic()
        wait_s = self._limits.wait_s if timeout_s is None or kind is QueryClass.SHORT else timeout_s
        try:
            if not asked.granted.done():
                async with asyncio.timeout(wait_s):
                    awaited: list[asyncio.Future[Any]] = [asked.granted] if unless is None else [asked.granted, unless]
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not asked.granted.done():
                self._queues[kind].remove(ticket)
                asked.granted.cancel()
                return Grant(asked.caller, kind, threads=0, memory_bytes=0, is_void=True)
            grant = asked.granted.result()
        except BaseException as error:
            if not self._queues[kind].remove(ticket) and asked.granted.done() and not asked.granted.cancelled():
                self._give_back(asked.granted.result())
            asked.granted.cancel()
            if isinstance(error, TimeoutError):
                raise self._refused("concurrent queries", self._slots(kind), kind) from error
            raise
        finally:
            self._tell()
        grant.waited_s = time.monotonic() - started_s
        metrics.WAIT_SECONDS.labels(kind).observe(grant.waited_s)
        return grant

    def _dispatch(self) -> None:
        """Grant whatever has room, in turn.

        A long one that lacks nothing but memory or threads holds shorter ones up: they would keep it from ever having them.
        """
        fits = True
        for kind in (QueryClass.SCAN, QueryClass.MEDIUM, QueryClass.SHORT):
            while fits and self.waiting(kind) and self.running(kind) < self._slots(kind):
                fits = self._grant(kind)
        self._tell()

    def _grant(self, kind: QueryClass) -> bool:
        limits = self._limits
        queue = self._queues[kind]
        ticket = queue.first(lambda caller: kind is not QueryClass.SHORT or self._may_run(caller))
        if ticket is None:
            return False
        asked = queue.item(ticket)
        if asked.granted.done():
            # Cancelled, and it hasn't got round to leaving.
            queue.remove(ticket)
            return True
        threads = 1
        if kind is QueryClass.SHORT and not self._threads and not self._others_wait():
            threads = min(limits.threads_per_query_max, limits.threads_max)
        fits = self._memory_bytes + asked.memory_bytes <= limits.memory_bytes_max
        if not fits or self._threads + threads > limits.threads_max:
            return False
        queue.take(ticket)
        self._running[kind] += 1
        self._short_of[asked.caller] += kind is QueryClass.SHORT
        self._threads += threads
        self._memory_bytes += asked.memory_bytes
        asked.granted.set_result(Grant(asked.caller, kind, threads, asked.memory_bytes))
        return True

    def _others_wait(self) -> bool:
        return bool(self.waiting(QueryClass.MEDIUM) or self.waiting(QueryClass.SCAN))

    def _may_run(self, caller: str) -> bool:
        return self._short_of[caller] < self._limits.concurrent_per_caller_max

    def _overran(self, grant: Grant) -> None:
        if grant.kind is not QueryClass.SHORT or self._overrun >= self._limits.overrun_max:
            return
        grant.is_overrun = True
        self._running[QueryClass.SHORT] -= 1
        self._overrun += 1
        metrics.OVERRUN.inc()
        self._dispatch()

    def _give_back(self, grant: Grant) -> None:
        if grant.is_overrun:
            self._overrun -= 1
        else:
            self._running[grant.kind] -= 1
        self._short_of[grant.caller] -= grant.kind is QueryClass.SHORT
        if not self._short_of[grant.caller]:
            del self._short_of[grant.caller]
        self._threads -= grant.threads
        self._memory_bytes -= grant.memory_bytes
        self._dispatch()

    def _tell(self) -> None:
        for kind in QueryClass:
            metrics.RUNNING.labels(kind).set(self.running(kind))
            metrics.WAITING.labels(kind).set(self.waiting(kind))
