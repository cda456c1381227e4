"""Facts a second into the graph of an embedded PostgreSQL, and how fast it is walked.

The graph grows as a real one does: each batch brings new entities and edges from them, half to others of the batch and half to any that are there,
and one entity ends up with a hundred thousand edges. Beside seconds stands the CPU time of both sides: a machine that does other
things, too, shows only there what the work costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_batches import GraphBatch, Origin
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits
from heimdall_server.storage.postgres.config import PostgresConfig
from heimdall_server.storage.postgres.embedded import EmbeddedPostgres
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.leftovers import processes_of
from heimdall_server.storage.postgres.migrate import migrate
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.roles import APP_ROLE, set_up
from tests.bench.report import Measured, Report
from tests.support.graphs import DAY_NS, NOON_NS, OURS, edge_columns, random_ids, vertex_columns

PASSWORD: Final = "of the bench"  # noqa: S105 - of nothing that lasts
BATCH_EDGES: Final = 100_000
HUB_EDGES: Final = 100_000
START_S: Final = 60.0
EVERYTHING: Final = GraphFilter(tlp_max=Tlp.RED)


@dataclass(frozen=True)
class WriteFigure:
    """Batches one after the other, durable as the writer leaves them."""

    fact_count: int
    """Vertices and edges that were sent, those that were there included."""
    elapsed_s: float
    cpu_s: float
    """Of PostgreSQL and of this process."""

    @property
    def facts_per_s(self) -> float:
        """By the clock."""
        return self.fact_count / self.elapsed_s

    @property
    def facts_per_core_s(self) -> float:
        """By CPU time."""
        return self.fact_count / self.cpu_s


@dataclass(frozen=True)
class WalkFigure:
    """Many walks, one at a time."""

    name: str
    p50_s: float
    p95_s: float
    cpu_s: float
    """A walk, of PostgreSQL and of this process."""
    result_mean: float
    """Vertices, or edges of a path."""


@dataclass(frozen=True)
class GraphFigures:
    """Everything that was measured."""

    first: WriteFigure
    again: WriteFigure
    """The same batches at other positions, counting nothing."""
    changed: WriteFigure
    """The same facts in other batches: they are looked up one by one."""
    walks: tuple[WalkFigure, ...]
    size_bytes: int


_MUST_S: Final = {
    "1 hop": 0.02,
    "2 hops": 0.1,
    "2 hops, 1,000 results": 0.1,
    "1 hop from 100,000 edges": 0.02,
    "path of at most 4 hops": 0.5,
}


def add_graph(report: Report, *, quick: bool) -> None:
    """The section of the graph: 1 M entities and 5 M edges; quick: 40,000 and 200,000."""
    entities, edges = (40_000, 200_000) if quick else (1_000_000, 5_000_000)
    section = f"graph of {entities:,} entities and {edges:,} edges"
    found = measure_graph(entities, edges, rounds=40 if quick else 200)
    ratio = found.again.facts_per_core_s / found.first.facts_per_core_s
    different = found.changed.facts_per_core_s / found.first.facts_per_core_s
    figures = [
        Measured(section, "facts written", found.first.facts_per_s, "/s", 20_000, 60_000, more_is_better=True),
        Measured(section, "facts written, by CPU time", found.first.facts_per_core_s, "/core-s"),
        Measured(section, "the same again, by CPU time", ratio, "times as fast", 3, 10, more_is_better=True),
        Measured(section, "the same, cut otherwise", different, "times as fast"),
        Measured(section, "at rest, a fact", found.size_bytes / (entities + edges), "B"),
    ]
    for one in found.walks:
        figures.append(Measured(section, f"{one.name}, P95", one.p95_s * 1e3, "ms", _MUST_S[one.name] * 1e3))
        figures.append(Measured(section, f"{one.name}, CPU", one.cpu_s * 1e3, "ms"))
    report.add(section, figures, asdict(found))


def measure_graph(entities: int, edges: int, *, rounds: int) -> GraphFigures:
    """Fill a graph, fill it again, and walk it.

    Args:
        entities: How many.
        edges: How many; a multiple of 100,000.
        rounds: Walks of each kind.
    """
    folder = Path(tempfile.mkdtemp(prefix="heimdall-bench-graph-"))  # where another account can go
    folder.chmod(0o755)
    try:
        return asyncio.run(_measure(folder, entities, edges, rounds))
    finally:
        shutil.rmtree(folder)


async def _measure(folder: Path, entities: int, edges: int, rounds: int) -> GraphFigures:
    async with graph_server(folder) as (pool, data):
        return await _with_pool(pool, data, entities, edges, rounds)


@contextlib.asynccontextmanager
async def graph_server(folder: Path) -> AsyncIterator[tuple[PostgresPool, Path]]:
    """An embedded PostgreSQL with an empty graph: a pool, and the folder of its data.

    Args:
        folder: For its files; another account must be able to go there.
    """
    config = PostgresConfig()
    server = await EmbeddedPostgres.start(
        config, data_dir=folder / "data_dir", keys_dir=folder / "keys", places=folder / "places"
    )
    try:
        await server.wait_ready(START_S)
        in_database = server.conninfo(database="heimdall")
        await set_up(server.conninfo(), in_database, app_password=PASSWORD, cypher_password=PASSWORD)
        pool = PostgresPool(lambda: server.conninfo(user=APP_ROLE, password=PASSWORD, database="heimdall"), config)
        async with await psycopg.AsyncConnection.connect(pool.conninfo(), autocommit=True) as connection:
            await migrate(connection)
        await pool.open()
        try:
            yield pool, server.data
        finally:
            await pool.close()
    finally:
        await server.stop()


async def _with_pool(pool: PostgresPool, data: Path, entities: int, edges: int, rounds: int) -> GraphFigures:
    writer, reader = PostgresGraphWriter(pool), PostgresGraphReader(pool)
    graph = _Growing(entities, edges)
    first = await _write(writer, graph.batches("first"), data)
    again = await _write(writer, graph.batches("again", counted="first"), data)
    changed = await _write(writer, graph.batches("changed", counted="first", is_reversed=True), data)
    await writer.apply(graph.hub())
    async with pool.connection() as connection:
        await connection.execute('ANALYZE heimdall_graph."Entity", heimdall_graph."RELATED_TO"')
    ids, chance = graph.ids, np.random.default_rng(9)

    def any_id() -> bytes:
        return bytes(ids[chance.integers(len(ids))])

    async def walk(start: bytes, depth: int, **limits: Any) -> int:
        bounds = GraphLimits(depth_max=depth, **limits)
        return sum([len(level.vertices) async for level in reader.traverse([start], EVERYTHING, bounds)]) - 1

    async def path() -> int:
        found = await reader.paths(any_id(), any_id(), EVERYTHING, GraphLimits(depth_max=4, degree_max=1_000))
        return len(found.paths[0].edges) if found.paths else 0

    hub = graph.hub_id.tobytes()
    kinds: tuple[tuple[str, Callable[[], Awaitable[int]]], ...] = (
        ("1 hop", lambda: walk(any_id(), 1)),
        ("2 hops", lambda: walk(any_id(), 2)),
        ("2 hops, 1,000 results", lambda: walk(hub, 2, degree_max=100, vertex_count_max=1_000)),
        ("1 hop from 100,000 edges", lambda: walk(hub, 1)),
        ("path of at most 4 hops", path),
    )
    walks = [await _walk(name, act, data, rounds) for name, act in kinds]
    return GraphFigures(first, again, changed, tuple(walks), (await reader.state()).size_bytes)


class _Growing:
    """Batches of a graph that grows; the same whenever they are asked for."""

    def __init__(self, entities: int, edges: int) -> None:
        self.ids = random_ids(entities, 1)
        self.hub_id = random_ids(1, 77)
        self._values = pa.array([f"host-{number}.some-domain.example" for number in range(entities)])
        self._batch_count = edges // BATCH_EDGES
        self._new = entities // self._batch_count

    def batches(self, stream: str, *, counted: str = "", is_reversed: bool = False) -> Iterator[GraphBatch]:
        chance = np.random.default_rng(3)
        for number in range(self._batch_count):
            begin, end = number * self._new, (number + 1) * self._new
            starts = chance.integers(begin, end, BATCH_EDGES)
            near, far = chance.integers(begin, end, BATCH_EDGES), chance.integers(0, end, BATCH_EDGES)
            ends = np.where(chance.random(BATCH_EDGES) < 0.5, near, far)
            used = np.unique(np.concatenate([np.arange(begin, end), ends]))
            if is_reversed:
                used, starts, ends = used[::-1], starts[::-1], ends[::-1]
            yield GraphBatch(
                Origin(stream, number, number),
                (OURS,),
                vertex_columns(self.ids[used], self._values.take(pa.array(used))),
                edge_columns(self.ids[starts], self.ids[ends]),
                counted=(Origin(counted, number, number),) if counted else (),
            )

    def hub(self) -> GraphBatch:
        """One entity with edges to many, over 400 days."""
        ends = self.ids[:HUB_EDGES]
        days = np.random.default_rng(1).integers(0, 400, len(ends))
        vertices = [
            vertex_columns(self.hub_id, ["hub.example"]),
            vertex_columns(ends, self._values.slice(0, len(ends))),
        ]
        edges = edge_columns(np.repeat(self.hub_id, len(ends), axis=0), ends, last_ns=NOON_NS + days * DAY_NS)
        return GraphBatch(Origin("hub", 0, 0), (OURS,), pa.concat_batches(vertices), edges)


async def _write(writer: PostgresGraphWriter, batches: Iterator[GraphBatch], data: Path) -> WriteFigure:
    facts, elapsed_s, cpu_s = 0, 0.0, 0.0
    for batch in batches:  # making them isn't measured
        begin_s, begin_cpu_s = time.monotonic(), cpu_time_s(data)
        applied = await writer.apply(batch)
        elapsed_s += time.monotonic() - begin_s
        cpu_s += cpu_time_s(data) - begin_cpu_s
        if applied.refused:
            msg = f"facts were refused: {applied.refused[0].reason}"
            raise RuntimeError(msg)
        facts += batch.vertices.num_rows + batch.edges.num_rows
    return WriteFigure(facts, elapsed_s, cpu_s)


async def _walk(name: str, act: Callable[[], Awaitable[int]], data: Path, rounds: int) -> WalkFigure:
    for _ in range(8):  # plans are made, pages are read
        await act()
    begin_cpu_s = cpu_time_s(data)
    times_s, results = [], []
    for _ in range(rounds):
        begin_s = time.monotonic()
        results.append(await act())
        times_s.append(time.monotonic() - begin_s)
    cpu_s = (cpu_time_s(data) - begin_cpu_s) / rounds
    p50_s, p95_s = np.percentile(times_s, [50, 95])
    return WalkFigure(name, float(p50_s), float(p95_s), cpu_s, float(np.mean(results)))


def cpu_time_s(data: Path) -> float:
    """CPU time of this process and of PostgreSQL's, so far. What ended meanwhile is the postmaster's."""
    ticks = 0
    for pid in processes_of(data):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100 + time.process_time()
