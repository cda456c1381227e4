"""The Append stream's grammar, over real mutual TLS, on a real journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from tests.support.ingest_server import (
    FINISH,
    FLUSH,
    IngestServer,
    Sent,
    batch,
    ingest_server,
    opening,
    reason_of,
    reason_of_call,
    whole,
)
from tests.support.pki import Pki

NDJSON = source_pb2.Format.KIND_NDJSON


def lines(count: int, first: int = 0) -> bytes:
    return b"".join(
        json.dumps({"message": f"record {n}", "level": "info", "n": n}).encode() + b"\n"
        for n in range(first, first + count)
    )


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path) as running:
        yield running


async def test_a_source_is_taken_in_whole_and_acknowledged_when_durable(server: IngestServer) -> None:
    sent = await server.send("app", lines(1000), payload_bytes=7_000, kind=NDJSON)
    assert sent.finished.accepted_count == 1000
    assert sent.finished.next_offset == len(lines(1000))
    assert sent.of("ack")[-1].next_offset == len(lines(1000))
    assert await server.bodies() == [f"record {n}" for n in range(1000)]


async def test_personal_data_is_masked_before_it_is_durable(server: IngestServer) -> None:
    await server.send("app", b'{"message":"mail to ada@example.com","user":"bob@example.com"}\n', kind=NDJSON)
    record = (await server.records()).to_pylist()[0]
    assert record["body"] == "mail to [email]"
    assert dict(record["attributes"])["user"] == "[email]"
    assert record["policy_version"] == 1


async def test_a_stream_goes_on_where_the_source_stands(server: IngestServer) -> None:
    data = lines(500)
    cut = 10_001  # in the midst of a line
    first = await server.append([opening("app", kind=NDJSON), batch(0, data[:cut])])
    held = Sent(first).of("ack")[-1]
    assert held.next_offset == data.rfind(b"\n", 0, cut) + 1
    assert held.received_offset == cut
    again = Sent(await server.append(whole("app", data, start=held.next_offset, kind=NDJSON)))
    assert again.of("opened")[0].next_offset == held.next_offset
    assert again.of("opened")[0].epoch == 2
    assert await server.bodies() == [f"record {n}" for n in range(500)]


async def test_a_repeat_is_acknowledged_again_and_stored_once(server: IngestServer) -> None:
    data = lines(100)
    await server.send("app", data, kind=NDJSON)
    again = await server.send("app", data, kind=NDJSON)
    assert any(ack.repeated and ack.next_offset == len(data) for ack in again.of("ack"))
    assert again.finished.accepted_count == 0
    assert len(await server.bodies()) == 100


async def test_a_resend_that_reaches_behind_what_is_known_keeps_only_what_is_new(server: IngestServer) -> None:
    data = lines(200)
    half = data.find(b"\n", len(data) // 2) + 1
    await server.append([opening("app", kind=NDJSON), batch(0, data[:half])])
    sent = Sent(await server.append([opening("app", kind=NDJSON), batch(0, data), FINISH]))
    assert sent.finished.next_offset == len(data)
    assert await server.bodies() == [f"record {n}" for n in range(200)]


async def test_other_bytes_at_a_known_offset_are_a_conflict(server: IngestServer) -> None:
    await server.send("app", lines(10), kind=NDJSON)
    other = lines(10).replace(b"record 3", b"RECORD 3")
    sent = Sent(await server.append([opening("app", kind=NDJSON), batch(0, other)]))
    (nack,) = sent.of("nack")
    assert reason_of(nack.status) == "OFFSET_CONFLICT"
    assert len(await server.bodies()) == 10


async def test_a_gap_is_refused_and_names_where_to_go_on(server: IngestServer) -> None:
    data = lines(10)
    sent = Sent(await server.append([opening("app", kind=NDJSON), batch(50, data[50:])]))
    (nack,) = sent.of("nack")
    assert (reason_of(nack.status), nack.offset) == ("OFFSET_GAP", 0)


async def test_a_damaged_batch_is_refused_and_the_stream_goes_on(server: IngestServer) -> None:
    data = lines(20)
    requests = [opening("app", kind=NDJSON), batch(0, data, crc=1), batch(0, data), FINISH]
    sent = Sent(await server.append(requests))
    (nack,) = sent.of("nack")
    assert reason_of(nack.status) == "INVALID_ARGUMENT"
    assert sent.finished.accepted_count == 20


async def test_later_batches_in_flight_are_dropped_after_a_refusal(server: IngestServer) -> None:
    data = lines(30)
    third = data.find(b"\n", len(data) // 3) + 1
    requests = [
        opening("app", kind=NDJSON),
        batch(0, data[:third], crc=1),
        batch(third, data[third:]),  # sent before the refusal was seen
        batch(0, data),
        FINISH,
    ]
    sent = Sent(await server.append(requests))
    assert sent.finished.accepted_count == 30
    assert await server.bodies() == [f"record {n}" for n in range(30)]


async def test_a_newer_stream_fences_the_older_one(server: IngestServer) -> None:
    release = asyncio.Event()

    async def slow() -> AsyncIterator[pb.AppendRequest]:
        yield opening("app", kind=NDJSON)
        yield batch(0, lines(5))
        await release.wait()

    older = server.stub.Append(slow(), timeout=20)
    assert (await older.read()).WhichOneof("message") == "opened"
    assert (await older.read()).ack.accepted_count == 5
    newer = await server.send("app", lines(10), kind=NDJSON)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await older.read()
    release.set()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert reason_of_call(caught.value) == "SOURCE_FENCED"
    assert newer.of("opened")[0].next_offset == len(lines(5))
    assert await server.bodies() == [f"record {n}" for n in range(10)]


async def test_good_rows_are_kept_and_bad_ones_name_row_offset_and_reason(server: IngestServer) -> None:
    data = lines(3) + b"this is not json\n" + lines(3, first=3)
    sent = await server.send("app", data, kind=NDJSON)
    assert (sent.finished.accepted_count, sent.finished.rejected_count) == (6, 1)
    (error,) = sent.row_errors
    assert (error.row, error.offset) == (3, len(lines(3)))
    assert error.reason
    assert "this is not json" not in error.reason
    assert len(await server.bodies()) == 6


async def test_dead_letters_are_listed_and_can_be_retried_as_another_format(server: IngestServer) -> None:
    await server.send("app", b"plain words\n" + lines(1) + b"more words\n", kind=NDJSON)
    listed = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=1))
    assert listed.total_count == 2
    assert listed.dead_letters[0].raw_bytes_count > 0
    rest = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_token=listed.next_page_token))
    ids = [letter.dead_letter_id for letter in (*listed.dead_letters, *rest.dead_letters)]
    assert len(ids) == 2
    request = pb.RetryDeadLettersRequest(
        dead_letter_ids=[*ids, "999-0"],
        format=source_pb2.Format(kind=source_pb2.Format.KIND_TEXT, options={"pattern": "plain"}),
        request_id="retry-1",
    )
    answer = await server.stub.RetryDeadLetters(request)
    assert [outcome.accepted_count for outcome in answer.outcomes] == [1, 1, 0]
    assert reason_of(answer.outcomes[2].status) == "NOT_FOUND"
    assert await server.stub.RetryDeadLetters(request) == answer
    assert sorted(await server.bodies()) == ["more words", "plain words", "record 0"]
    assert (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest())).total_count == 0


async def test_the_last_line_of_a_log_does_not_wait_for_the_next(server: IngestServer) -> None:
    text = b"2026-11-24 10:00:00,123 ERROR [main] it broke\n  at line 1\n"

    async def follow() -> AsyncIterator[pb.AppendRequest]:
        yield opening("app.log", kind=source_pb2.Format.KIND_TEXT)
        yield batch(0, text)
        await asyncio.sleep(0.3)
        yield FLUSH
        await asyncio.sleep(0.3)
        yield batch(len(text), b"2026-11-24 10:00:01,000 INFO [main] on we go\n")
        yield FINISH

    sent = Sent(await server.append(follow()))
    assert sent.finished.accepted_count == 2
    bodies = await server.bodies()
    assert bodies[0].endswith("it broke\n  at line 1")
    assert bodies[1].endswith("on we go")


async def test_the_first_message_must_open(server: IngestServer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.append([batch(0, lines(1))])
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of_call(caught.value) == "STREAM_PROTOCOL"


async def test_an_unknown_dataset_is_refused_with_the_known_ones(server: IngestServer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.append([opening("app", defaults=source_pb2.SourceDefaults(dataset="nope"))])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "dumps, logs" in str(caught.value.details())


async def test_a_dump_is_recognised_when_it_comes_again(server: IngestServer) -> None:
    data = b"name,age\nada,36\ngrace,85\n"
    facts = source_pb2.Dump(name="people-2026", content_sha256=bytes(32), file_name="people.csv")
    first = await server.send("dump/1", data, kind=source_pb2.Format.KIND_CSV, dump=facts)
    assert first.finished.accepted_count == 2
    records = (await server.records()).to_pylist()
    assert [(r["dump"], r["record_number"], r["dataset"]) for r in records] == [
        ("people-2026", 1, "dumps"),
        ("people-2026", 2, "dumps"),
    ]
    again = Sent(await server.append([opening("dump/2", kind=source_pb2.Format.KIND_CSV, dump=facts), FINISH]))
    assert again.of("opened")[0].already_complete
    other = source_pb2.Dump(name="people-2026", content_sha256=bytes([1]) * 32)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.append([opening("dump/3", dump=other)])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_dump_of_a_source_is_asked_about_by_its_content(server: IngestServer) -> None:
    contents = {bytes([n]) * 32: b"name\n" + b"ada\n" * (n + 1) for n in range(2)}
    for sha256, data in contents.items():
        facts = source_pb2.Dump(name=f"d{sha256[0]}", content_sha256=sha256)
        await server.send("osint", data, kind=source_pb2.Format.KIND_CSV, dump=facts)

    async def asked(sha256: bytes) -> source_pb2.Source:
        request = pb.GetSourceRequest(source_id="osint", dump_content_sha256=sha256)
        source: source_pb2.Source = (await server.stub.GetSource(request)).source
        return source

    for sha256, data in contents.items():
        told = await asked(sha256)
        assert (told.source_id, told.next_offset, told.dump.content_sha256) == ("osint", len(data), sha256)
        assert told.finished
    assert (await asked(bytes([7]) * 32)).next_offset == 0
    assert (await asked(b"")).dump.name == "d1"  # the newest
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked(b"short")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_get_source_says_where_to_go_on(server: IngestServer) -> None:
    unseen = (await server.stub.GetSource(pb.GetSourceRequest(source_id="app"))).source
    assert (unseen.next_offset, unseen.epoch) == (0, 0)
    await server.send("app", lines(7), kind=NDJSON)
    source = (await server.stub.GetSource(pb.GetSourceRequest(source_id="app"))).source
    assert source.next_offset == len(lines(7))
    assert source.accepted_count == 7
    assert source.finished
    assert source.format.kind == NDJSON
