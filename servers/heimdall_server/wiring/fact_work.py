"""What makes facts of records, within the budgets of the configuration and beside the ingest of this process."""

from __future__ import annotations

from typing import Final

from heimdall_server.config import Config
from heimdall_server.projections.graph.pace import Load, Pace
from heimdall_server.projections.graph.wanted import Wanted
from heimdall_server.projections.graph.warninglists.files import FOLDER, WarninglistFolder
from heimdall_server.projections.graph.work import Budgets, FactWork
from heimdall_server.wiring.parts import Parts

_BUSY_WAIT_S: Final = 0.1
"""Ingest is busy while what it holds takes so long to become durable: it no longer takes at once what comes."""


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

    def load() -> Load:
        if any(pipeline.wait_estimate_s() >= _BUSY_WAIT_S for pipeline in parts.pipelines):
            return Load.BUSY
        return Load.ACTIVE if any(pipeline.held_bytes for pipeline in parts.pipelines) else Load.CALM

    budgets = Budgets(
        wanted=wanted_of(config),
        lists=lambda: warninglists.loaded().lists,
        pace=Pace(graph.share, graph.active_share, graph.busy_share, load),
        nice=graph.nice,
    )
    return FactWork(parts.journal.journal_id, budgets)
