"""Groups: what is together, what fails alone, and who waits for whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format
from heimdall_server.domain.errors import DrainingError, JournalFullError, OverloadedError
from heimdall_server.ports.protector import Protected
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from heimdall_server.services.ingest.model import Acked, Ended, Finished
from tests.unit.ingest.harness import Ingest, PlainProtector, Stream, spin

MIB = 1024 * 1024


def line(body: str) -> bytes:
    return b'{"message":"%s"}\n' % body.encode()


async def feed(stream: Stream, *pieces: bytes) -> None:
    offset = stream.session.received
    for piece in pieces:
        stream.send(offset, piece)
        offset += len(piece)
    await spin()


class Panic(BaseException):
    """As a native library's, which is no Exception."""


class PickyProtector(PlainProtector):
    """Fails on a word."""

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        del again
        if any("poison" in body for body in batch["body"].to_pylist()):
            raise Panic
        return Protected(batch)


async def test_what_cannot_be_protected_is_not_stored_and_its_neighbours_are() -> None:
    ingest = Ingest(protector=PickyProtector())
    good, bad, other = await ingest.open("good"), await ingest.open("bad"), await ingest.open("other")
    await feed(good, line("a"), line("b"))
    await feed(bad, line("poison"))
    await feed(other, line("c"))
    await ingest.settle()
    assert (ingest.bodies("good"), ingest.bodies("bad"), ingest.bodies("other")) == (["a", "b"], [], ["c"])
    assert isinstance((await bad.read())[-1], Ended)
    assert isinstance((await good.read())[-1], Acked)
    for stream in (good, bad, other):
        stream.close()
    await ingest.stop()


async def test_a_decoder_that_fails_on_a_record_costs_that_record_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = dispatch.decode

    def decode(chunk: bytes, format_: Format, context: DecodeContext, **how: Any) -> Decoded:
        if b"poison" in chunk:
            raise Panic
        return real(chunk, format_, context, **how)

    monkeypatch.setattr(dispatch, "decode", decode)
    ingest = Ingest()
    stream, other = await ingest.open("s"), await ingest.open("other")
    rows = [line(f"r{n} " + "x" * 1000) for n in range(1000)]
    rows[300] = line("poison")
    await feed(stream, b"".join(rows))
    await feed(other, line("fine"))
    stream.finish()
    await ingest.settle()
    finished = (await stream.read())[-1]
    assert isinstance(finished, Finished)
    assert finished.next_offset == len(b"".join(rows))
    (letter,) = ingest.letters("s")
    assert line("poison") in letter
    assert len(letter) <= 64 * 1024
    kept = ingest.bodies("s")
    assert len(kept) > 900
    assert kept[0].startswith("r0 ")
    assert kept[-1].startswith("r999 ")
    assert ingest.bodies("other") == ["fine"]
    for one in (stream, other):
        one.close()
    await ingest.stop()


async def test_a_group_is_bounded_in_rows_and_the_rest_comes_in_order() -> None:
    ingest = Ingest(pipeline_limits=PipelineLimits(group_rows_max=10))
    streams = [await ingest.open(name) for name in ("a", "b")]
    # One payload is decoded whole; those behind it wait for the next group.
    for stream in streams:
        await feed(stream, *[b"".join(line(f"{first + n}") for n in range(8)) for first in range(0, 40, 8)])
        stream.finish()
    await ingest.settle()
    for name, stream in zip("ab", streams, strict=True):
        assert ingest.bodies(name) == [str(n) for n in range(40)]
        assert isinstance((await stream.read())[-1], Finished)
        stream.close()
    await ingest.stop()
    assert ingest.budget.used_bytes == 0


async def test_a_small_batch_does_not_wait_behind_all_of_a_large_stream() -> None:
    ingest = Ingest(pipeline_limits=PipelineLimits(group_bytes_max=4 * MIB))
    large, small = await ingest.open("large"), await ingest.open("small")
    piece = line("x" * (MIB - 20))
    await feed(large, piece)  # goes to the worker alone
    await feed(large, *[piece] * 20)
    await feed(small, line("quick"))
    ingest.worker.step()
    await spin()
    ingest.journal.step()
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step()
    await spin()
    assert ingest.bodies("small") == ["quick"]
    assert len(ingest.bodies("large")) < 6
    await ingest.settle()
    assert len(ingest.bodies("large")) == 21
    for stream in (large, small):
        stream.close()
    await ingest.stop()


async def test_a_bug_in_the_journal_ends_the_streams_and_not_the_pipeline() -> None:
    ingest = Ingest()
    stream = await ingest.open("s")
    await feed(stream, line("a"))
    ingest.worker.step()
    await spin()
    ingest.journal.step(ZeroDivisionError())
    await spin()
    assert isinstance((await stream.read())[-1], Ended)
    stream.close()
    again = await ingest.open("s")
    await feed(again, line("a"))
    await ingest.settle()
    assert ingest.bodies("s") == ["a"]
    again.close()
    await ingest.stop()


async def test_while_a_frame_is_refused_the_next_group_of_its_lane_is_dropped() -> None:
    ingest = Ingest()
    stream, other = await ingest.open("s"), await ingest.open("other")
    await feed(stream, line("a"))
    ingest.worker.step()
    await spin()  # being written
    await feed(stream, line("b"))
    await feed(other, line("x"))
    ingest.worker.step()
    await spin()  # decoded, waits
    ingest.journal.step(JournalFullError(1.0, "journal_bytes_max"))
    await ingest.settle()
    assert (ingest.bodies("s"), ingest.bodies("other")) == ([], ["x"])
    for one in (stream, other):
        one.close()
    await ingest.stop()


async def test_a_full_queue_refuses_with_a_time_and_a_closed_pipeline_for_good() -> None:
    ingest = Ingest(pipeline_limits=PipelineLimits(queue_bytes_max=100))
    stream = await ingest.open("s")
    await feed(stream, line("a" * 50))
    await feed(stream, line("b" * 90))
    (nack,) = await stream.read()
    assert isinstance(nack.error, OverloadedError)  # type: ignore[union-attr]  # a Nacked
    await ingest.stop()
    await feed(stream, line("c"))
    ended = (await stream.read())[-1]
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, DrainingError)
    stream.close()


async def test_closing_finishes_what_was_taken() -> None:
    ingest = Ingest()
    stream = await ingest.open("s")
    await feed(stream, *[line(str(n)) for n in range(20)])
    await ingest.stop()
    assert ingest.bodies("s") == [str(n) for n in range(20)]
    assert isinstance((await stream.read())[-1], Acked)
    stream.close()


async def test_a_barrier_waits_for_what_is_being_worked_on_and_for_nothing_later() -> None:
    ingest = Ingest()
    await asyncio.wait_for(ingest.pipeline.barrier(), 10)
    stream = await ingest.open("s")
    await feed(stream, line("a"))
    waiting = asyncio.create_task(ingest.pipeline.barrier())
    await feed(stream, line("later"))
    assert not waiting.done()
    assert ingest.worker.step()
    await spin()
    assert not waiting.done(), "protected, and not yet durable"
    assert ingest.journal.step()
    await spin()
    assert waiting.done()
    assert ingest.bodies("s") == ["a"]
    stream.close()
    await ingest.stop()
