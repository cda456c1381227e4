"""Dead letters and deletions: what was deleted doesn't come back from a letter, and a letter can be deleted itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall_server.domain.records import with_position
from heimdall_server.ports.journal import DeadLetter, Deletion, Entry, SourceKey
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.support.ingest_server import IngestServer, ingest_server, reason_of
from tests.support.pki import Pki

Kind = source_pb2.Format
PLAIN = source_pb2.Format(kind=Kind.KIND_TEXT, options={"pattern": "plain"})
LEAKED = "hunter2swordfish"
ARROW = '{"kind":"arrow","options":{}}'
SMALL = {"segment_bytes": 64 * 1024, "retain_bytes": 0}


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path) as running:
        yield running


async def letters(server: IngestServer) -> list[str]:
    """Ids, the oldest first."""
    page = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=1000))
    return [one.dead_letter_id for one in page.dead_letters][::-1]


async def retry(server: IngestServer, *ids: str) -> Sequence[pb.RetryDeadLettersResponse.Outcome]:
    request = pb.RetryDeadLettersRequest(dead_letter_ids=ids, format=PLAIN)
    return list((await server.stub.RetryDeadLetters(request)).outcomes)


async def delete(server: IngestServer, *ids: str) -> Sequence[pb.DeleteDeadLettersResponse.Outcome]:
    return list((await server.stub.DeleteDeadLetters(pb.DeleteDeadLettersRequest(dead_letter_ids=ids))).outcomes)


async def forget(server: IngestServer, filter_: str, **fields: object) -> None:
    """Write a deletion of everything so far."""
    values = {"start_time_ns": None, "end_time_ns": None, "datasets": (), "through": server.journal.head()[0], **fields}
    deletion = Deletion("d", filter_, **values)  # type: ignore[arg-type]  # named
    await server.journal.append([Entry(None, deletions=(deletion,))])


async def test_what_was_deleted_does_not_come_back_from_a_letter_and_the_rest_does(server: IngestServer) -> None:
    await server.send("s", b"a %s\nfine\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
    await forget(server, LEAKED)
    await server.send("later", b"b %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
    outcomes = await retry(server, *await letters(server))
    assert [(one.accepted_count, one.deleted_count) for one in outcomes] == [(0, 1), (1, 0), (1, 0)]
    assert sorted(await server.bodies()) == [f"b {LEAKED}", "fine"]
    assert await letters(server) == []


async def test_of_a_letter_with_many_records_only_those_go_that_a_deletion_means(server: IngestServer) -> None:
    lines = [f"bad {n} {LEAKED if n % 3 else ''}" for n in range(3_000)]
    await server.send("s", "\n".join(lines).encode() + b"\n", kind=Kind.KIND_NDJSON)
    await forget(server, LEAKED)
    outcomes = await retry(server, *await letters(server))
    assert sum(one.accepted_count for one in outcomes) == 1_000
    assert sum(one.deleted_count for one in outcomes) == 2_000
    assert not any(LEAKED in body for body in await server.bodies())


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({"start_time_ns": 1}, True),
        ({"end_time_ns": 1}, False),
        ({"datasets": ("dumps",)}, False),
        ({"datasets": ("logs",)}, True),
        ({"through": 0}, False),
    ],
)
async def test_a_deletion_means_of_letters_what_it_means_of_records(
    server: IngestServer, fields: dict[str, object], gone: bool
) -> None:
    await server.send("s", b"bad %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
    await forget(server, f"source:s AND {LEAKED}", **fields)
    (outcome,) = await retry(server, *await letters(server))
    assert (outcome.accepted_count, outcome.deleted_count) == ((0, 1) if gone else (1, 0))


async def test_a_record_without_a_time_counts_as_of_when_its_letter_came(server: IngestServer) -> None:
    await server.send("s", b"bad %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
    (frame,) = [frame for frame in await server.frames() if frame.entry.dead_letters]
    await forget(server, LEAKED, end_time_ns=frame.entry.dead_letters[0].time_ns + 1)
    (outcome,) = await retry(server, *await letters(server))
    assert outcome.deleted_count == 1


async def test_a_deletion_is_known_after_restarts_for_as_long_as_letters_from_before_it_live(
    pki: Pki, tmp_path: Path
) -> None:
    async def fill(server: IngestServer, name: str) -> None:
        for n in range(4):
            await server.send(f"{name}{n}", b'{"message":"%s"}\n' % (b"x" * 900) * 100, kind=Kind.KIND_NDJSON)

    async with ingest_server(pki, tmp_path, journal=SMALL) as server:
        await server.send("s", b"bad %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
        await forget(server, LEAKED)
        await fill(server, "filler")
    async with ingest_server(pki, tmp_path, journal=SMALL) as server:
        (outcome,) = await retry(server, *await letters(server))
        assert (outcome.accepted_count, outcome.deleted_count) == (0, 1)
        assert len(server.state.deletions) == 1
        await server.journal.trim(server.journal.head())
        await fill(server, "more")
        await server.journal.trim(server.journal.head())
        server.state.forget_before(server.journal.tail()[0])
        assert len(server.state.deletions) == 0


async def test_no_letter_is_decoded_while_a_deletion_is_on_its_way_into_the_journal(pki: Pki, tmp_path: Path) -> None:
    deleting = True
    async with ingest_server(pki, tmp_path, deleting=lambda: deleting) as server:
        await server.send("s", b"bad %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
        (letter,) = await letters(server)
        (outcome,) = await retry(server, letter)
        assert reason_of(outcome.status) == "OVERLOADED"
        await forget(server, LEAKED)
        deleting = False
        (outcome,) = await retry(server, letter)
        assert outcome.deleted_count == 1
        assert await server.bodies() == []


async def test_a_value_that_becomes_a_token_only_now_is_seen_by_what_was_kept_and_by_its_token(
    pki: Pki, tmp_path: Path
) -> None:
    keeping = PrivacyPolicy(rules=(PrivacyRule("keep", field="dead_letter"), PrivacyRule("mask")))
    async with ingest_server(pki, tmp_path, protector=PolicyProtector(keeping)) as server:
        await server.send("s", b"bad alice@example.com\nbad bob@example.com\n", kind=Kind.KIND_NDJSON)
        await forget(server, '"alice@example.com"')
        first, second = await retry(server, *await letters(server))
        assert (first.deleted_count, second.deleted_count) == (1, 0)
        assert await server.bodies() == ["bad [email]"]
        await server.send("s2", b"bad carol@example.com\n", kind=Kind.KIND_NDJSON)
        await forget(server, '"[email]"')
        (outcome,) = await retry(server, *await letters(server))
        assert (outcome.accepted_count, outcome.deleted_count) == (0, 1)


async def test_a_letter_that_was_deleted_is_gone_for_good_and_only_that_one(pki: Pki, tmp_path: Path) -> None:
    async with ingest_server(pki, tmp_path) as server:
        await server.send("s", b"one\ntwo\nthree\n", kind=Kind.KIND_NDJSON)
        first, second, third = await letters(server)
        outcomes = await delete(server, second, "0-0", second)
        assert [(one.dead_letter_id, reason_of(one.status)) for one in outcomes] == [(second, ""), ("0-0", "NOT_FOUND")]
        assert await letters(server) == [first, third]
        (outcome,) = await retry(server, second)
        assert reason_of(outcome.status) == "NOT_FOUND"
    async with ingest_server(pki, tmp_path) as server:
        assert await letters(server) == [first, third]
        await retry(server, first, third)
        assert sorted(await server.bodies()) == ["one", "three"]


async def test_letters_from_before_a_deletion_that_is_not_known_in_full_are_not_decoded_and_can_be_deleted(
    server: IngestServer,
) -> None:
    await server.send("s", b"bad %s\n" % LEAKED.encode(), kind=Kind.KIND_NDJSON)
    server.state.deletions.unknown_through = server.journal.head()[0]
    await server.send("s2", b"fine\n", kind=Kind.KIND_NDJSON)
    first, second = await retry(server, *await letters(server))
    assert (reason_of(first.status), second.accepted_count) == ("INVALID_ARGUMENT", 1)
    assert LEAKED not in str(first)
    assert [reason_of(one.status) for one in await delete(server, *await letters(server))] == [""]
    assert await server.bodies() == ["fine"]


async def test_a_letter_is_not_deleted_while_it_is_decoded_again(server: IngestServer) -> None:
    await server.send("s", b"one\n", kind=Kind.KIND_NDJSON)
    (letter,) = await letters(server)
    (retried,), (deleted,) = await asyncio.gather(retry(server, letter), delete(server, letter))
    assert {reason_of(retried.status), reason_of(deleted.status)} <= {"", "OVERLOADED", "NOT_FOUND"}
    assert bool(retried.accepted_count) != (not deleted.status.code)
    assert len(await server.bodies()) == retried.accepted_count
    assert await letters(server) == []


async def test_a_record_that_the_store_refused_counts_as_of_where_it_stood(server: IngestServer) -> None:
    await server.send("s", b'{"message":"x"}\n', kind=Kind.KIND_NDJSON)
    (frame,) = [one for one in await server.frames() if one.row_count]
    position = frame.position
    assert frame.entry.batch is not None
    await server.send("other", b'{"message":"y"}\n', kind=Kind.KIND_NDJSON)
    for offset in (position, position + 1):
        sink = pa.BufferOutputStream()
        row = with_position(frame.entry.batch, shard=0, position=offset)
        with pa.ipc.new_stream(sink, row.schema) as writer:
            writer.write_batch(row)
        raw = sink.getvalue().to_pybytes()
        letter = DeadLetter(SourceKey("", "s"), offset, 0, "refused", 1, raw, ARROW, protected=True)
        await server.journal.append([Entry(None, dead_letters=(letter,))])
    await forget(server, "source:s", through=position)
    request = pb.RetryDeadLettersRequest(dead_letter_ids=await letters(server))
    outcomes = (await server.stub.RetryDeadLetters(request)).outcomes
    assert [(one.accepted_count, one.deleted_count) for one in outcomes] == [(0, 1), (1, 0)]
