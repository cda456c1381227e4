"""Dumps on a way of their own: what takes long there costs logs nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import cast

import pyarrow as pa
import pytest

from heimdall_server.domain.decoding import FormatKind
from heimdall_server.domain.errors import DrainingError
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.protect.texts import masked_text
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.names import StoredNames
from heimdall_server.services.ingest.logic.pipeline import Pipeline, PipelineLimits
from heimdall_server.services.ingest.model import Acked, DumpFacts
from tests.unit.ingest.harness import Ingest, spin

PIECE_BYTES = 64


@pytest.fixture
async def ingest() -> AsyncIterator[Ingest]:
    ingest = Ingest(pipeline_limits=PipelineLimits(group_rows_max=3), dump_piece_bytes=PIECE_BYTES)
    before = metrics.QUEUED_BYTES._value.get()
    yield ingest
    await ingest.stop()
    assert ingest.budget.used_bytes == 0
    assert ingest.pipeline.held_bytes == ingest.dump_pipeline.held_bytes == 0
    assert metrics.QUEUED_BYTES._value.get() == before


def lines(count: int) -> bytes:
    return b"".join(b'{"message":"r%03d"}\n' % number for number in range(count))


async def test_logs_are_acknowledged_while_a_dump_is_being_read(ingest: Ingest) -> None:
    dump = await ingest.open("people", dump=DumpFacts("people", "ab" * 32))
    log = await ingest.open("log")
    dump.send(0, lines(40))
    await spin()
    log.send(0, lines(3))
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step()
    await spin()
    assert [type(event) for event in await log.read()] == [Acked]
    assert await dump.read() == []
    await ingest.settle()
    assert ingest.bodies("people") == [f"r{number:03}" for number in range(40)]
    dump.close()
    log.close()


async def test_a_dump_becomes_durable_in_small_groups(ingest: Ingest) -> None:
    dump = await ingest.open("people", dump=DumpFacts("people", "ab" * 32))
    dump.send(0, lines(40))
    await spin()
    ingest.dump_worker.step()
    await spin()
    ingest.journal.step()
    await spin()
    (first,) = await dump.read()
    assert isinstance(first, Acked)
    assert 0 < first.next_offset < len(lines(40))
    await ingest.settle()
    sizes = [frame.entry.batch.num_rows for frame in ingest.frames if frame.entry.batch is not None]
    assert sum(sizes) == 40
    assert max(sizes) <= 3 + PIECE_BYTES // len(lines(1))
    dump.close()


async def test_a_record_longer_than_a_piece_is_kept_whole(ingest: Ingest) -> None:
    dump = await ingest.open("people", dump=DumpFacts("people", "ab" * 32))
    long = b'{"message":"%s"}\n' % (b"x" * 5 * PIECE_BYTES)
    dump.send(0, lines(5) + long + lines(5))
    await ingest.settle()
    assert [len(body) for body in ingest.bodies("people")] == [4] * 5 + [5 * PIECE_BYTES] + [4] * 5
    dump.close()


@pytest.mark.parametrize("kind", [FormatKind.CSV, FormatKind.TEXT, FormatKind.NDJSON])
async def test_pieces_hold_the_records_that_the_whole_holds(kind: FormatKind) -> None:
    rows = [f'{number},"of ""row""\n{number}",x' for number in range(30)]
    data = {
        FormatKind.CSV: "\n".join(["id,message,other", *rows, ""]).encode(),
        FormatKind.TEXT: b"".join(b"2024-01-01 10:00:%02d ERROR it broke\n\tat line %d\n" % (n, n) for n in range(30)),
        FormatKind.NDJSON: lines(30),
    }[kind]
    found = []
    for piece_bytes in (0, PIECE_BYTES):
        ingest = Ingest(dump_piece_bytes=piece_bytes)
        dump = await ingest.open("people", kind=kind, dump=DumpFacts("people", "ab" * 32))
        dump.send(0, data)
        dump.finish()
        await ingest.settle()
        found.append(ingest.bodies("people"))
        dump.close()
        await ingest.stop()
    assert len(found[0]) == 30
    assert found[0] == found[1]


class _Endless:
    """Protects for ever, until it is told to stop."""

    policy_version = 1

    def __init__(self) -> None:
        self.began, self.stopping = threading.Event(), threading.Event()

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        del batch, again
        self.began.set()
        self.stopping.wait()
        raise DrainingError


async def test_what_takes_for_ever_is_interrupted_at_the_end_of_the_closing_time() -> None:
    ingest, protector = Ingest(), _Endless()
    pipeline = Pipeline(
        journal=ingest.journal,
        protector=cast("Protector", protector),
        clock=ingest.clock,
        limits=PipelineLimits(),
        interrupt=protector.stopping.set,
    )
    pipeline.start()
    ingest.append = AppendUseCase(
        state=ingest.state,
        pipeline=pipeline,
        clock=ingest.clock,
        datasets=("logs", "dumps"),
        keep_raw=True,
        names=StoredNames(masked_text, bytes(32)),
    )
    stream = await ingest.open("people", dump=DumpFacts("people", "ab" * 32))
    stream.send(0, lines(3))
    assert await asyncio.to_thread(protector.began.wait, 5)
    assert not await pipeline.close(timeout_s=0.05)
    assert protector.stopping.is_set()
    stream.close()
    await ingest.stop()
