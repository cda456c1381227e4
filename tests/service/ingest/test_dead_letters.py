"""Dead letters that are listed, found again after a restart, retried, and never stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from tests.support.ingest_server import IngestServer, ingest_server, reason_of, reason_of_call
from tests.support.pki import TRUST_DOMAIN, Pki

Kind = source_pb2.Format
PLAIN = source_pb2.Format(kind=Kind.KIND_TEXT, options={"pattern": "plain"})


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path) as running:
        yield running


async def listed(server: IngestServer) -> list[source_pb2.DeadLetter]:
    letters: list[source_pb2.DeadLetter] = []
    token = ""
    while True:
        page = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=7, page_token=token))
        letters += page.dead_letters
        token = page.next_page_token
        if not token:
            return letters


def request(*ids: str, request_id: str = "", format_: source_pb2.Format | None = PLAIN) -> pb.RetryDeadLettersRequest:
    return pb.RetryDeadLettersRequest(dead_letter_ids=ids, request_id=request_id, format=format_)


async def test_pages_are_newest_first_and_without_gaps(server: IngestServer) -> None:
    for n in range(30):
        await server.send(f"s{n % 3}", b"bad %d\n" % n * (n // 3 + 1), kind=Kind.KIND_NDJSON)
    letters = await listed(server)
    assert len(letters) == len({letter.dead_letter_id for letter in letters}) == len(server.state.letters)
    places = [tuple(map(int, letter.dead_letter_id.split("-"))) for letter in letters]
    assert places == sorted(places, reverse=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_token="%" * 3))
    assert reason_of_call(caught.value) == "TOKEN_INVALID"


async def test_two_retries_at_once_store_a_letter_once(server: IngestServer) -> None:
    await server.send("s", b"one\ntwo\nthree\n", kind=Kind.KIND_NDJSON)
    ids = [letter.dead_letter_id for letter in await listed(server)]
    answers = await asyncio.gather(*(server.stub.RetryDeadLetters(request(*ids)) for _ in range(6)))
    assert sorted(await server.bodies()) == ["one", "three", "two"]
    accepted = [outcome.accepted_count for answer in answers for outcome in answer.outcomes]
    assert sum(accepted) == 3
    others = {reason_of(o.status) for answer in answers for o in answer.outcomes if not o.accepted_count}
    assert others <= {"OVERLOADED", "NOT_FOUND"}
    assert await listed(server) == []


async def test_a_caller_that_hangs_up_during_a_retry_harms_nobody(server: IngestServer) -> None:
    await server.send("s", b"bad\n" * 20, kind=Kind.KIND_NDJSON)
    ids = [letter.dead_letter_id for letter in await listed(server)]
    for pause_s in (0.0, 0.002, 0.005):
        call = server.stub.RetryDeadLetters(request(*ids))
        await asyncio.sleep(pause_s)
        call.cancel()
    await server.send("other", b'{"message":"alive"}\n', kind=Kind.KIND_NDJSON)
    await asyncio.sleep(0.05)
    await server.stub.RetryDeadLetters(request(*ids))
    bodies = await server.bodies()
    assert sorted(bodies) == ["alive", *["bad"] * 20]


async def test_a_letter_that_still_cannot_be_read_stays(server: IngestServer) -> None:
    await server.send("s", b"bad\n", kind=Kind.KIND_NDJSON)
    (letter,) = await listed(server)
    answer = await server.stub.RetryDeadLetters(request(letter.dead_letter_id, format_=None))
    assert reason_of(answer.outcomes[0].status) == "FORMAT_INVALID"
    assert await listed(server) == [letter]
    assert await server.bodies() == []


@pytest.mark.parametrize(
    ("kind", "data", "bodies"),
    [
        (Kind.KIND_CSV, b"id,message\n1,fine,too,many\n2,ok\n", ["1,fine,too,many", "ok"]),
        (Kind.KIND_JSON, b'[{"message":"ok"}, 7]', ["7", "ok"]),
    ],
)
async def test_what_was_cut_out_of_a_file_can_be_kept_as_text(
    server: IngestServer, kind: int, data: bytes, bodies: list[str]
) -> None:
    await server.send("s", data, kind=kind)
    (letter,) = await listed(server)
    await server.stub.RetryDeadLetters(request(letter.dead_letter_id))
    assert sorted(await server.bodies()) == bodies


async def test_records_stay_theirs_who_sent_them_whoever_retries(server: IngestServer, pki: Pki) -> None:
    async with pki.channel(server.rpc.mesh_address, pki.leaf("ann")) as channel:
        await replace(server, channel=channel).send("s", b'bad\n{"message":"good"}\n', kind=Kind.KIND_NDJSON)
    letters = await listed(server)
    await server.stub.RetryDeadLetters(request(*[letter.dead_letter_id for letter in letters]))
    records = await server.records()
    assert sorted(records["body"].to_pylist()) == ["bad", "good"]
    told = {letter.principal for letter in letters} | {*records["principal"].to_pylist()}
    assert told == {f"spiffe://{TRUST_DOMAIN}/client/ann"}


async def test_a_letter_of_many_records_is_retried_whole(server: IngestServer) -> None:
    await server.send("s", b"".join(b"bad %d\n" % n for n in range(3_000)), kind=Kind.KIND_NDJSON)
    letters = await listed(server)
    assert len(letters) < 1_000
    answer = await server.stub.RetryDeadLetters(request(*[letter.dead_letter_id for letter in letters]))
    assert sum(outcome.accepted_count for outcome in answer.outcomes) == 3_000
    assert sorted(await server.bodies()) == sorted(f"bad {n}" for n in range(3_000))


async def test_letters_go_with_their_frames(pki: Pki, tmp_path: Path) -> None:
    small = {"segment_bytes": 64 * 1024, "retain_bytes": 0}
    async with ingest_server(pki, tmp_path, journal=small) as server:
        await server.send("s", b"bad\n", kind=Kind.KIND_NDJSON)
        (letter,) = await listed(server)
        for n in range(4):
            await server.send(f"filler{n}", b'{"message":"%s"}\n' % (b"x" * 900) * 100, kind=Kind.KIND_NDJSON)
        await server.journal.trim(server.journal.head())
        assert server.journal.tail()[0] > 1
        # Before the index hears of it, and after.
        answer = await server.stub.RetryDeadLetters(request(letter.dead_letter_id))
        assert reason_of(answer.outcomes[0].status) == "NOT_FOUND"
        server.state.letters.forget_before(server.journal.tail()[0])
        assert await listed(server) == []


async def test_bytes_that_are_not_kept_cannot_be_retried(pki: Pki, tmp_path: Path) -> None:
    async with ingest_server(pki, tmp_path, keep_raw=False) as server:
        await server.send("s", b"bad\n", kind=Kind.KIND_NDJSON)
        (letter,) = await listed(server)
        assert letter.raw_bytes_count == 0
        answer = await server.stub.RetryDeadLetters(request(letter.dead_letter_id))
        assert reason_of(answer.outcomes[0].status) == "NOT_FOUND"
        assert all(one.raw == b"" for frame in await server.frames() for one in frame.entry.dead_letters)
