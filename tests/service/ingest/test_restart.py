"""What survives a restart: sources, repeats, dead letters; and that a broken stream never loses or doubles a record."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from tests.support.ingest_server import FINISH, Sent, batch, ingest_server, opening
from tests.support.pki import Pki

TRACE = (
    "2026-11-24 10:00:{:02d},000 ERROR [main] failure {}\n"
    "java.lang.IllegalStateException: no\n"
    "\tat com.example.Main.run(Main.java:{})\n"
)
FORMATS = {
    "ndjson": (
        source_pb2.Format.KIND_NDJSON,
        b"".join(json.dumps({"message": f"r{n}", "n": n}).encode() + b"\n" for n in range(300)),
        300,
    ),
    "csv": (
        source_pb2.Format.KIND_CSV,
        b"id,message\n" + b"".join(f'{n},"row {n}, with ""quotes""\nand a line break"\n'.encode() for n in range(200)),
        200,
    ),
    "json": (
        source_pb2.Format.KIND_JSON,
        json.dumps({"records": [{"message": f"r{n}", "deep": {"n": n}} for n in range(200)]}, indent=1).encode(),
        200,
    ),
    "text": (
        source_pb2.Format.KIND_TEXT,
        "".join(TRACE.format(n % 60, n, n) for n in range(200)).encode(),
        200,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
async def test_a_source_cut_anywhere_and_resumed_after_restarts_is_stored_once(
    pki: Pki, tmp_path: Path, name: str
) -> None:
    kind, data, count = FORMATS[name]
    chance = random.Random(name)
    done = 0
    for _ in range(6):
        async with ingest_server(pki, tmp_path) as server:
            requests = [opening("s", kind=kind)]
            offset = done
            for _ in range(chance.randrange(1, 4)):
                size = chance.randrange(1, len(data) // 3)
                if offset < len(data):
                    requests.append(batch(offset, data[offset : offset + size]))
                    offset = min(offset + size, len(data))
            sent = Sent(await server.append(requests))
            done = max([done, *(ack.next_offset for ack in sent.of("ack"))])
    async with ingest_server(pki, tmp_path) as server:
        state = (await server.stub.GetSource(pb.GetSourceRequest(source_id="s"))).source
        assert state.next_offset == done
        rest = [batch(done, data[done:])] if done < len(data) else []
        sent = Sent(await server.append([opening("s", kind=kind), *rest, FINISH]))
        assert sent.finished.next_offset == len(data)
        bodies = await server.bodies()
        assert len(bodies) == count
        assert len(set(bodies)) == count


async def test_repeats_and_dead_letters_survive_a_restart(pki: Pki, tmp_path: Path) -> None:
    data = b'{"message":"one"}\nnot json\n'
    async with ingest_server(pki, tmp_path) as server:
        await server.send("s", data, kind=source_pb2.Format.KIND_NDJSON)
    async with ingest_server(pki, tmp_path) as server:
        again = await server.send("s", data, kind=source_pb2.Format.KIND_NDJSON)
        assert again.finished.accepted_count == 0
        listed = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest())
        assert [letter.source_id for letter in listed.dead_letters] == ["s"]
        conflict = Sent(await server.append([opening("s"), batch(0, data.replace(b"one", b"two"))]))
        assert conflict.of("nack")
        assert await server.bodies() == ["one"]


async def test_state_comes_back_from_a_snapshot_when_older_segments_are_gone(pki: Pki, tmp_path: Path) -> None:
    small = {"segment_bytes": 256 * 1024, "retain_bytes": 0}
    pieces = PipelineLimits(group_bytes_max=64 * 1024)
    async with ingest_server(pki, tmp_path, journal=small, pipeline_limits=pieces) as server:
        await server.send("old", b'{"message":"old"}\n', kind=source_pb2.Format.KIND_NDJSON)
        filler = b"".join(json.dumps({"message": "x" * 500, "n": n}).encode() + b"\n" for n in range(3_000))
        await server.send("filler", filler, payload_bytes=64 * 1024, kind=source_pb2.Format.KIND_NDJSON)
        await server.journal.trim(server.journal.head())
        assert server.journal.tail()[0] > 1
    async with ingest_server(pki, tmp_path, journal=small) as server:
        state = (await server.stub.GetSource(pb.GetSourceRequest(source_id="old"))).source
        assert (state.next_offset, state.accepted_count) == (18, 1)
