"""Which queries run: short ones at once, scans one by one, callers in fair turns, within budgets of memory and threads.

Two classes have slots of their own, so that scans never keep a panel waiting and panels never starve a scan. What a
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
from typing import Final

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.turns import FairQueue

_MIB: Final = 1024 * 1024
_REMEMBERED_MAX: Final = 1024
_RETRY_S_MAX: Final = 30.0


class QueryClass(StrEnum):
    """How a query is treated."""

    SHORT = "short"
    SCAN = "scan"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on running queries."""

    concurrent_max: int = 4
    """Short queries that run at once; more wait."""
    concurrent_per_caller_max: int = 3
    """Short queries of one identity that run at once, overrun ones with them: slow readers block nobody else."""
    scans_max: int = 1
    """Scans that run at once, besides."""
    overrun_max: int = 2
    """Queries that turned out not to be short and keep running besides; when there are more, they keep their slots."""
    short_s: float = 0.25
    """Seconds of a core beyond which a query is a scan."""
    overrun_s: float = 2.0
    """A short query that runs for longer gives its slot back."""
    waiting_max: int = 256
    """Queries that wait; more are refused."""
    per_caller_max: int = 64
    """Queries of one identity, running or waiting; more are refused."""
    wait_s: float = 10.0
    """How long a short query waits before it is refused; a scan waits for as long as its own time allows."""
    threads_max: int = 8
    """Threads of the engine for all running queries."""
    threads_per_query_max: int = 2
    """Threads of a short query while few others run; else it has one. A scan always has one."""
    memory_bytes_max: int = 3072 * _MIB
    """Memory of the engine for all running queries, each counted with what it may use."""
    short_memory_bytes_max: int = 384 * _MIB
    """Memory of a short query; one that needs more is run again as a scan."""
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
        return cost_s > self._limits.short_s

    def scan_cost_s(self, estimated_s: float) -> float:
        """The cost of a query that must be let in as a scan."""
        return max(estimated_s, 2 * self._limits.short_s)

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
        self, caller: str, *, cost_s: float = 0.0, memory_bytes: int = 1024 * _MIB, timeout_s: float | None = None
    ) -> AsyncIterator[Grant]:
        """Run the body when there is room and it is the caller's turn.

        Args:
            caller: Whose it is.
            cost_s: Seconds in the engine, estimated; decides the class and whose turn it is.
            memory_bytes: What it may use at most.
            timeout_s: How long a scan waits; none: as a short query.

        Raises:
            BudgetExceededError: No room in time; nothing was run.
        """
        kind = QueryClass.SCAN if self.is_scan(cost_s) else QueryClass.SHORT
        self._check(caller)
        self._callers[caller] += 1
        try:
            grant = await self._granted(caller, kind, cost_s, memory_bytes, timeout_s)
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
        slots = self._limits.scans_max if kind is QueryClass.SCAN else self._limits.concurrent_max
        return BudgetExceededError(min(1.0 + self.waiting(kind) / slots, _RETRY_S_MAX), budget, limit)

    async def _granted(
        self, caller: str, kind: QueryClass, cost_s: float, memory_bytes: int, timeout_s: float | None
    ) -> Grant:
        limits = self._limits
        bound = limits.memory_bytes_max if kind is QueryClass.SCAN else limits.short_memory_bytes_max
        asked = _Asked(caller, cost_s, min(memory_bytes, bound))
        ticket = self._queues[kind].push(caller, cost_s, asked)
        self._dispatch()
        started_s = time.monotonic()
        wait_s = timeout_s if timeout_s is not None and kind is QueryClass.SCAN else limits.wait_s
        try:
            if not asked.granted.done():
                async with asyncio.timeout(wait_s):
                    await asked.granted
            grant = asked.granted.result()
        except BaseException as error:
            if not self._queues[kind].remove(ticket) and asked.granted.done() and not asked.granted.cancelled():
                self._give_back(asked.granted.result())
            asked.granted.cancel()
            if isinstance(error, TimeoutError):
                slots = limits.scans_max if kind is QueryClass.SCAN else limits.concurrent_max
                raise self._refused("concurrent queries", slots, kind) from error
            raise
        finally:
            self._tell()
        grant.waited_s = time.monotonic() - started_s
        metrics.WAIT_SECONDS.labels(kind).observe(grant.waited_s)
        return grant

    def _dispatch(self) -> None:
        """Grant whatever has room, in turn.

        A scan that lacks nothing but memory or threads holds short queries up: they would keep it from ever having them.
        """
        limits = self._limits
        fits = True
        while fits and self.waiting(QueryClass.SCAN) and self.running(QueryClass.SCAN) < limits.scans_max:
            fits = self._grant(QueryClass.SCAN)
        while fits and self.waiting(QueryClass.SHORT) and self._running[QueryClass.SHORT] < limits.concurrent_max:
            fits = self._grant(QueryClass.SHORT)
        self._tell()

    def _grant(self, kind: QueryClass) -> bool:
        limits = self._limits
        queue = self._queues[kind]
        ticket = queue.first(lambda caller: kind is QueryClass.SCAN or self._may_run(caller))
        if ticket is None:
            return False
        asked = queue.item(ticket)
        if asked.granted.done():
            # Cancelled, and it hasn't got round to leaving.
            queue.remove(ticket)
            return True
        threads = 1
        if kind is QueryClass.SHORT and not self._threads and not self.waiting(QueryClass.SCAN):
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

    def _may_run(self, caller: str) -> bool:
        return self._short_of[caller] < self._limits.concurrent_per_caller_max

    def _overran(self, grant: Grant) -> None:
        if grant.kind is QueryClass.SCAN or self._overrun >= self._limits.overrun_max:
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
