"""Entries, clocks and journals for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.domain.records import RECORD_SCHEMA, TIME_TYPE, default_column
from heimdall_server.ports.journal import DeadLetter, Entry, Frame, Journal, RequestMark, SourceKey, SourceMark
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.journal import EmbeddedJournal

KEY = RootKey(b"k" * 32)
OTHER_KEY = RootKey(b"o" * 32)
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS


@dataclass
class ManualClock:
    """A clock that only a test moves."""

    time_ns: int = START_NS

    def now_ns(self) -> int:
        return self.time_ns

    def monotonic_s(self) -> float:
        return self.time_ns / 1e9

    def advance(self, seconds: float) -> None:
        self.time_ns += int(seconds * 1e9)


def make_batch(bodies: Sequence[str]) -> pa.RecordBatch:
    """Records that carry these bodies and little else."""
    count = len(bodies)
    time = pa.array(np.full(count, START_NS, np.int64)).cast(TIME_TYPE)
    columns = {
        "time": time,
        "observed_time": time,
        "body": pa.array(bodies, pa.string()),
        "record_number": pa.array(np.arange(count, dtype=np.uint64)),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] if name in columns else default_column(name, count) for name in RECORD_SCHEMA.names],
        schema=RECORD_SCHEMA,
    )


def make_entry(name: str, *, rows: int = 2, body_bytes: int = 16, epoch: int = 1) -> Entry:
    """An entry with a source mark and records that name it."""
    key = SourceKey("spiffe://test/client", name)
    mark = SourceMark(key, epoch, 0, rows, rows, 0, batches=((0, rows, 7),), format='{"format":"ndjson"}')
    return Entry(make_batch([f"{name}/{row}".ljust(body_bytes, ".") for row in range(rows)]), sources=(mark,))


def full_entry(name: str) -> Entry:
    """An entry with everything that one can carry."""
    key = SourceKey("spiffe://test/client", name)
    entry = make_entry(name)
    return Entry(
        entry.batch,
        sources=(
            SourceMark(
                key,
                3,
                10,
                2**40,
                5,
                1,
                format="{}",
                dump='{"name":"d"}',
                finished=True,
                first_row=4,
                batches=((10, 2**40, 2**32 - 1),),
            ),
        ),
        requests=(RequestMark("spiffe://test/otel", b"\1" * 32, START_NS, 8, 2, "two refused"),),
        dead_letters=(DeadLetter(key, 17, 3, "not json", START_NS, b"\0\xff{", "ndjson", "{}", "time"),),
        resolved_letters=("1/0",),
        sidecars={"vault": b"\0sealed"},
    )


def name_of(frame: Frame) -> str:
    """The name of the entry that `make_entry` made."""
    return frame.entry.sources[0].key.source


def small_config(path: Path, **changes: object) -> JournalConfig:
    """Segments of 64 KiB, nothing kept that may go, no disk reserve, no cache."""
    values: dict[str, object] = {
        "path": path,
        "segment_bytes": 64 * 1024,
        "bytes_max": 16 * 1024 * 1024,
        "retain_bytes": 0,
        "disk_reserve_bytes": 0,
        "disk_check_s": 0.0,
        "cache_bytes": 0,
    }
    return JournalConfig(**{**values, **changes})  # type: ignore[arg-type]  # the caller names fields of JournalConfig


@contextlib.asynccontextmanager
async def opened(
    config: JournalConfig, *, key: RootKey = KEY, clock: ManualClock | None = None
) -> AsyncIterator[EmbeddedJournal]:
    """A journal for the length of a block."""
    journal = await EmbeddedJournal.open(config, key=key, clock=clock or ManualClock())
    try:
        yield journal
    finally:
        await journal.close()


async def read_all(journal: Journal, *, after: int = 0) -> list[Frame]:
    """Everything up to the head."""
    return [frame async for frame in journal.read(0, after=after, through=journal.head()[0])]


async def crash(journal: EmbeddedJournal) -> None:
    """Let go of the directory as a killed process would: nothing is sealed, nothing flushed."""
    journal._writer.stop(seal=False)
    await journal.close()


class LastOffsets:
    """A control state: the last offset of each source, and how it came to it."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.applied: list[int] = []
        self.restored = False

    def restore(self, snapshot: bytes) -> None:
        self.restored = True
        pairs = (line.rsplit("=", 1) for line in snapshot.decode().splitlines())
        self.offsets = {name: int(offset) for name, offset in pairs}

    def apply(self, frame: Frame) -> None:
        self.applied.append(frame.position)
        for mark in frame.entry.sources:
            self.offsets[mark.key.source] = mark.next_offset

    def snapshot(self) -> bytes:
        return "\n".join(f"{name}={offset}" for name, offset in self.offsets.items()).encode()
