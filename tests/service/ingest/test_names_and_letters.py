"""Names of sources and dumps that hold personal data, and dead letters that are protected and decoded again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from tests.support.ingest_server import IngestServer, batch, ingest_server, opening, reason_of_call
from tests.support.pki import Pki

Kind = source_pb2.Format
ALICE = "alice@example.com"
SOURCE = f"web-1/{ALICE}.log"
CARD = "4111111111111111"


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path) as running:
        yield running


async def test_a_source_is_stored_under_another_name_and_goes_on_under_its_own(pki: Pki, tmp_path: Path) -> None:
    first, second = b'{"message":"one"}\n', b'{"message":"two"}\n'
    async with ingest_server(pki, tmp_path) as server:
        await server.append([opening(SOURCE, kind=Kind.KIND_NDJSON), batch(0, first)])
        (source,) = {row["source"] for row in (await server.records()).to_pylist()}
        assert source.startswith("web-1/[email]~")
        other = f"web-1/{ALICE.replace('alice', 'bob')}.log"
        await server.send(other, first, kind=Kind.KIND_NDJSON)
        assert len({row["source"] for row in (await server.records()).to_pylist()}) == 2
    async with ingest_server(pki, tmp_path) as server:
        asked = await server.stub.GetSource(pb.GetSourceRequest(source_id=SOURCE))
        assert (asked.source.next_offset, asked.source.source_id) == (len(first), source)
        talk = server.talk(opening(SOURCE, kind=Kind.KIND_NDJSON))
        assert (await talk.until("opened")).opened.next_offset == len(first)
        await talk.write(batch(0, first), batch(len(first), second))
        assert (await talk.until("ack")).ack.repeated
        await talk.until("ack")
        talk.call.cancel()
        assert await server.bodies_of(source) == ["one", "two"]
        assert ALICE.encode() not in server.state.snapshot()


async def test_letters_are_listed_by_the_name_of_their_source(server: IngestServer) -> None:
    await server.send(SOURCE, b"bad\n", kind=Kind.KIND_NDJSON)
    await server.send("other", b"bad\n", kind=Kind.KIND_NDJSON)
    (letter,) = (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(source_id=SOURCE))).dead_letters
    again = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(source_id=letter.source_id))
    assert list(again.dead_letters) == [letter]
    assert ALICE not in str(letter)


async def test_facts_of_a_dump_are_kept_under_other_names_and_still_tell_dumps_apart(server: IngestServer) -> None:
    facts = {"name": CARD, "content_sha256": bytes(32), "file_name": f"{ALICE}.csv", "origin": ALICE}
    data = b"time,message\n2026-11-24T10:00:00Z,hello\n"
    await server.send("d1", data, kind=Kind.KIND_CSV, dump=facts)
    dump = (await server.stub.GetSource(pb.GetSourceRequest(source_id="d1"))).source.dump
    assert dump.name.startswith("[card]~")
    assert dump.file_name.startswith("[email]~")
    assert {row["dump"] for row in (await server.records()).to_pylist()} == {"[card]"}
    repeated = server.talk(opening("d2", kind=Kind.KIND_CSV, dump=facts))
    assert (await repeated.until("opened")).opened.already_complete
    repeated.call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.send("d3", data, kind=Kind.KIND_CSV, dump={**facts, "content_sha256": b"1" * 32})
    assert reason_of_call(caught.value) == "INVALID_ARGUMENT"
    assert CARD not in str(caught.value.details())


async def test_a_csv_whose_header_holds_values_goes_on_after_a_restart(pki: Pki, tmp_path: Path) -> None:
    head, rest = f"message,{ALICE},bob@example.com\nfirst,1,2\n".encode(), b"second,3,4\n"
    async with ingest_server(pki, tmp_path) as server:
        await server.append([opening("s", kind=Kind.KIND_CSV), batch(0, head)])
    async with ingest_server(pki, tmp_path) as server:
        await server.append([opening("s", kind=Kind.KIND_CSV), batch(len(head), rest)])
        records = await server.records_of("s")
        assert [row["body"] for row in records] == ["first", "second"]
        assert ALICE not in repr([frame.entry for frame in await server.frames()])
        assert ALICE not in repr(records)


async def test_a_letter_is_protected_where_it_lies_and_when_it_is_decoded_again(server: IngestServer) -> None:
    await server.send("s", f"bad {ALICE} password=hunter22 10.0.0.1\n".encode(), kind=Kind.KIND_NDJSON)
    (letter,) = (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    (kept,) = [one for frame in await server.frames() for one in frame.entry.dead_letters]
    assert kept.raw == b"bad [email] password=[secret] 10.0.0.1"
    plain = source_pb2.Format(kind=Kind.KIND_TEXT, options={"pattern": "plain"})
    await server.stub.RetryDeadLetters(
        pb.RetryDeadLettersRequest(dead_letter_ids=[letter.dead_letter_id], format=plain)
    )
    assert await server.bodies() == ["bad [email] password=[secret] 10.0.0.1"]
