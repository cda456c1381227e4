"""One stream's rules, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pyarrow as pa
import pytest

from heimdall_server.domain.decoding import FormatKind
from heimdall_server.domain.errors import (
    FormatError,
    InvalidArgumentError,
    JournalFullError,
    SourceFencedError,
    StoreError,
    StreamProtocolError,
)
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.services.ingest.logic.outbox import EVENTS_MAX
from heimdall_server.services.ingest.model import Acked, Draining, DumpFacts, Ended, Finished, Nacked
from tests.unit.ingest.harness import PRINCIPAL, Ingest, Stream, spin

FULL = JournalFullError(1.0, "journal_bytes_max")


def lines(count: int, first: int = 0) -> bytes:
    return b"".join(b'{"message":"r%d"}\n' % n for n in range(first, first + count))


def arrow(*bodies: str) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"message": list(bodies)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.fixture
async def ingest() -> AsyncIterator[Ingest]:
    ingest = Ingest()
    yield ingest
    await ingest.stop()
    assert ingest.budget.used_bytes == 0
    assert ingest.pipeline.held_bytes == 0


async def close(ingest: Ingest, *streams: Stream) -> None:
    for stream in streams:
        stream.close()
    await ingest.settle()
    assert ingest.append.session_count == 0


async def test_what_was_sent_before_a_refusal_was_seen_is_dropped_without_a_word(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    data = [lines(3, first=3 * n) for n in range(4)]
    offsets = [sum(map(len, data[:n])) for n in range(5)]
    stream.send(0, data[0])
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(FULL)
    await spin()
    for n in (1, 2, 3):  # in flight already
        stream.send(offsets[n], data[n])
    await ingest.settle()
    (nack,) = await stream.read()
    assert isinstance(nack, Nacked)
    assert (nack.offset, nack.error) == (0, FULL)
    for n in range(4):
        stream.send(offsets[n], data[n])
    stream.finish()
    await ingest.settle()
    events = await stream.read()
    assert not [event for event in events if isinstance(event, Nacked)]
    assert isinstance(events[-1], Finished)
    assert ingest.bodies("s") == [f"r{n}" for n in range(12)]
    await close(ingest, stream)


async def test_a_finish_sent_before_a_refusal_was_seen_does_not_finish_the_source(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(3))
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(FULL)
    await spin()
    stream.finish()
    await ingest.settle()
    assert [type(event) for event in await stream.read()] == [Nacked]
    assert ingest.bodies("s") == []
    stream.send(0, lines(3))
    stream.finish()
    await ingest.settle()
    finished = (await stream.read())[-1]
    assert isinstance(finished, Finished)
    assert finished.next_offset == len(lines(3))
    await close(ingest, stream)


async def test_a_refused_finish_with_nothing_missing_is_simply_sent_again(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(3))
    await ingest.settle()
    stream.finish()
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(FULL)
    await spin()
    assert isinstance((await stream.read())[-1], Nacked)
    stream.finish()
    await ingest.settle()
    assert isinstance((await stream.read())[-1], Finished)
    await close(ingest, stream)


async def test_of_merged_payloads_those_before_a_bad_one_are_kept(ingest: Ingest) -> None:
    stream = await ingest.open("s", kind=FormatKind.ARROW)
    stream.send(0, arrow("a", "b"), next_offset=2)
    await spin()
    # While the first is decoded, what comes is merged into one job.
    stream.send(2, arrow("c"), next_offset=3)
    stream.send(3, b"garbage", next_offset=4)
    stream.send(4, arrow("e"), next_offset=5)
    await ingest.settle()
    events = await stream.read()
    nack = events[-1]
    assert isinstance(nack, Nacked)
    assert (nack.offset, type(nack.error)) == (3, FormatError)
    assert ingest.bodies("s") == ["a", "b", "c"]
    stream.send(3, arrow("d"), next_offset=4)
    stream.send(4, arrow("e"), next_offset=5)
    stream.finish()
    await ingest.settle()
    assert isinstance((await stream.read())[-1], Finished)
    assert ingest.bodies("s") == ["a", "b", "c", "d", "e"]
    await close(ingest, stream)


async def test_a_count_that_is_not_the_payloads_is_refused_with_the_right_one(ingest: Ingest) -> None:
    stream = await ingest.open("s", kind=FormatKind.ARROW)
    stream.send(0, arrow("a", "b"), next_offset=3)
    await ingest.settle()
    (nack,) = await stream.read()
    assert isinstance(nack, Nacked)
    assert isinstance(nack.error, InvalidArgumentError)
    assert "2 records" in str(nack.error)
    await close(ingest, stream)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_failed_journal_ends_the_stream_since_nobody_knows_what_is_durable(
    ingest: Ingest, durable: bool
) -> None:
    stream, other = await ingest.open("s"), await ingest.open("other")
    stream.send(0, lines(3))
    other.send(0, lines(1))
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(StoreError("journal", "disk"), durable=durable)
    await ingest.settle()
    for one in (stream, other):
        ended = (await one.read())[-1]
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, StoreError)
    await close(ingest, stream, other)
    # The journal opened again says what is so, and a resend completes it.
    again = Ingest(ingest.frames)
    reopened = await again.open("s")
    assert reopened.session.received == (len(lines(3)) if durable else 0)
    reopened.send(0, lines(5))
    reopened.finish()
    await again.settle()
    assert again.bodies("s") == [f"r{n}" for n in range(5)]
    reopened.close()
    await again.stop()


async def test_a_newer_stream_waits_for_frames_that_are_being_written(ingest: Ingest) -> None:
    older = await ingest.open("s")
    older.send(0, lines(3))
    await spin()
    ingest.worker.step()
    await spin()  # its frame is being written
    older.send(len(lines(3)), lines(3, first=3))
    await spin()
    openings = [asyncio.create_task(ingest.open("s")) for _ in range(3)]
    await spin()
    assert not any(task.done() for task in openings)
    await ingest.settle()
    streams = [await task for task in openings]
    assert [stream.session.received for stream in streams] == [len(lines(3))] * 3
    assert len({stream.session.epoch for stream in streams}) == 3
    for stream in (older, *streams[:-1]):
        ended = (await stream.read())[-1]
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, SourceFencedError)
    newest = max(streams, key=lambda stream: stream.session.epoch)
    newest.send(len(lines(3)), lines(2, first=3))
    newest.finish()
    await ingest.settle()
    assert ingest.bodies("s") == [f"r{n}" for n in range(5)]
    await close(ingest, older, *streams)


async def test_a_finish_under_way_of_a_broken_stream_does_not_move_the_next_one(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(1) + b'{"message":"half')
    await ingest.settle()
    stream.finish()  # makes the held half a dead letter
    await spin()
    ingest.worker.step()
    await spin()
    stream.close()
    opening = asyncio.create_task(ingest.open("s"))
    await ingest.settle()
    reopened = await opening
    assert reopened.session.received == len(lines(1)) + 16
    await close(ingest, reopened)


async def test_a_stream_that_broke_is_forgotten_when_its_last_batch_is_durable(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(3))
    await spin()
    stream.close()
    assert ingest.append.session_count == 1
    await ingest.settle()
    assert ingest.append.session_count == 0
    assert ingest.bodies("s") == ["r0", "r1", "r2"]
    assert (ingest.state.counts.accepted, ingest.append.stream_count) == (3, 0)


async def test_draining_acknowledges_what_was_taken_and_takes_no_more(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(3))
    await spin()
    stream.session.drain()
    stream.reader.cancel()
    stream.send(len(lines(3)), lines(3, first=3))
    await ingest.settle()
    events = await stream.read()
    assert [type(event) for event in events] == [Draining, Acked]
    assert stream.ended
    assert ingest.bodies("s") == ["r0", "r1", "r2"]
    await close(ingest, stream)


async def test_a_half_closed_stream_ends_after_its_last_answer_whatever_it_is(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(3))
    await spin()
    stream.send(len(lines(3)), lines(3, first=3))
    stream.half_close()
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(FULL)
    await spin()
    assert isinstance((await stream.read())[-1], Nacked)
    await ingest.settle()  # the second batch is dropped, which says nothing
    await stream.read()
    assert stream.ended
    await close(ingest, stream)


async def test_acknowledgements_that_nobody_reads_are_one(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    offset = 0
    for n in range(50):
        stream.send(offset, lines(1, first=n))
        offset += len(lines(1, first=n))
        await ingest.settle()
    (ack,) = await stream.read()
    assert isinstance(ack, Acked)
    assert (ack.next_offset, ack.accepted_count) == (offset, 50)
    await close(ingest, stream)


async def test_a_client_that_provokes_and_never_reads_is_ended(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    for _ in range(EVENTS_MAX + 10):
        stream.send(0, lines(1), crc=1)
        await spin(5)
    (ended,) = await stream.read()
    assert isinstance(ended, Ended)
    assert "waited" in str(ended.error)
    await close(ingest, stream)


async def test_a_stream_waits_when_its_window_or_the_process_is_full() -> None:
    limits = RpcLimits(
        message_bytes_max=1000,
        message_inflated_bytes_max=1000,
        inflight_bytes_max=1000,
        append_batches_in_flight_max=2,
        append_bytes_in_flight_max=1000,
    )
    ingest = Ingest(limits=limits)
    first, second = await ingest.open("a"), await ingest.open("b")
    size = len(lines(10))
    for n in range(4):
        first.send(n * size, lines(10))
    await spin()
    assert (first.window.size_bytes, first.session.received) == (2 * size, 2 * size)
    for n in range(20):
        second.send(n * 400, b'{"m":"' + b"x" * 391 + b'"}\n')
    await spin()
    assert ingest.budget.used_bytes <= 1000
    await ingest.settle()
    assert ingest.budget.used_bytes == 0
    assert (first.session.received, second.session.received) == (4 * size, 20 * 400)
    await close(ingest, first, second)
    await ingest.stop()


async def test_a_flush_takes_effect_where_it_was_sent(ingest: Ingest) -> None:
    stream = await ingest.open("s", kind=FormatKind.TEXT)
    head = b"2026-11-24 10:00:00,000 ERROR [main] broke\n"
    stream.send(0, head)
    stream.flush()
    stream.send(len(head), b"  at line 1\n")
    stream.finish()
    await ingest.settle()
    assert len(ingest.bodies("s")) == 2
    await close(ingest, stream)


@pytest.mark.parametrize("how", ["batch", "finish"])
async def test_nothing_may_come_behind_finish(ingest: Ingest, how: str) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(1))
    stream.finish()
    if how == "batch":
        stream.send(len(lines(1)), lines(1))
    else:
        stream.finish()
    await spin()
    ended = (await stream.read())[-1]
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, StreamProtocolError)
    await ingest.settle()
    assert ingest.bodies("s") == ["r0"]  # what was taken goes its way
    await close(ingest, stream)


async def test_a_dump_that_was_taken_in_asks_for_nothing_and_stores_nothing(ingest: Ingest) -> None:
    facts = DumpFacts("people", "ab" * 32)
    stream = await ingest.open("one", dump=facts)
    stream.send(0, lines(2))
    stream.finish()
    await ingest.settle()
    frames = len(ingest.frames)
    again = await ingest.open("two", dump=facts)
    again.finish()
    await spin()
    finished = (await again.read())[-1]
    assert isinstance(finished, Finished)
    assert (finished.accepted_count, finished.next_offset) == (0, len(lines(2)))
    insists = await ingest.open("three", dump=facts)
    insists.send(0, lines(2))
    await spin()
    assert isinstance((await insists.read())[-1], Ended)
    await ingest.settle()
    assert len(ingest.frames) == frames
    with pytest.raises(InvalidArgumentError, match="other content"):
        await ingest.open("four", dump=DumpFacts("people", "cd" * 32))
    await close(ingest, stream, again, insists)


async def test_dumps_of_one_source_are_fed_apart(ingest: Ingest) -> None:
    first, second = DumpFacts("people", "ab" * 32), DumpFacts("others", "cd" * 32)
    one = await ingest.open("osint", dump=first)
    one.send(0, lines(2))
    await ingest.settle()
    two = await ingest.open("osint", dump=second)
    two.send(0, lines(3, 3))
    await ingest.settle()
    assert not [event for event in await one.read() if isinstance(event, Ended)]
    with pytest.raises(InvalidArgumentError, match="begun as people; go on with that name"):
        await ingest.open("osint", dump=DumpFacts("folk", "ab" * 32))
    again = await ingest.open("osint", dump=first)  # it fences its own stream only, and goes on where that was
    assert again.session.state.next_offset == len(lines(2))
    assert isinstance((await one.read())[-1], Ended)
    again.send(len(lines(2)), lines(1, 2))
    again.finish()
    two.finish()
    await ingest.settle()
    batches = [frame.entry.batch for frame in ingest.frames if frame.entry.batch is not None]
    records = [
        (row["source"], row["dump"], row["record_number"], row["body"])
        for batch in batches
        for row in batch.to_pylist()
    ]
    assert sorted(records) == [
        *(("osint", "others", n + 1, f"r{n + 3}") for n in range(3)),
        *(("osint", "people", n + 1, f"r{n}") for n in range(3)),
    ]
    assert [ingest.append.get(PRINCIPAL, "osint", one.content_sha256).next_offset for one in (first, second)] == [
        len(lines(3)),
        len(lines(3)),
    ]
    await close(ingest, one, two, again)


async def test_a_dump_does_not_change_its_marking_by_coming_again(ingest: Ingest) -> None:
    facts = DumpFacts("people", "ab" * 32)
    stream = await ingest.open("one", dump=facts, tlp="green")
    stream.send(0, lines(1))
    await ingest.settle()
    await close(ingest, stream)
    for other in ("red", ""):
        with pytest.raises(InvalidArgumentError, match="begun as green; go on with that marking"):
            await ingest.open("one", dump=facts, tlp=other)
    stream = await ingest.open("one", dump=facts, tlp="green")
    stream.finish()
    await ingest.settle()
    for source in ("one", "two"):
        with pytest.raises(InvalidArgumentError, match="taken in before as green, and what is stored keeps"):
            await ingest.open(source, dump=facts, tlp="red")
    same = [await ingest.open("one", dump=facts, tlp=tlp) for tlp in ("green", "")]
    unmarked = await ingest.open("three", dump=DumpFacts("others", "cd" * 32))
    unmarked.finish()
    await ingest.settle()
    same.append(await ingest.open("three", dump=DumpFacts("others", "cd" * 32), tlp="amber"))
    with pytest.raises(InvalidArgumentError, match=r"as amber \(no marking was given\)"):
        await ingest.open("three", dump=DumpFacts("others", "cd" * 32), tlp="red")
    await close(ingest, stream, unmarked, *same)


async def test_a_dump_of_a_source_that_has_logs_is_fed_apart_from_them(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    stream.send(0, lines(2))
    await ingest.settle()
    dump = await ingest.open("s", dump=DumpFacts("people", "ab" * 32))
    dump.send(0, lines(3))
    stream.send(len(lines(2)), lines(1))
    await ingest.settle()
    dump.finish()
    await ingest.settle()
    assert ingest.append.get(PRINCIPAL, "s").next_offset == len(lines(2)) + len(lines(1))
    assert ingest.append.get(PRINCIPAL, "s", "ab" * 32).next_offset == len(lines(3))
    await close(ingest, stream, dump)


async def test_held_bytes_sent_again_are_told_how_far_the_stream_is(ingest: Ingest) -> None:
    stream = await ingest.open("s")
    half = b'{"message":"half'
    stream.send(0, lines(1) + half)
    await ingest.settle()
    await stream.read()
    stream.send(len(lines(1)), half)
    await ingest.settle()
    (ack,) = await stream.read()
    assert isinstance(ack, Acked)
    assert (ack.next_offset, ack.received_offset, ack.repeated) == (len(lines(1)), len(lines(1) + half), False)
    await close(ingest, stream)
