"""A CSV dump of eight columns from the journal to its complete graph, and the same dump again, cut otherwise: time, CPU, memory.

Decoding, protection and the vault's values are made before, and aren't measured: they are ingest's. Measured is what follows the journal: look
what records hold, name entities (the vault is asked for the values behind tokens), make facts, keep them in an embedded PostgreSQL. Of eight columns
six hold another value in nearly every row, and three of them name entities (an email address as a token, an IP address, an MD5), so a row has 30 facts.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.decode import dispatch
from heimdall_server.domain import sealed_values
from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Entry, Frame
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.storage.postgres.config import PostgresConfig
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.bench.graph import cpu_time_s, graph_server
from tests.bench.report import Measured, Report
from tests.support.personal_search import keyring
from tests.support.warm_process import SystemClock

ROWS: Final = 1_000_000
COLUMNS: Final = ("id", "username", "email", "ip", "password_md5", "country", "age", "created_at")
_PIECE_ROWS: Final = 16_384
"""Of a frame, the first time."""
_OTHER_ROWS: Final = 23_456
"""The second time."""
_TIMEOUT_S: Final = 7_200.0
_MUST_S: Final = (360.0, 120.0)
_MUST_MB: Final = (1_000.0, 500.0)
_AGAIN: Final = (3.0, 10.0)


@dataclass(frozen=True)
class DumpFigures:
    """What was measured."""

    row_count: int
    fact_count: int
    first_s: float
    again_s: float
    own_cpu_s: float
    """Of this process, the first time."""
    postgres_cpu_s: float
    again_cpu_s: float
    """Of both, the second time."""
    rss_before_bytes: int
    rss_bytes: int
    """At most, while it was projected the first time."""
    size_bytes: int
    """Of the graph, at rest."""


def add_dumps(report: Report, *, rows: int) -> None:
    """The section of a whole dump.

    Args:
        report: Where it goes.
        rows: Of the dump; bounds are those of `ROWS` and scaled to it.
    """
    found = measure_dump(rows)
    section = f"dump of {rows:,} rows and {len(COLUMNS)} columns to the graph"
    share = rows / ROWS
    must_s, goal_s = (bound * share for bound in _MUST_S)
    both_s = found.own_cpu_s + found.postgres_cpu_s
    ratio = found.first_s / max(found.again_s, 1e-3)
    by_cpu = both_s / max(found.again_cpu_s, 1e-2)
    report.add(
        section,
        [
            Measured(section, "the first time", found.first_s, "s", must_s, goal_s),
            Measured(section, "  CPU a row, our process", found.own_cpu_s / rows * 1e6, "µs"),
            Measured(section, "  CPU a row, PostgreSQL", found.postgres_cpu_s / rows * 1e6, "µs"),
            Measured(section, "  facts", found.fact_count / found.first_s, "/s"),
            Measured(section, "again, cut otherwise", ratio, "times as fast", *_AGAIN, more_is_better=True),
            Measured(section, "  by CPU time", by_cpu, "times as fast", *_AGAIN, more_is_better=True),
            Measured(section, "resident memory of our process", found.rss_bytes / 1e6, "MB", *_MUST_MB),
            Measured(section, "  of it before it began", found.rss_before_bytes / 1e6, "MB"),
            Measured(section, "at rest, a row", found.size_bytes / rows, "B"),
        ],
        asdict(found),
    )


def measure_dump(rows: int) -> DumpFigures:
    """Take a dump in twice.

    Args:
        rows: Of it.
    """
    folder = Path(tempfile.mkdtemp(prefix="heimdall-bench-dump-"))  # where another account can go
    folder.chmod(0o755)
    try:
        ring = keyring(folder)
        return asyncio.run(_measure(folder, ring, rows))
    finally:
        shutil.rmtree(folder)


async def _measure(folder: Path, ring: Keyring, rows: int) -> DumpFigures:
    records = folder / "records.arrow"
    async with graph_server(folder) as (pool, data):
        await _prepare(records, ring, PostgresVault(pool), rows)
        # In a process of its own, which holds nothing else.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
            work = other.submit(_projected, records, folder, pool.conninfo(), data)
            return await asyncio.wrap_future(work)


def _projected(records: Path, keys: Path, conninfo: str, data: Path) -> DumpFigures:
    ring = keyring(keys)

    async def with_pool() -> DumpFigures:
        pool = PostgresPool(lambda: conninfo, PostgresConfig())
        await pool.open()
        try:
            return await _project(records, ring, pool, data)
        finally:
            await pool.close()

    return asyncio.run(with_pool())


async def _project(records: Path, ring: Keyring, pool: PostgresPool, data: Path) -> DumpFigures:
    key = b"k" * 32

    async def is_there(_: int) -> bool:
        return True

    def mac(message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha256)

    journal = _Frames(records)
    identities = Identities(PostgresVault(pool), ring, mac, wait_applied=is_there)
    projection = GraphProjection(journal, PostgresGraphWriter(pool), identities, SystemClock())  # type: ignore[arg-type]
    peak = _Peak()
    rss_before = peak.rss_bytes
    task, watching = asyncio.create_task(projection.run()), asyncio.create_task(peak.watch())
    times = []
    for _ in range(2):
        journal.come()
        began, own, both = time.monotonic(), time.process_time(), cpu_time_s(data)
        if not await projection.wait_applied(journal.head()[0], _TIMEOUT_S):
            msg = f"the graph isn't there after {_TIMEOUT_S:.0f} s: {projection.progress.problem}"
            raise RuntimeError(msg)
        own_s = time.process_time() - own
        times.append((time.monotonic() - began, own_s, cpu_time_s(data) - both - own_s, peak.bytes))
    progress = projection.progress
    async with pool.connection() as connection:
        await connection.execute("ANALYZE")  # sizes are told of tables that have statistics
    for one in (task, watching):
        one.cancel()
    await asyncio.wait([task, watching])
    (first_s, own_s, postgres_s, rss_bytes), (again_s, own_again_s, postgres_again_s, _) = times
    return DumpFigures(
        row_count=journal.row_count,
        fact_count=progress.vertex_count + progress.edge_count,
        first_s=first_s,
        again_s=again_s,
        own_cpu_s=own_s,
        postgres_cpu_s=postgres_s,
        again_cpu_s=own_again_s + postgres_again_s,
        rss_before_bytes=rss_before,
        rss_bytes=rss_bytes,
        size_bytes=(await PostgresGraphReader(pool).state()).size_bytes,
    )


class _Frames:
    """The journal of a dump: its records in frames, and then again in other ones. Each frame is read from the disk when it is asked for."""

    journal_id = "bench"

    def __init__(self, path: Path) -> None:
        self._path = path
        with pa.memory_map(str(path)) as source:
            self.row_count = sum(batch.num_rows for batch in _batches(source))
        self._frames: list[tuple[int, int]] = []
        self._changed = asyncio.Event()

    def come(self) -> None:
        """Append the dump."""
        rows = _OTHER_ROWS if self._frames else _PIECE_ROWS
        self._frames += [(begin, min(rows, self.row_count - begin)) for begin in range(0, self.row_count, rows)]
        self._changed.set()

    def head(self) -> dict[int, int]:
        return {0: len(self._frames)}

    def tail(self) -> dict[int, int]:
        return {0: 1}

    async def read_control(self, *_: int, **__: int) -> AsyncIterator[Frame]:
        nothing: tuple[Frame, ...] = ()
        for frame in nothing:
            yield frame

    async def read(self, shard: int, *, after: int) -> AsyncIterator[Frame]:
        position = after
        while True:
            while position >= len(self._frames):
                self._changed.clear()
                await self._changed.wait()
            records = await asyncio.to_thread(self._records, *self._frames[position])
            position += 1
            yield Frame(shard, position, time.time_ns(), Entry(records), records.nbytes)

    def _records(self, begin: int, count: int) -> pa.RecordBatch:
        with pa.memory_map(str(self._path)) as source:
            some = pa.Table.from_batches(list(_batches(source))).slice(begin, count).combine_chunks()
        sink = pa.BufferOutputStream()  # a copy, as the journal's would be: nothing of the file stays mapped
        with pa.ipc.new_stream(sink, some.schema) as writer:
            writer.write_table(some)
        return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


class _Peak:
    """The most memory that this process had resident."""

    def __init__(self) -> None:
        self.bytes = self.rss_bytes

    @property
    def rss_bytes(self) -> int:
        """Now."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    async def watch(self) -> None:
        """Look every 50 ms until cancelled."""
        while True:
            self.bytes = max(self.bytes, self.rss_bytes)
            await asyncio.sleep(0.05)


def _batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(source)
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


async def _prepare(path: Path, ring: Keyring, vault: PostgresVault, rows: int) -> None:
    """Decode and protect the dump as ingest does, and let the vault have its values."""
    protector = PolicyProtector(PrivacyPolicy(rules=DEFAULT_KEYED_RULES), keyed_actions(ring, ring))
    options = {"delimiter": ",", "quote": '"', "header": json.dumps(COLUMNS)}
    lines, number = _lines(rows), 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, RECORD_SCHEMA) as writer:
        while number < rows:
            some = [next(lines) for _ in range(min(_PIECE_ROWS, rows - number))]
            context = DecodeContext(
                source="dump:forum",
                dataset="dumps",
                observed_time_ns=1_790_000_000 * 10**9,
                dump="forum",
                first_record_number=number + 1,
                tlp="amber",
            )
            chunk = "".join(some).encode()
            decoded = dispatch.decode(chunk, Format(FormatKind.CSV, options), context, at_start=False)
            protected = protector.protect(decoded.batch)
            writer.write_batch(protected.batch)
            runs = sealed_values.decode_runs(protected.sidecars.get(sealed_values.SIDECAR, b""))
            number += len(some)
            await vault.apply(runs, [number] * len(runs), journal_id=_Frames.journal_id, through=number)


def _lines(rows: int) -> Iterator[str]:
    chance = random.Random(1)
    for number in range(rows):
        name = f"user{number}_{chance.randrange(10**6)}"
        address = ".".join(str(chance.randrange(1, 224)) for _ in range(4))
        digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        country, age = chance.choice(("de", "fr", "us", "gb", "it", "es", "pl", "nl")), chance.randrange(18, 80)
        day = f"20{chance.randrange(15, 23)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}"
        clock = f"{chance.randrange(24):02}:{chance.randrange(60):02}:{chance.randrange(60):02}"
        yield f"{number + 1},{name},{name}@mail{chance.randrange(500)}.com,{address},{digest},{country},{age},{day}T{clock}Z\n"
