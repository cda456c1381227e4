"""`make bench`: a table a person can read, and `bench.json`.

Absolute figures depend on the machine and on what else it does; each ingest figure therefore stands beside a ratio: rows
a core-second of the server (decoded, protected, journalled, stored, indexed) over those of the bare decoder in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import corpus, measure
from tests.bench.instance import running

QUERIES = {
    "histogram by minute": "* | timechart 1m count()",
    "count by service": "* | stats count() by service | sort -count",
    "needle": "timeout AND gateway AND 17017 | limit 10",
    "one trace": "trace_id:{trace}",
    "latest 100": "* | limit 100",
    "latest 100 of one service": "service:billing | limit 100",
    "count of a common word": "timeout | stats count()",
    "group by attribute": "region:eu* | stats count(), p95(duration_ms) by region",
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Heimdall on this machine.")
    parser.add_argument("--quick", action="store_true", help="fewer rows; under two minutes")
    parser.add_argument("--rows", type=int, default=0, help="rows of each ingest measurement")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of bench.json")
    arguments = parser.parse_args()
    rows = arguments.rows or (250_000 if arguments.quick else 1_000_000)
    console = Console()
    console.print(f"making {rows:,} distinct rows …")
    data = corpus.Corpus.make(rows, seed=time.time_ns() % 2**32)
    baseline = measure.decoder_baseline(data.ndjson)
    with running() as instance:
        half = rows // 2
        figures = [
            measure.ingest_append(
                instance,
                "NDJSON",
                [
                    corpus.ndjson_requests(part, f"ndjson-{index}")
                    for index, part in enumerate(corpus.split(data.ndjson, measure.STREAMS))
                ],
            ),
            measure.ingest_append(
                instance,
                "NDJSON, 8 of 40 keys",
                [
                    corpus.ndjson_requests(part, f"sparse-{index}")
                    for index, part in enumerate(corpus.split(corpus.sparse_ndjson(half), measure.STREAMS))
                ],
            ),
            measure.ingest_otlp(instance, corpus.otlp_requests(data.frame.head(half))),
            measure.ingest_append(
                instance,
                "Arrow",
                [
                    corpus.arrow_requests(data.frame.slice(index * half, half), f"arrow-{index}")
                    for index in range(measure.STREAMS)
                ],
            ),
        ]
        offered = measure.offered(
            instance, data.ndjson, rows_per_s=100_000, seconds=min(5 if arguments.quick else 10, rows / 100_000)
        )
        trace = data.frame["trace_id"][rows // 2]
        rounds = 9 if arguments.quick else 25
        queries = [
            measure.query(instance, name, text.format(trace=trace), rounds=rounds) for name, text in QUERIES.items()
        ]
        bytes_per_row = measure.disk_bytes_per_row(instance)
        stored = sum(figure.row_count for figure in (*figures, offered))
    report = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "baseline_decoder_rows_per_core_s": round(baseline),
        "ingest": [
            {
                **asdict(figure),
                "rows_per_s": round(figure.rows_per_s),
                "ratio_to_decoder": round(figure.row_count / figure.server_cpu_s / baseline, 3),
            }
            for figure in (*figures, offered)
        ],
        "queries": [asdict(figure) for figure in queries],
        "stored_row_count": stored,
        "disk_bytes_per_row": round(bytes_per_row, 1),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "bench.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    _show(console, report, path)


def _show(console: Console, report: dict[str, object], path: Path) -> None:
    ingest = Table("way in", "logs/s", "server µs/row", "ratio to bare decoder", "ack P50 ms", "ack P99 ms", "RSS MB")
    for one in report["ingest"]:  # type: ignore[attr-defined]
        ingest.add_row(
            one["name"],
            f"{one['rows_per_s']:,}",
            f"{one['server_cpu_s'] / one['row_count'] * 1e6:.1f}",
            f"{one['ratio_to_decoder']:.2f}",
            f"{one['ack_p50_s'] * 1e3:.0f}",
            f"{one['ack_p99_s'] * 1e3:.0f}",
            f"{one['rss_bytes'] / 1e6:.0f}",
        )
    console.print(ingest)
    queries = Table(f"query over {report['stored_row_count']:,} rows", "path", "P50 ms", "P95 ms")
    for one in report["queries"]:  # type: ignore[attr-defined]
        queries.add_row(one["name"], one["path"], f"{one['p50_s'] * 1e3:.1f}", f"{one['p95_s'] * 1e3:.1f}")
    console.print(queries)
    console.print(
        f"bare decoder {report['baseline_decoder_rows_per_core_s']:,} rows/core-s · "
        f"{report['disk_bytes_per_row']} bytes at rest a row · written to {path}"
    )


if __name__ == "__main__":
    main()
