"""A server that goes away under load: what it took is acknowledged, and nothing is lost or stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from tests.support.ingest_server import (
    IngestServer,
    Sent,
    batch,
    ingest_server,
    opening,
    reason_of_call,
    whole,
)
from tests.support.pki import Pki

NDJSON = source_pb2.Format.KIND_NDJSON
LINES = [b'{"message":"r%d"}\n' % n for n in range(200_000)]


def piece(first: int) -> bytes:
    return b"".join(LINES[first : first + 500])


async def endless(source: str) -> AsyncIterator[pb.AppendRequest]:
    """Batches as fast as they are taken, whatever the server says."""
    yield opening(source, kind=NDJSON)
    offset = 0
    for first in range(0, len(LINES), 500):
        payload = piece(first)
        yield batch(offset, payload)
        offset += len(payload)
        await asyncio.sleep(0)


async def test_a_drain_under_load_acknowledges_what_was_taken_and_ends_the_streams(pki: Pki, tmp_path: Path) -> None:
    async with ingest_server(pki, tmp_path) as server:
        started = [asyncio.Event() for _ in range(3)]
        streams = [asyncio.create_task(_answers(server, f"s{n}", event)) for n, event in enumerate(started)]
        for event in started:
            await event.wait()
        assert await server.rpc.drain(timeout_s=10)
        answers = [await stream for stream in streams]
        assert server.rpc.inflight.used_bytes == 0
        assert server.append_use_case.session_count == 0
        for n, sent in enumerate(answers):
            assert len(sent.of("draining")) == 1
            last = sent.of("ack")[-1]
            assert last.next_offset == last.received_offset  # whole lines only, so nothing is held
            bodies = await server.bodies_of(f"s{n}")
            assert bodies == [f"r{n}" for n in range(len(bodies))]
            assert sum(len(line) for line in LINES[: len(bodies)]) == last.next_offset
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.append([opening("late", kind=NDJSON)])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of_call(caught.value) == "DRAINING"
        done = answers[0].of("ack")[-1].next_offset
    async with ingest_server(pki, tmp_path) as server:
        rest = Sent(await server.append(whole("s0", b"".join(LINES[:50_000]), start=done, kind=NDJSON)))
        assert rest.of("opened")[0].next_offset == done
        assert await server.bodies_of("s0") == [f"r{n}" for n in range(50_000)]


async def _answers(server: IngestServer, source: str, started: asyncio.Event) -> Sent:
    responses: list[pb.AppendResponse] = []
    try:
        async for response in server.stub.Append(endless(source), timeout=20):
            responses.append(response)
            if response.WhichOneof("message") == "ack":
                started.set()  # the first batch of a process takes seconds: its rules are compiled
    except grpc.aio.AioRpcError as error:
        # A client that goes on writing when the stream is over makes itself an error of it.
        if error.code() is not grpc.StatusCode.INTERNAL or "SendMessage" not in str(error.debug_error_string()):
            raise
    return Sent(responses)


async def test_a_stream_that_says_nothing_ends_at_once(pki: Pki, tmp_path: Path) -> None:
    async with ingest_server(pki, tmp_path) as server:
        talk = server.talk(opening("quiet", kind=NDJSON))
        await talk.until("opened")
        assert await server.rpc.drain(timeout_s=5)
        assert [one.WhichOneof("message") for one in await talk.rest()] == ["draining"]


async def test_a_caller_that_hangs_up_leaves_nothing_behind(pki: Pki, tmp_path: Path) -> None:
    async with ingest_server(pki, tmp_path) as server:
        tasks = len(asyncio.all_tasks())
        for n in range(10):
            talk = server.talk(opening(f"s{n}", kind=NDJSON), *[batch(0, piece(0))] * 5)
            await talk.until("opened")
            talk.call.cancel()
        await _until_quiet(server)
        assert server.append_use_case.session_count == 0
        assert len(asyncio.all_tasks()) <= tasks + 1


async def _until_quiet(server: IngestServer) -> None:
    for _ in range(200):
        if not (server.rpc.call_count or server.pipeline.held_bytes or server.rpc.inflight.used_bytes):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(server.rpc.inflight.used_bytes)
