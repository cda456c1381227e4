"""What makes facts of records, within the budgets of the configuration and beside the ingest of this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from heimdall_server.config import Config
from heimdall_server.projections.graph.pace import Load, Pace
from heimdall_server.projections.graph.wanted import Wanted
from heimdall_server.projections.graph.warninglists.files import FOLDER, WarninglistFolder
from heimdall_server.projections.graph.work import Budgets, FactWork
from heimdall_server.wiring.parts import Parts

_BUSY_WAIT_S: Final = 0.1
"""Ingest is busy while what it holds takes so long to become durable: it no longer takes at once what comes."""
_MUCH: Final = 0.5
"""So is it while records come in and the process takes more of the machine: whatever else is done delays acknowledgements then."""
_SPAN_S: Final = 1.0


class ProcessorShare:
    """How much of the machine's processors this process took of late. For one event loop."""

    def __init__(
        self,
        now_s: Callable[[], float] = time.monotonic,
        taken_s: Callable[[], float] = time.process_time,
        core_count: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    ) -> None:
        """Begin now.

        Args:
            now_s: A clock.
            taken_s: Of the process so far, all cores together.
            core_count: That it may use.
        """
        self._now_s = now_s
        self._taken_s = taken_s
        self._core_count = core_count
        self._since = now_s(), taken_s()
        self._share = 0.0

    def now(self) -> float:
        """From 0 to 1, over a second or longer. Cheap."""
        since_s, before_s = self._since
        now_s = self._now_s()
        if now_s - since_s >= _SPAN_S:
            taken_s = self._taken_s()
            self._share = (taken_s - before_s) / (now_s - since_s) / self._core_count
            self._since = now_s, taken_s
        return self._share


def open_warninglists(config: Config) -> WarninglistFolder:
    """The lists in force."""
    return WarninglistFolder(config.data_dir / FOLDER, config.graph.warninglists)


def wanted_of(config: Config) -> Wanted:
    """What the graph looks for in records."""
    graph = config.graph
    return Wanted(graph.sources, graph.observables_per_record_max, graph.observables_per_batch_max)


def make_fact_work(config: Config, parts: Parts, warninglists: WarninglistFolder) -> FactWork:
    """Make it; the projection that uses it closes it."""
    graph = config.graph

    taken = ProcessorShare()

    def load() -> Load:
        if not any(pipeline.held_bytes for pipeline in parts.pipelines):
            return Load.CALM
        keeps_up = all(pipeline.wait_estimate_s() < _BUSY_WAIT_S for pipeline in parts.pipelines)
        return Load.ACTIVE if keeps_up and taken.now() <= _MUCH else Load.BUSY

    budgets = Budgets(
        wanted=wanted_of(config),
        lists=lambda: warninglists.loaded().lists,
        pace=Pace(graph.share, graph.active_share, graph.busy_share, load),
        nice=graph.nice,
    )
    return FactWork(parts.journal.journal_id, budgets)
