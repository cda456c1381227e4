"""A store of many rows, made once and kept: the mix of `corpus`, spread over days, without a client in the way.

The rows are generated as columns and take the way of every record from there on: an encrypted frame of the journal, the
projection, the store's own insert, the rollups, the checkpoint. Only decoding and protection are left out; bodies are as
those leave them. So tables, positions and parts are what a real ingest of the same rows yields.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.crypto.key_file import load_or_mint_key
from heimdall_server.domain.datasets import DEFAULT_DATASETS
from heimdall_server.domain.records import MAP_BOOL, MAP_NUMBER, MAP_STRING, RECORD_SCHEMA, TIME_TYPE, default_column
from heimdall_server.ports.journal import Entry, Positions
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import WarmHooks, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock

FORM: Final = 1
"""Goes up when the rows change, so that a kept store of another form is made anew."""
NEEDLE: Final = "quartzite"
"""A word of one row in a million."""
COMMON: Final = "timeout"
"""A word of about 2.7 % of the rows."""
_FRAME_ROWS: Final = 65_536
_FACTS: Final = "bench-store.json"
_SERVICES: Final[Mapping[str, float]] = {
    "checkout": 14, "payments": 10, "catalog": 18, "search": 14, "auth": 12, "cart": 10, "gateway": 16, "mailer": 3,
    "inventory": 5, "recommendations": 4, "billing": 2, "scheduler": 1,
}  # fmt: skip
_LEVELS: Final[Mapping[str, tuple[int, float]]] = {
    "DEBUG": (5, 14), "INFO": (9, 72), "WARN": (13, 9), "ERROR": (17, 4.5), "FATAL": (21, 0.1),
}  # fmt: skip
_PATHS: Final = ("/api/cart", "/api/items", "/api/orders", "/api/search", "/login", "/health", "/api/users/me")
_REGIONS: Final = ("eu-central-1", "eu-west-1", "us-east-1")
_PERSONAL: Final = (
    "user [email] signed in from {ip} after {n3} attempts",
    "confirmation for order {n8} sent to [email]",
    "card [card] accepted for order {n8}",
    "password reset asked for [email], token expires in {n2} min",
    "callback to [phone] scheduled by agent {n3}",
    "blocked {ip}: {n3} requests in 10 s on {path}",
)
_PLAIN: Final = (
    "GET {path} 200 in {n3} ms, {n5} bytes",
    "cache miss for key item:{n6}, fetched in {n2} ms",
    "job {n7} finished, {n4} rows written",
    "connection pool at {n2} of 100, waited {n2} ms",
    "stock of item {n6} is {n3} after order {n8}",
    "query plan {hex} took {n4} ms over {n6} rows",
    "retry {n1} of 5 for upstream {service}",
)
_TROUBLE: Final = (
    "timeout after {n5} ms calling {service}",
    "connection refused by db-{n1}.internal:5432, attempt {n1}",
    "payment declined for [email]: insufficient funds, order {n8}",
    "unhandled error in handler for {path}: index {n3} out of range",
    "disk /var/lib/data at {n2} %, {n2} GiB left",
)
_TEMPLATES: Final = (*_TROUBLE, *_PERSONAL, *_PLAIN)
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoreFacts:
    """What a kept store holds."""

    form: int
    row_count: int
    end_time_ns: int
    """Of the newest row."""
    span_s: float
    trace_id: str
    """One that some rows have, in lower-case hex."""
    build_s: float


def kept_store(folder: Path, row_count: int, *, span_s: float = 3 * 86_400.0) -> StoreFacts:
    """Make the data folder of a server that holds these rows, unless it is there.

    Args:
        folder: What becomes the server's `data_dir`; kept for the next run.
        row_count: Rows.
        span_s: Seconds from the oldest to the newest one, which is of now.
    """
    facts = folder / _FACTS
    if facts.is_file():
        found = StoreFacts(**json.loads(facts.read_text()))
        if (found.form, found.row_count, found.span_s) == (FORM, row_count, span_s):
            return found
        message = f"{folder} holds another store ({found.row_count:,} rows, form {found.form}): name another folder"
        raise SystemExit(message)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = asyncio.run(_build(folder, row_count, span_s))
    facts.write_text(json.dumps(made.__dict__) + "\n")
    return made


async def _build(folder: Path, row_count: int, span_s: float) -> StoreFacts:
    started = time.monotonic()
    clock = SystemClock()
    end_ns = clock.now_ns()
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    key = load_or_mint_key(folder / "keys" / "root.key", expected_fingerprint=None)
    journal = await EmbeddedJournal.open(
        JournalConfig(folder / "journal", retain_bytes=0, disk_reserve_bytes=0), key=key, clock=clock
    )
    store = ClickHouseLogStore(ChdbEngine(folder / "warm"), ClickHouseConfig("heimdall", DEFAULT_DATASETS))

    async def trim(through: Positions) -> None:
        await journal.trim(through)

    warm = WarmProjection(
        journal,
        store,
        CheckpointFile(folder / "checkpoints" / "warm.json"),
        clock,
        limits=ReadLimits(batch_rows=8 * _FRAME_ROWS, held_rows_max=12 * _FRAME_ROWS, held_bytes_max=1 << 30),
        hooks=WarmHooks(on_advanced=trim),
    )
    trace = b""
    await store.open()
    following = asyncio.create_task(warm.run())
    try:
        for first in range(0, row_count, _FRAME_ROWS):
            count = min(_FRAME_ROWS, row_count - first)
            batch = await asyncio.to_thread(rows, first, count, row_count, end_ns, int(span_s * 1e9))
            if first <= row_count // 2:
                trace = bytes(batch.column("trace_id")[count // 2].as_py())
            await journal.append([Entry(batch)])
            # The journal's bound would hold us back at last; sooner keeps what lies on the disk small.
            while journal.head().get(0, 0) - warm.visible_through.get(0, 0) > 32:
                await asyncio.sleep(0.05)
                if following.done():
                    following.result()
        if not await warm.wait_through(journal.head(), 600):
            message = "the store didn't catch up"
            raise RuntimeError(message)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await store.close()
        await journal.close()
    return StoreFacts(FORM, row_count, end_ns, span_s, trace.hex(), round(time.monotonic() - started, 1))


def rows(first: int, count: int, total: int, end_ns: int, span_ns: int) -> pa.RecordBatch:
    """Some of the rows, as a decoder and a protector would hand them on.

    Args:
        first: Number of the first one, from 0; the oldest.
        count: How many.
        total: How many there are in all.
        end_ns: Time of the last of all.
        span_ns: From the first of all to the last.
    """
    r = np.random.default_rng([FORM, first])
    numbers = np.arange(first, first + count, dtype=np.int64)
    times = end_ns - span_ns + (numbers + 1) * (span_ns // total) + r.integers(-1_000_000, 1_000_000, count)
    service, level = _drawn(r, list(_SERVICES.values()), count), _drawn(r, [w for _, w in _LEVELS.values()], count)
    services = pa.array(list(_SERVICES)).take(pa.array(service))
    hosts = pl.select(pl.format("{}-{}", pl.Series(services), pl.Series(r.integers(0, 8, count)))).to_series()
    columns: dict[str, pa.Array] = {
        "time": pa.array(times).cast(TIME_TYPE),
        "observed_time": pa.array(times + r.integers(1_000_000, 900_000_000, count)).cast(TIME_TYPE),
        "severity": pa.array(np.array([number for number, _ in _LEVELS.values()], np.uint8)[level]),
        "severity_text": pa.array(list(_LEVELS)).take(pa.array(level)),
        "service": services,
        "host": hosts.to_arrow().cast(pa.string()),
        "source": pa.repeat(pa.scalar("bench"), count),
        "body": _bodies(r, level >= 2, numbers),
        "trace_id": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), count, [None, pa.py_buffer(r.bytes(16 * count))]
        ),
        "attributes": _map(MAP_STRING, "region", pa.array(_REGIONS).take(pa.array(r.integers(0, 3, count)))),
        "attributes_number": _map(MAP_NUMBER, "duration_ms", pa.array(r.integers(1, 3000, count).astype(np.float64))),
        "attributes_bool": _map(MAP_BOOL, "cached", pa.array(r.random(count) < 0.3)),
        "dataset": pa.repeat(pa.scalar("logs"), count),
        "policy_version": pa.repeat(pa.scalar(1, pa.uint32()), count),
    }
    arrays = [columns[f.name] if f.name in columns else default_column(f.name, count) for f in RECORD_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def _drawn(r: np.random.Generator, weights: list[float], count: int) -> _Integers:
    return r.choice(len(weights), count, p=np.array(weights) / sum(weights)).astype(np.int64)


def _map(kind: pa.MapType, key: str, values: pa.Array) -> pa.Array:
    """One pair a row."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32))
    return pa.MapArray.from_arrays(offsets, pa.repeat(pa.scalar(key), len(values)), values, type=kind)


def _bodies(r: np.random.Generator, trouble: npt.NDArray[np.bool_], numbers: _Integers) -> pa.Array:
    personal = r.random(len(numbers)) < 0.4
    template = np.where(
        trouble,
        r.integers(0, len(_TROUBLE), len(numbers)),
        np.where(
            personal,
            len(_TROUBLE) + r.integers(0, len(_PERSONAL), len(numbers)),
            len(_TROUBLE) + len(_PERSONAL) + r.integers(0, len(_PLAIN), len(numbers)),
        ),
    )
    order = np.argsort(template, kind="stable")
    counts = np.bincount(template, minlength=len(_TEMPLATES))
    pieces = [_filled(r, text, int(count)) for text, count in zip(_TEMPLATES, counts, strict=True)]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    bodies = pl.concat(pieces).gather(places)
    if (needles := np.flatnonzero(numbers % 1_000_000 == 1_000_000 // 2)).size:
        bodies = bodies.scatter(needles.tolist(), [f"{NEEDLE} found by survey {n}" for n in numbers[needles]])
    return bodies.to_arrow().cast(pa.string())


def _filled(r: np.random.Generator, template: str, count: int) -> pl.Series:
    """So many bodies of a template."""
    values: list[pl.Series] = []
    pieces = template.split("{")
    text = pieces[0]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}")
        if name == "ip":
            values += [pl.Series(r.integers(0, 255, count)) for _ in range(2)]
            text += "10.7.{}.{}" + rest
            continue
        text += "{}" + rest
        if name == "path":
            values.append(pl.Series(_PATHS).gather(r.integers(0, len(_PATHS), count)))
        elif name == "service":
            values.append(pl.Series(list(_SERVICES)).gather(r.integers(0, len(_SERVICES), count)))
        elif name == "hex":
            values.append(pl.Series([f"{n:08x}" for n in r.integers(0, 16**8, count).tolist()], dtype=pl.String))
        else:
            values.append(pl.Series(r.integers(1, 10 ** int(name[1:]), count)))
    if not values:
        return pl.Series([text] * count, dtype=pl.String)
    return pl.select(pl.format(text, *values)).to_series()
