"""The part of the projection that costs CPU time: records → facts, in a thread of its own that gives way to others, within its budgets."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import pyarrow as pa
from prometheus_client import Counter

from heimdall_server.domain.records import (
    ATTRIBUTE_KEY_BYTES_MAX,
    ATTRIBUTE_VALUE_BYTES_MAX,
    DUMP_ATTRIBUTE_COUNT_MAX,
)
from heimdall_server.projections.graph.confidence import lowered
from heimdall_server.projections.graph.extraction import Facts, Looked, look
from heimdall_server.projections.graph.facts import Identify
from heimdall_server.projections.graph.pace import Pace
from heimdall_server.projections.graph.wanted import Wanted
from heimdall_server.projections.graph.warninglists.matching import Warninglists

CUT: Final = Counter("heimdall_graph_values_cut_total", "Values left out of records that hold too many")
UNREAD: Final = Counter(
    "heimdall_graph_records_cut_total", "Records of dumps with columns that the graph hasn't: too many, or too long"
)
WORKED: Final = Counter(
    "heimdall_graph_work_seconds_total", "Time that the projection was at work, the store's included"
)
RESTED: Final = Counter(
    "heimdall_graph_rest_seconds_total", "Time that the projection rested to leave the machine to others"
)
LARGE_FACTS: Final = 65_536
"""Vertices, or edges, of a batch after which memory is given back."""
_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
"""glibc's; musl has none."""
_T = TypeVar("_T")


def give_back() -> None:
    """Return to the system what a large batch left: allocators keep it for the threads that had it, and the next batch is made by others. 4 ms."""
    pa.default_memory_pool().release_unused()
    if _TRIM is not None:
        _TRIM(0)


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the work is bounded by, and what it knows."""

    wanted: Wanted = field(default_factory=Wanted)
    lists: Callable[[], Warninglists] = Warninglists
    """Those in force; asked in the working thread, once a batch."""
    pace: Pace | None = None
    """None: it doesn't rest."""
    nice: int = 0
    """Niceness of the thread, where the system has such."""


class FactWork:
    """See the module. For one event loop."""

    def __init__(self, instance: str, budgets: Budgets | None = None) -> None:
        """Begin nothing yet.

        Args:
            instance: Who took the records in.
            budgets: None: unbounded, and no lists.
        """
        self._instance = instance
        self._budgets = budgets or Budgets()
        self._executor: ThreadPoolExecutor | None = None
        self.cut_count = 0
        """Values left out since the start."""
        self.unread_count = 0
        """Records of dumps of which the graph has a part only, since the start."""

    @property
    def values_max(self) -> int:
        """Of what is made into facts at once."""
        return self._budgets.wanted.per_batch_max

    async def rest(self) -> None:
        """Wait until the projection may work again. Not a part of the work: whoever counts that begins behind it."""
        pace = self._budgets.pace
        if pace is None:
            return
        before_s = pace.rested_s
        try:
            await pace.begin()
        finally:
            RESTED.inc(pace.rested_s - before_s)

    async def look(self, batches: Sequence[tuple[int, pa.RecordBatch]]) -> Looked:
        """As `extraction.look`."""
        return await self._run(lambda: look(batches, instance=self._instance, wanted=self._budgets.wanted))

    async def facts(self, looked: Looked, identify: Identify) -> Facts:
        """As `Looked.facts`; what warninglists know is believed less."""
        self.cut_count += looked.cut_count
        CUT.inc(looked.cut_count)
        self.unread_count += looked.unread_count
        UNREAD.inc(looked.unread_count)

        def make() -> Facts:
            facts = looked.facts(identify)
            lists = self._budgets.lists()
            told = lowered(facts, lists) if lists.lists else facts
            # Arrow keeps what was freed for the thread that had it: here as much again as the facts.
            pa.default_memory_pool().release_unused()
            return told

        return await self._run(make)

    def worked(self, worked_s: float) -> None:
        """A batch was applied: the next one waits accordingly.

        Args:
            worked_s: Time at work since the last one, the store's included.
        """
        WORKED.inc(worked_s)
        if self._budgets.pace is not None:
            self._budgets.pace.worked(worked_s)

    @property
    def notice(self) -> str:
        """What an operator should know; empty: nothing."""
        told = []
        if self.cut_count:
            told.append(
                f"the graph left out {self.cut_count:,} values of records that hold more than "
                f"{self._budgets.wanted.per_record_max:,} (graph.observables_per_record_max)"
            )
        if self.unread_count:
            told.append(
                f"the graph has not all of {self.unread_count:,} records of dumps: a column beyond the {DUMP_ATTRIBUTE_COUNT_MAX:,}th, a name of "
                f"more than {ATTRIBUTE_KEY_BYTES_MAX} bytes or a value of more than {ATTRIBUTE_VALUE_BYTES_MAX // 1024} KiB is left out"
            )
        return "; ".join(told)

    def close(self) -> None:
        """End the thread. Idempotent; what is being worked on is finished there, and nobody hears of it."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, act: Callable[[], _T]) -> _T:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="graph", initializer=self._give_way)
        return await asyncio.get_running_loop().run_in_executor(self._executor, act)

    def _give_way(self) -> None:
        if self._budgets.nice and hasattr(os, "setpriority"):
            # Linux: a thread's own; elsewhere it would be the whole process's.
            with contextlib.suppress(OSError):
                if os.uname().sysname == "Linux":
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._budgets.nice)
