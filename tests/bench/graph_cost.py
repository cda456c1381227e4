"""What the graph costs ingest: the same load into a server with it and into one without, by turns, and the ratio of each pair.

A machine that does other things, too, is slower for both of a pair, so the median of ratios tells what no single figure does. The graph isn't waited for
at the end of a load: it is meant to lag.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests.bench import corpus, load
from tests.bench.instance import Instance, running
from tests.bench.report import Measured, Report

OFFERED_ROWS_PER_S: Final = 50_000
STREAMS: Final = 2
_WITHOUT: Final = '["ingest", "query", "admin", "privacy"]'
_WITH: Final = '["ingest", "query", "admin", "privacy", "graph"]'


@dataclass(frozen=True)
class CostSide:
    """One server of a pair."""

    saturated: load.IngestFigure
    offered: load.IngestFigure
    graph_lag_s: float
    """At the end; 0 without a graph."""
    graph_lag_frames: int
    postgres_cpu_s: float


@dataclass(frozen=True)
class CostPair:
    """With and without the graph, one right after the other."""

    with_graph: CostSide
    without: CostSide

    @property
    def saturated_ratio(self) -> float:
        """Acknowledged rows a second, as fast as it goes."""
        return self.with_graph.saturated.rows_per_s / self.without.saturated.rows_per_s

    @property
    def cpu_ratio(self) -> float:
        """Of the server, a row, as fast as it goes."""
        return self.with_graph.saturated.cpu_us_per_row / self.without.saturated.cpu_us_per_row

    @property
    def offered_p50_ratio(self) -> float:
        """Of the time until an acknowledgement, at a steady rate."""
        return self.with_graph.offered.ack_p50_s / self.without.offered.ack_p50_s


def add_graph_cost(report: Report, ndjson: bytes, *, pairs: int, seconds: float) -> None:
    """The section of what the graph costs ingest.

    Args:
        report: Where to.
        ndjson: Rows to send, again and again.
        pairs: How many; the ratios' medians are told.
        seconds: Of each load; each pair has four.
    """
    section = "ingest with the graph's extraction, and without"
    found = measure_graph_cost(ndjson, pairs=pairs, seconds=seconds)

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    with_graph, without = [one.with_graph for one in found], [one.without for one in found]
    figures = [
        Measured(
            section,
            "ingest with extraction / without",
            median([one.saturated_ratio for one in found]),
            "",
            0.97,
            1.0,
            more_is_better=True,
        ),
        Measured(section, "server CPU a row, with / without", median([one.cpu_ratio for one in found]), ""),
        Measured(section, "acknowledged with it", median([one.saturated.rows_per_s for one in with_graph]), "logs/s"),
        Measured(section, "acknowledged without", median([one.saturated.rows_per_s for one in without]), "logs/s"),
        Measured(
            section,
            f"ack P50 at {OFFERED_ROWS_PER_S:,}/s, with / without",
            median([one.offered_p50_ratio for one in found]),
            "",
        ),
    ]
    for name, sides in (("with it", with_graph), ("without", without)):
        for part, value in (
            ("P50", [one.offered.ack_p50_s for one in sides]),
            ("P99", [one.offered.ack_p99_s for one in sides]),
        ):
            figures.append(
                Measured(section, f"ack {part} at {OFFERED_ROWS_PER_S:,}/s, {name}", median(value) * 1e3, "ms")
            )
    figures.append(Measured(section, "graph's lag at the end", median([one.graph_lag_s for one in with_graph]), "s"))
    report.add(section, figures, [asdict(one) for one in found])


def measure_graph_cost(ndjson: bytes, *, pairs: int, seconds: float) -> list[CostPair]:
    """Measure pairs; which of both comes first changes from one to the next."""
    rounds = [corpus.ndjson_round(part) for part in corpus.split(ndjson, STREAMS)]
    part = ndjson[: ndjson.rfind(b"\n", 0, 32 << 20) + 1]
    paced = corpus.paced_round(part, int(OFFERED_ROWS_PER_S * load.OFFERED_EVERY_S))
    found = []
    for number in range(pairs):
        sides = {}
        for services in (_WITH, _WITHOUT) if number % 2 == 0 else (_WITHOUT, _WITH):
            with running(HEIMDALL_SERVICES=services) as instance:
                sides[services] = _side(instance, rounds, paced, seconds)
        found.append(CostPair(sides[_WITH], sides[_WITHOUT]))
    return found


def _side(instance: Instance, rounds: Sequence[corpus.Round], paced: corpus.Round, seconds: float) -> CostSide:
    postgres_cpu_s = instance.vault_cpu_s()
    # In this order: behind a steady load the graph would catch up in the calm before the next, which isn't what that one costs.
    saturated = load.append(instance, "NDJSON", rounds, seconds=seconds, settle=wait_stored)
    offered = load.offered(instance, paced, rows_per_s=OFFERED_ROWS_PER_S, seconds=seconds, settle=wait_stored)
    with instance.channel() as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        status = stub.GetStatus(admin_service_pb2.GetStatusRequest(), timeout=60)
    states = {one.name: one for one in status.projections}
    graph = states.get("graph")
    return CostSide(
        saturated,
        offered,
        graph.lag_duration.ToTimedelta().total_seconds() if graph else 0.0,
        graph.lag_frame_count if graph else 0,
        instance.vault_cpu_s() - postgres_cpu_s,
    )


def wait_stored(instance: Instance) -> None:
    """Wait until queries see everything; projections that nothing waits for may be behind."""
    load.wait_applied(instance, only_required=True)
