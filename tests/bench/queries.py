"""Queries over a large store, by the real API: one after another, and as a dashboard that opens.

Run it alone with `python -m tests.bench.queries --store FOLDER --rows 20000000`: the store is built once and kept (see
`big_store`); `--mixed` adds the workload of `mixed`, which runs on a copy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall.types.v1.time_range_pb2 import TimeRange
from tests.bench.big_store import COMMON, NEEDLE, kept_store
from tests.bench.instance import CHANNEL_OPTIONS, Instance, running
from tests.bench.load import percentile

WARM_ROUNDS: Final = 3
CALL_TIMEOUT_S: Final = 120.0
HOUR_S: Final = 3600
MUST_S: Final = 0.1
GOAL_S: Final = 0.02
QUERIES: Final[Mapping[str, str]] = {
    "histogram over all": "* | timechart 1m count()",
    "count by service": "* | stats count() by service | sort -count",
    "needle word": f"{NEEDLE} | limit 100",
    "trace id": "trace_id:{trace}",
    "latest 100": "* | limit 100",
    "latest 100 of one service": "service:billing | limit 100",
    "count of a 2.7 % word": f"{COMMON} | stats count()",
}
SCANS: Final[Mapping[str, str]] = {
    "group by an attribute": "region:eu* | stats count(), p95(duration_ms) by region",
    "regular expression": "body:/order [0-9]*77[0-9]* s/ | stats count()",
}
DASHBOARD: Final[Mapping[str, str]] = {
    "volume": "* | timechart 1h count()",
    "by service": "* | stats count() by service | sort -count",
    "by severity": "* | stats count() by severity",
    "volume by severity": "* | timechart 1h count() by severity",
    "busiest hosts": "* | stats count() by host | sort -count | limit 10",
    "errors over time": "severity:>=ERROR | timechart 1h count()",
    "errors by service": "severity:>=ERROR | stats count() by service | sort -count",
    "one service over time": "service:checkout | timechart 1h count()",
    "latest": "* | limit 50",
    "latest errors": "severity:>=ERROR | limit 20",
    "timeouts": f"{COMMON} | stats count()",
    "slowest of the last hour": "* | stats count(), p95(duration_ms) by service",
}
LAST_HOUR: Final = frozenset({"slowest of the last hour"})
"""Panels over the last hour; the others are over everything."""


@dataclass(frozen=True)
class QueryFigure:
    """One query, or one dashboard, warm."""

    name: str
    text: str
    path: str
    p50_s: float
    p95_s: float
    server_cpu_s: float
    """Of the server, a time."""
    rows_read: int


@dataclass(frozen=True)
class Answered:
    """What a client noticed of one search."""

    elapsed_s: float
    path: str
    rows_read: int
    row_count: int


def request(text: str, *, since_ns: int = 0) -> pb.SearchRequest:
    """A search for Arrow rows, as the console and the SDK ask."""
    asked = pb.SearchRequest(question=pb.Question(text=text))
    if since_ns:
        start = Timestamp()
        start.FromNanoseconds(since_ns)
        asked.time_range.CopyFrom(TimeRange(start_time_inclusive=start))
    return asked


async def search(stub: Any, asked: pb.SearchRequest) -> Answered:
    """Ask and read to the end."""
    started = time.perf_counter()
    rows = 0
    finished = pb.SearchResponse.Finished()
    async for response in stub.Search(asked, timeout=CALL_TIMEOUT_S):
        kind = response.WhichOneof("message")
        if kind == "batch":
            rows += response.batch.row_count
        elif kind == "finished":
            finished = response.finished
    path = pb.Plan.Path.Name(finished.plan.path).removeprefix("PATH_").lower()
    return Answered(time.perf_counter() - started, path, int(finished.statistics.read_row_count), rows)


def dashboard(end_time_ns: int) -> list[pb.SearchRequest]:
    """The searches of a dashboard's panels."""
    since_ns = end_time_ns - HOUR_S * 1_000_000_000
    return [request(text, since_ns=since_ns if name in LAST_HOUR else 0) for name, text in DASHBOARD.items()]


def aio_channel(instance: Instance, name: str = "client") -> grpc.aio.Channel:
    """A connection of a client of some name."""
    return grpc.aio.secure_channel(instance.address, instance.credentials(name), options=CHANNEL_OPTIONS)


def measure_queries(
    instance: Instance, *, trace_id: str, end_time_ns: int, rounds: int = 25, scans: bool = True
) -> list[QueryFigure]:
    """Each query alone, then a dashboard of twelve panels that are asked at once over one connection.

    Args:
        instance: With a store that holds rows of the mix.
        trace_id: One that occurs.
        end_time_ns: Of the newest row.
        rounds: Measured rounds of each, after some that aren't.
        scans: Whether to measure what can't be fast, too (a fifth of the rounds).
    """
    return asyncio.run(_measure(instance, trace_id, end_time_ns, rounds, scans=scans))


async def _measure(
    instance: Instance, trace_id: str, end_time_ns: int, rounds: int, *, scans: bool
) -> list[QueryFigure]:
    figures = []
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(aio_channel(instance))
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        for name, text in (*QUERIES.items(), *(SCANS.items() if scans else ())):
            asked = request(text.format(trace=trace_id))
            times = max(3, rounds // 5) if name in SCANS else rounds
            figures.append(await _figure(instance, name, text, stub, [asked], times))
        figures.append(await _figure(instance, "dashboard of 12 panels", "", stub, dashboard(end_time_ns), rounds))
    return figures


async def _figure(
    instance: Instance, name: str, text: str, stub: Any, together: Sequence[pb.SearchRequest], rounds: int
) -> QueryFigure:
    elapsed: list[float] = []
    answers: list[Answered] = []
    cpu_s = 0.0
    for index in range(WARM_ROUNDS + rounds):
        if index == WARM_ROUNDS:
            elapsed.clear()
            cpu_s = instance.cpu_s()
        started = time.perf_counter()
        answers = await asyncio.gather(*(search(stub, asked) for asked in together))
        elapsed.append(time.perf_counter() - started)
    return QueryFigure(
        name,
        text,
        answers[0].path if len(answers) == 1 else "",
        statistics.median(elapsed),
        percentile(elapsed, 0.95),
        (instance.cpu_s() - cpu_s) / rounds,
        sum(answer.rows_read for answer in answers),
    )


def copied_store(store: Path, target: Path) -> None:
    """A store that may be written to: what the engine never changes in place is linked, not copied."""

    def take(source: str, destination: str) -> None:
        if Path(source).suffix in {".bin", ".cmrk2", ".cmrk3", ".cmrk4", ".cidx", ".dct", ".idx", ".pst"}:
            os.link(source, destination)
        else:
            shutil.copy2(source, destination)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(store, target, copy_function=take, symlinks=True, ignore=shutil.ignore_patterns("tmp*"))


def main() -> None:
    """Measure and print."""
    from tests.bench.mixed import measure_mixed, shown

    parser = argparse.ArgumentParser(description="Measure queries over a large store.")
    parser.add_argument("--store", type=Path, default=Path("bench-results/store"), help="folder of the kept store")
    parser.add_argument("--rows", type=float, default=float(os.environ.get("ROWS", "20e6")), help="rows of the store")
    parser.add_argument("--rounds", type=int, default=25, help="0: leave the single queries out")
    parser.add_argument("--no-scans", action="store_true")
    parser.add_argument("--mixed", type=float, default=0.0, metavar="SECONDS", help="the mixed workload for so long")
    arguments = parser.parse_args()
    facts = kept_store(arguments.store / ".heimdall", int(arguments.rows))
    console = Console(width=200, highlight=False)
    console.print(json.dumps(asdict(facts)))
    if arguments.rounds:
        with running(arguments.store) as instance:
            for figure in measure_queries(
                instance,
                trace_id=facts.trace_id,
                end_time_ns=facts.end_time_ns,
                rounds=arguments.rounds,
                scans=not arguments.no_scans,
            ):
                console.print(_line(figure))
    if arguments.mixed:
        copy = arguments.store.with_name(arguments.store.name + "-mixed")
        copied_store(arguments.store, copy)
        try:
            with running(copy) as instance:
                console.print(shown(measure_mixed(instance, facts, seconds=arguments.mixed)))
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def _line(figure: QueryFigure) -> str:
    return (
        f"{figure.name:28} {figure.path:14} P50 {figure.p50_s * 1e3:8.1f} ms  P95 {figure.p95_s * 1e3:8.1f} ms  "
        f"server {figure.server_cpu_s * 1e3:8.1f} ms  {figure.rows_read:>12,} rows read"
    )


if __name__ == "__main__":
    main()
