"""A process that follows a journal into a chDB folder, to be killed: `python -m tests.support.warm_process`.

`fill DIR FRAMES ROWS` makes the journal. `run DIR [STEP [HOW]]` projects it, prints each step, dies by SIGKILL at
the given one (a number, from 1, or its name; 0: at none), and at the end prints as JSON what the store holds and what
it should hold. HOW breaks it on purpose:

believes_its_intent     what it meant to insert when it died counts as inserted
inserts_again           what it meant to insert when it died is inserted, whatever is there
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path as FilePath
from typing import Final
from unittest import mock

import pyarrow as pa

from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import Entry
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import WarmHooks, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from tests.support.journal import opened, small_config
from tests.support.log_stores import DATASETS, DAY_NS, TIME_NS, asked, counted, frame, rollup_counts, rows_of

BATCH_ROWS = 100_000


class SystemClock:
    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()


class Steps:
    """Prints steps; dies at one of them."""

    def __init__(self, last: str) -> None:
        self._last = last
        self._count = 0

    def __call__(self, name: str) -> None:
        print(f"step {name}", flush=True)  # noqa: T201 - the parent reads it
        self._count += 1
        if self._last in (name, str(self._count)):
            os.kill(os.getpid(), signal.SIGKILL)


async def _believe(*_: object) -> bool:
    return True


async def _insert_again(*_: object) -> bool:
    return False


BREAKS: Final = {"believes_its_intent": _believe, "inserts_again": _insert_again}


def entry(position: int, count: int) -> Entry:
    """A frame's records, of both datasets and several days."""
    parts = []
    for dataset in ("logs", "dumps"):
        # The third frame is of another day: the batch touches two partitions of `logs`.
        start_ns = TIME_NS + position // 3 * DAY_NS
        batch = frame(position, count // 2, dataset=dataset, step_ns=50_000_000, start_ns=start_ns)
        parts.append(pa.RecordBatch.from_arrays(batch.columns[: len(RECORD_SCHEMA)], schema=RECORD_SCHEMA))
    return Entry(pa.Table.from_batches(parts).combine_chunks().to_batches()[0])


async def fill(directory: FilePath, frames: int, rows: int) -> None:
    """Make the journal."""
    async with opened(small_config(directory / "journal", segment_bytes=64 << 20, bytes_max=1 << 30)) as journal:
        await journal.append([entry(position, rows) for position in range(1, frames + 1)])


async def run(directory: FilePath, last_step: str) -> None:
    """Project the journal, then tell what the store holds."""
    steps = Steps(last_step)
    config = ClickHouseConfig(datasets=DATASETS, query_connections=1)
    store = ClickHouseLogStore(ChdbEngine(directory / "store"), config, step=steps)
    await store.open()
    async with opened(small_config(directory / "journal", segment_bytes=64 << 20, bytes_max=1 << 30)) as journal:
        projection = WarmProjection(
            journal,
            store,
            CheckpointFile(directory / "warm.json"),
            SystemClock(),
            limits=ReadLimits(batch_rows=BATCH_ROWS, linger_s=0.05),
            hooks=WarmHooks(step=steps),
        )
        following = asyncio.create_task(projection.run())
        if not await projection.wait_through(journal.head(), timeout_s=60):
            following.cancel()
            raise SystemExit(f"stuck: {projection.progress}")
        following.cancel()
        frames = [each async for each in journal.read(0, after=0, through=journal.head()[0])]
    expected = sum(each.entry.batch.num_rows for each in frames if each.entry.batch is not None)
    rows = await rows_of(store, asked(None, counted("position", "row")))
    counts = {name: await rollup_counts(store, name) for name in ("logs", "dumps")}
    found = {
        "expected": expected,
        "records": sum(row["n"] for row in rows),
        "distinct": len(rows),
        "rollups_match": all(
            each["rollup severity"] == each["scan severity"] and each["rollup host"] == each["scan host"]
            for each in counts.values()
        ),
        "counted": sum(row["n"] for each in counts.values() for row in each["rollup host"]),
    }
    await store.close()
    print(json.dumps(found), flush=True)  # noqa: T201 - the parent reads it


def main() -> None:
    """See the module."""
    directory, further = FilePath(sys.argv[2]), sys.argv[3:]
    if sys.argv[1] == "fill":
        asyncio.run(fill(directory, *map(int, further)))
        return
    last_step, how = [*further, "0", ""][:2]
    with mock.patch.object(ClickHouseLogStore, "recover", BREAKS.get(how, ClickHouseLogStore.recover)):
        asyncio.run(run(directory, last_step))


if __name__ == "__main__":
    main()
