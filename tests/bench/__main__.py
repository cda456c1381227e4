"""`make bench`: every figure beside what it must and should be; a table, a chart and `bench.json`.

Absolute figures depend on the machine and on what else it does. The one that doesn't is a ratio: rows a core-second that are
decoded and protected over those of the bare decoder, in the same minute. Each door gets a server of its own, and the client
runs on the same machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from heimdall_server.protect.names_model import NamesModel
from tests.bench import corpus, load
from tests.bench.big_store import kept_store
from tests.bench.canonical import measure_canonical
from tests.bench.cores import measure_cores
from tests.bench.dumps import ROWS, add_dumps
from tests.bench.graph import add_graph
from tests.bench.graph_cost import add_graph_cost
from tests.bench.idle import idle_share, settled_bytes_per_row
from tests.bench.instance import Instance, running
from tests.bench.mixed import measure_mixed
from tests.bench.protection import measure_protection
from tests.bench.queries import SCANS, copied_store, measure_queries
from tests.bench.report import Measured, Report
from tests.bench.watches import measure_watches
from tests.unit.protect.labelled.sentences import model_scores
from tests.unit.protect.labelled_corpus import PRECISION_MIN, RECALL_MIN, scores

STREAMS: Final = 2
OFFERED_ROWS_PER_S: Final = 100_000
MODEL_SENTENCES: Final = 500
DOORS: Final = ("NDJSON", "NDJSON, 8 of 40 keys", "OTLP, 5,000 a request", "Arrow")
TARGETS: Final = {
    "NDJSON": (260_000, 360_000),
    "NDJSON, 8 of 40 keys": (150_000, 230_000),
    "OTLP, 5,000 a request": (270_000, 400_000),
    "Arrow": (340_000, 550_000),
}
UNINDEXED_TARGETS: Final = {
    "NDJSON": (300_000, 430_000),
    "OTLP, 5,000 a request": (350_000, 480_000),
    "Arrow": (480_000, 700_000),
}


class Doors:
    """Loads the same rows through each door."""

    def __init__(self, rows: int, seconds: float) -> None:
        data = corpus.Corpus.make(rows, seed=time.time_ns() % 2**32)
        self.ndjson = data.ndjson
        self._seconds = seconds
        half = rows // 2
        halves = [corpus.ndjson_round(part) for part in corpus.split(data.ndjson, STREAMS)]
        sparse = [corpus.ndjson_round(part) for part in corpus.split(corpus.sparse_ndjson(half), STREAMS)]
        arrow = [corpus.arrow_round(data.frame.slice(index * half, half)) for index in range(STREAMS)]
        exports = corpus.otlp_requests(data.frame.head(half))
        self._run: dict[str, Callable[[Instance], load.IngestFigure]] = {
            "NDJSON": lambda instance: load.append(instance, "NDJSON", halves, seconds=seconds),
            "NDJSON, 8 of 40 keys": lambda instance: load.append(instance, "sparse", sparse, seconds=seconds),
            "OTLP, 5,000 a request": lambda instance: load.export(instance, exports, seconds=seconds),
            "Arrow": lambda instance: load.append(instance, "Arrow", arrow, seconds=seconds),
        }

    def feed(self, name: str, instance: Instance) -> load.IngestFigure:
        """As fast as it goes."""
        return self._run[name](instance)

    def offered(self, instance: Instance) -> load.IngestFigure:
        """At a steady rate."""
        rows_per_batch = int(OFFERED_ROWS_PER_S * load.OFFERED_EVERY_S)
        part = self.ndjson[: self.ndjson.rfind(b"\n", 0, 64 << 20) + 1]
        return load.offered(
            instance,
            corpus.paced_round(part, rows_per_batch),
            rows_per_s=OFFERED_ROWS_PER_S,
            seconds=self._seconds,
        )


def main() -> None:
    """Measure and write."""
    arguments = _arguments()
    quick = arguments.quick
    report = Report(Console(width=110))
    sections: dict[str, Callable[[], None]] = {}
    seconds = arguments.seconds or (3.0 if quick else 60.0)
    doors = Doors(250_000 if quick else 1_000_000, seconds)
    sections["cores"] = lambda: _cores(report, doors)
    sections["ingest"] = lambda: _ingest(report, doors, settle_s=5.0 if quick else 60.0)
    if not quick or "unindexed" in (arguments.only or ()):
        sections["unindexed"] = lambda: _unindexed(report, doors)
    sections["offered"] = lambda: _offered(
        report, doors, idle_s=5.0 if quick else 30.0, calm_within_s=5.0 if quick else 60.0
    )
    sections["watches"] = lambda: _watches(report, seconds=min(seconds, 20.0), counts=(200,) if quick else (200, 1000))
    if not quick or "canonical" in (arguments.only or ()):
        sections["canonical"] = lambda: _canonical(report)
    sections["detection"] = lambda: _detection(report)
    sections["graph"] = lambda: add_graph(report, quick=quick)
    sections["graph-dump"] = lambda: add_dumps(report, rows=arguments.dump_rows or (20_000 if quick else ROWS))
    if not quick or "graph-cost" in (arguments.only or ()):
        sections["graph-cost"] = lambda: add_graph_cost(
            report, doors.ndjson, pairs=3 if quick else 7, seconds=min(seconds, 20.0)
        )
    rows = arguments.rows or (1_000_000 if quick else 20_000_000)
    protected_rows = 200_000 if quick else 1_000_000
    if not quick or "protection" in (arguments.only or ()):
        sections["protection"] = lambda: _protection(report, protected_rows)
    sections["queries"] = lambda: _queries(report, rows, arguments.store, rounds=9 if quick else 25, seconds=seconds)
    for name in arguments.only or sections:
        sections[name]()
    report.write(arguments.output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Heimdall on this machine.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="seconds instead of minutes, a smaller store, only with the text index; under two minutes",
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="of each load (60; quick: 3)")
    parser.add_argument(
        "--rows", type=lambda text: int(float(text)), default=0, help="of the queries' store (2e7; quick: 1e6)"
    )
    parser.add_argument(
        "--dump-rows", type=lambda text: int(float(text)), default=0, help="of the dump in the graph (1e6; quick: 2e4)"
    )
    parser.add_argument("--store", type=Path, help="keep the queries' store in this folder, and use what is there")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the results")
    parser.add_argument(
        "--only",
        action="append",
        choices=(
            "cores",
            "ingest",
            "unindexed",
            "offered",
            "watches",
            "canonical",
            "detection",
            "protection",
            "graph",
            "graph-cost",
            "graph-dump",
            "queries",
        ),
        help="this section; may be given more than once",
    )
    return parser.parse_args()


def _cores(report: Report, doors: Doors) -> None:
    found = measure_cores(doors.ndjson)
    figures = [
        Measured("decode and protect", "ratio to the bare decoder", found.ratio, "", 0.4, 0.6, more_is_better=True),
        Measured("decode and protect", "bare decoder", found.bare_rows_per_core_s, "rows/core-s"),
        Measured("decode and protect", "decoded", found.decoded_rows_per_core_s, "rows/core-s"),
        Measured("decode and protect", "decoded and protected", found.protected_rows_per_core_s, "rows/core-s"),
    ]
    report.add("decode and protect", figures, asdict(found))


def _ingest(report: Report, doors: Doors, *, settle_s: float) -> None:
    section = "ingest, personal data protected, durable, text index"
    figures, details = [], []
    for name in DOORS:
        with running() as instance:
            found = doors.feed(name, instance)
            details.append(_detail(found))
            figures.append(_rate(section, name, found, TARGETS[name]))
            if name == "NDJSON":
                bytes_per_row = settled_bytes_per_row(instance, settle_s)
                figures += [
                    Measured(section, "  acknowledged P99", found.ack_p99_s * 1e3, "ms", 2000, 500),
                    Measured(section, "  trivial call, longest", found.stall_max_s * 1e3, "ms", 100, 25),
                    Measured(section, "  trivial call P99", found.stall_p99_s * 1e3, "ms"),
                    Measured(section, "  resident memory", found.rss_bytes / 1e9, "GB", 2.5, 1.2),
                    Measured(section, "  at rest, a row", bytes_per_row, "B", 85, 55),
                ]
            figures.append(Measured(section, "  server CPU, a row", found.cpu_us_per_row, "µs"))
    report.add(section, figures, details)


def _unindexed(report: Report, doors: Doors) -> None:
    section = "ingest without the text index"
    figures, details = [], []
    for name, targets in UNINDEXED_TARGETS.items():
        with running(HEIMDALL_WARM__TEXT_INDEX="false") as instance:
            found = doors.feed(name, instance)
        details.append(_detail(found))
        figures.append(_rate(section, name, found, targets))
    report.add(section, figures, details)


def _offered(report: Report, doors: Doors, *, idle_s: float, calm_within_s: float) -> None:
    section = "100,000 logs a second offered, and none"
    with running() as instance:
        found = doors.offered(instance)
        idle = idle_share(instance, idle_s, calm_within_s=calm_within_s)
    figures = [
        Measured(section, "acknowledged P50", found.ack_p50_s * 1e3, "ms", 30, 10),
        Measured(section, "acknowledged P99", found.ack_p99_s * 1e3, "ms", 100, 30),
        Measured(section, "server CPU, a row", found.cpu_us_per_row, "µs"),
        Measured(section, "trivial call, longest", found.stall_max_s * 1e3, "ms"),
        Measured(section, "idle server", idle * 100, "% of a core", 1, 0.3),
    ]
    report.add(section, figures, [_detail(found)])


def _watches(report: Report, *, seconds: float, counts: tuple[int, ...]) -> None:
    section = "watches at 50,000 logs a second"
    figures, details = [], []
    for count in counts:
        with running() as instance:
            found = measure_watches(instance, watch_count=count, rows_per_s=50_000, seconds=seconds)
        details.append(asdict(found))
        figures += [
            Measured(section, f"cores of {count} watches", found.core_share, "cores", 1.0),
            Measured(section, f"log to watcher P95, {count}", found.p95_s * 1e3, "ms", 200),
            Measured(section, f"memory a watch, {count}", found.bytes_per_watch / 1e3, "kB"),
        ]
    report.add(section, figures, details)


def _canonical(report: Report) -> None:
    section = "canonical values, all distinct"
    found = measure_canonical()
    figures = [
        Measured(
            section,
            one.type_name,
            one.distinct_rows_per_core_s,
            "rows/core-s",
            one.must_rows_per_core_s,
            more_is_better=True,
        )
        for one in found
    ]
    report.add(section, figures, [asdict(one) for one in found])


def _detection(report: Report) -> None:
    section = "detection, labelled corpus"
    figures, details = [], []
    for name, score in scores().items():
        counts = {
            "positives": score.positives,
            "found": score.found,
            "near_misses": score.near_misses,
            "wrong": score.wrong,
        }
        details.append({"class": name} | counts)
        figures += [
            Measured(section, f"{name}, recall", score.recall, "", RECALL_MIN, more_is_better=True),
            Measured(section, f"{name}, precision", score.precision, "", PRECISION_MIN, more_is_better=True),
        ]
    for name, found in (model_scores(MODEL_SENTENCES) if NamesModel.available() else {}).items():
        details.append({"class": name, "by": "model"} | asdict(found))
        figures += [
            Measured(section, f"{name} by the model, recall", found.recall, ""),
            Measured(section, f"{name} by the model, precision", found.precision, ""),
        ]
    report.add(section, figures, details)


def _protection(report: Report, rows: int) -> None:
    section = "protection: tokens against masks"
    found = measure_protection(rows)
    report.add(section, found.measured(section), [asdict(one) for one in found.runs])


def _queries(report: Report, rows: int, store: Path | None, *, rounds: int, seconds: float) -> None:
    section = f"queries over {rows:,} rows, P95"
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-store-") as name:
        kept = store or Path(name)
        facts = kept_store(kept / ".heimdall", rows)
        with running(kept) as instance:
            found = measure_queries(instance, trace_id=facts.trace_id, end_time_ns=facts.end_time_ns, rounds=rounds)
        figures = [Measured(section, one.name, one.p95_s * 1e3, "ms", *_query_targets(one.name)) for one in found]
        report.add(section, figures, [asdict(one) for one in found])
        mixed_section = f"the same while {OFFERED_ROWS_PER_S:,} logs a second come in, P95"
        copied_store(kept, kept / "mixed")
        with running(kept / "mixed") as instance:
            mixed = measure_mixed(instance, facts, seconds=seconds)
        report.add(mixed_section, mixed.figures(mixed_section), asdict(mixed))


def _query_targets(name: str) -> tuple[float, float]:
    if name in SCANS:
        return 0.0, 0.0
    return (400.0, 0.0) if "dashboard" in name else (100.0, 20.0)


def _rate(section: str, name: str, found: load.IngestFigure, targets: tuple[int, int]) -> Measured:
    return Measured(section, name, found.rows_per_s, "logs/s", *targets, more_is_better=True)


def _detail(found: load.IngestFigure) -> dict[str, object]:
    return asdict(found) | {"rows_per_s": found.rows_per_s, "stored_rows_per_s": found.stored_rows_per_s}


if __name__ == "__main__":
    main()
