"""Twenty analysts at work while logs come in: dashboards, needles, live tails and scans, each by a person of its own.

Six have a dashboard of twelve panels open that asks anew every ten seconds; six look for words, traces and the latest of a
service, and read a second before they ask again; four follow what comes in; four run one scan after another. A search's
time is what its client notices, its wait for a turn included.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import grpc

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from tests.bench import corpus, load
from tests.bench.big_store import StoreFacts
from tests.bench.instance import Instance
from tests.bench.queries import QUERIES, SCANS, aio_channel, dashboard, request, search
from tests.bench.report import Measured

ROWS_PER_S: Final = 100_000
DASHBOARDS: Final = 6
NEEDLES: Final = 6
TAILS: Final = 4
SCANNERS: Final = 4
REFRESH_S: Final = 10.0
READ_S: Final = 1.0
START_S: Final = 2.0
"""The load runs alone for so long first."""
_CORPUS_ROWS: Final = 400_000
_NEEDLES: Final = tuple(
    QUERIES[name]
    for name in ("needle word", "trace id", "latest 100", "latest 100 of one service", "count of a 2.7 % word")
)
_TAILS: Final = ("severity:>=ERROR", "service:billing", "timeout", "* | stats count() by service")


@dataclass(frozen=True)
class ClassFigure:
    """The searches of one kind."""

    count: int
    p50_s: float
    p95_s: float
    max_s: float
    slowest_analyst_p95_s: float
    """Of whoever had it worst: nobody is starved."""
    refused_count: int
    """Answered with RESOURCE_EXHAUSTED."""


@dataclass(frozen=True)
class MixedFigure:
    """The whole workload."""

    ingest: load.IngestFigure
    classes: dict[str, ClassFigure]
    """`panel`, `dashboard` (all its panels), `needle`, `scan`; `api` is panels and needles together."""
    tailed_count: int
    """Messages that the live tails got."""

    def figures(self, section: str) -> list[Measured]:
        """As a report's lines."""
        api, scan, opened = (self.classes[name] for name in ("api", "scan", "dashboard"))
        return [
            Measured(section, "searches but scans", api.p95_s * 1e3, "ms", 200),
            Measured(section, "the worst off analyst's", api.slowest_analyst_p95_s * 1e3, "ms"),
            Measured(section, "dashboard of 12 panels", opened.p95_s * 1e3, "ms", 400, 150),
            Measured(section, "scans", scan.p95_s * 1e3, "ms"),
            Measured(section, "accepted meanwhile", self.ingest.rows_per_s, "logs/s", ROWS_PER_S * 0.98, 0, True),
            Measured(section, "ack P99 meanwhile", self.ingest.ack_p99_s * 1e3, "ms", 100, 30),
        ]


@dataclass
class _Noticed:
    """What the analysts of one kind noticed."""

    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By analyst."""
    refused_count: int = 0

    def figure(self) -> ClassFigure:
        times = [each for one in self.times.values() for each in one]
        return ClassFigure(
            len(times),
            load.percentile(times, 0.5),
            load.percentile(times, 0.95),
            max(times, default=0.0),
            max((load.percentile(one, 0.95) for one in self.times.values()), default=0.0),
            self.refused_count,
        )


def measure_mixed(instance: Instance, facts: StoreFacts, *, seconds: float = 30.0) -> MixedFigure:
    """Run the workload.

    Args:
        instance: On a copy of the store: it is written to.
        facts: Of the store.
        seconds: How long the analysts work.
    """
    rows = corpus.Corpus.make(_CORPUS_ROWS, seed=7)
    round_ = corpus.paced_round(rows.ndjson, int(ROWS_PER_S * load.OFFERED_EVERY_S))
    return asyncio.run(_Workload(instance, facts, seconds).run(round_))


class _Workload:
    def __init__(self, instance: Instance, facts: StoreFacts, seconds: float) -> None:
        self._instance = instance
        self._facts = facts
        self._seconds = seconds
        self._noticed: dict[str, _Noticed] = defaultdict(_Noticed)
        self._tailed_count = 0
        self._end_s = 0.0

    async def run(self, round_: corpus.Round) -> MixedFigure:
        ingest = asyncio.create_task(
            asyncio.to_thread(
                load.offered, self._instance, round_, rows_per_s=ROWS_PER_S, seconds=self._seconds + START_S
            )
        )
        kinds: list[Callable[[int, Any], Awaitable[None]]] = []
        kinds += [self._dashboards] * DASHBOARDS + [self._needles] * NEEDLES
        kinds += [self._tails] * TAILS + [self._scans] * SCANNERS
        async with AsyncExitStack() as stack:
            stubs = []
            for number in range(len(kinds)):
                channel = await stack.enter_async_context(aio_channel(self._instance, f"analyst-{number}"))
                stubs.append(query_service_pb2_grpc.QueryServiceStub(channel))
            await asyncio.sleep(START_S)
            self._end_s = time.monotonic() + self._seconds
            await asyncio.gather(
                *(kind(number, stub) for number, (kind, stub) in enumerate(zip(kinds, stubs, strict=True)))
            )
        return MixedFigure(
            await ingest, {name: noticed.figure() for name, noticed in self._noticed.items()}, self._tailed_count
        )

    async def _dashboards(self, number: int, stub: Any) -> None:
        await asyncio.sleep(REFRESH_S / DASHBOARDS * number)
        while time.monotonic() < self._end_s:
            panels = dashboard(time.time_ns())
            started = time.monotonic()
            await asyncio.gather(*(self._ask(("panel", "api"), number, stub, panel) for panel in panels))
            self._noticed["dashboard"].times[number].append(time.monotonic() - started)
            await asyncio.sleep(max(0.0, started + REFRESH_S - time.monotonic()))

    async def _needles(self, number: int, stub: Any) -> None:
        r = random.Random(number)
        while time.monotonic() < self._end_s:
            text = r.choice(_NEEDLES).format(trace=self._facts.trace_id)
            await self._ask(("needle", "api"), number, stub, request(text))
            await asyncio.sleep(READ_S * r.uniform(0.5, 1.5))

    async def _scans(self, number: int, stub: Any) -> None:
        texts = list(SCANS.values())
        while time.monotonic() < self._end_s:
            await self._ask(("scan",), number, stub, request(texts[number % len(texts)]))

    async def _tails(self, number: int, stub: Any) -> None:
        async def asked() -> AsyncIterator[pb.WatchRequest]:
            question = pb.Question(text=_TAILS[number % len(_TAILS)])
            yield pb.WatchRequest(create=pb.WatchRequest.Create(watch_id="tail", question=question))
            await asyncio.sleep(max(0.0, self._end_s - time.monotonic()))

        async for message in stub.Watch(asked(), timeout=self._seconds + 60):
            self._tailed_count += message.WhichOneof("message") in ("rows", "aggregate")
            if time.monotonic() >= self._end_s:
                return

    async def _ask(self, names: Sequence[str], number: int, stub: Any, asked: pb.SearchRequest) -> None:
        try:
            elapsed_s = (await search(stub, asked)).elapsed_s
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            for name in names:
                self._noticed[name].refused_count += 1
            await asyncio.sleep(READ_S)
            return
        for name in names:
            self._noticed[name].times[number].append(elapsed_s)


def shown(figure: MixedFigure) -> str:
    """For people."""
    lines = [
        f"{name:10} {one.count:6} searches  P50 {one.p50_s * 1e3:8.1f} ms  P95 {one.p95_s * 1e3:8.1f} ms  "
        f"max {one.max_s * 1e3:8.1f} ms  worst analyst P95 {one.slowest_analyst_p95_s * 1e3:8.1f} ms  "
        f"refused {one.refused_count}"
        for name, one in sorted(figure.classes.items())
    ]
    return "\n".join([*lines, f"tails: {figure.tailed_count} messages", str(asdict(figure.ingest))])
