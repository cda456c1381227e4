"""OTLP's Export to the letter of its specification, over real mutual TLS, on a real journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall_server.services.ingest.logic.answers import WINDOW_NS
from tests.support.ingest_server import IngestServer, ingest_server, reason_of_call, retry_after_s
from tests.support.journal import START_NS, ManualClock
from tests.support.pki import Pki

MIB = 1024 * 1024
Request = logs_service_pb2.ExportLogsServiceRequest
Response = logs_service_pb2.ExportLogsServiceResponse


@pytest.fixture
async def server(pki: Pki, tmp_path: Path) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path) as running:
        yield running


def text(value: str) -> common_pb2.AnyValue:
    return common_pb2.AnyValue(string_value=value)


def request(*bodies: str, timed: bool = True, resource_bytes: int = 0) -> Request:
    records = [
        logs_pb2.LogRecord(time_unix_nano=START_NS + n if timed else 0, body=text(body))
        for n, body in enumerate(bodies)
    ]
    attributes = [common_pb2.KeyValue(key="service.name", value=text("shop"))]
    if resource_bytes:
        attributes.append(common_pb2.KeyValue(key="large", value=text("x" * resource_bytes)))
    return Request(
        resource_logs=[
            logs_pb2.ResourceLogs(
                resource=resource_pb2.Resource(attributes=attributes),
                scope_logs=[logs_pb2.ScopeLogs(log_records=records)],
            )
        ]
    )


async def raw_export(server: IngestServer, payload: bytes, **how: Any) -> Any:
    call: Any = server.channel.unary_unary(
        f"/{logs_service_pb2.DESCRIPTOR.services_by_name['LogsService'].full_name}/Export",
        response_deserializer=Response.FromString,
    )
    return await call(payload, timeout=how.pop("timeout", 20), **how)


async def test_success_says_that_everything_is_stored_and_leaves_partial_success_unset(server: IngestServer) -> None:
    response = await server.otlp.Export(request("a", "b", "c"))
    assert not response.HasField("partial_success")
    records = (await server.records()).to_pylist()
    assert [(r["body"], r["service"], r["source"]) for r in records] == [
        (body, "shop", "otlp/admin") for body in ("a", "b", "c")
    ]


@pytest.mark.parametrize(
    "empty",
    [Request(), Request(resource_logs=[logs_pb2.ResourceLogs()]), request()],
    ids=["none", "bare", "no records"],
)
async def test_an_empty_request_succeeds_and_stores_nothing(server: IngestServer, empty: Request) -> None:
    response = await server.otlp.Export(empty)
    assert not response.HasField("partial_success")
    assert await server.frames() == []


async def test_records_over_the_limit_are_told_in_partial_success(server: IngestServer) -> None:
    mixed = request("fine", "x" * (MIB + 1), "fine, too")
    for _ in range(2):  # the repeat gets the same answer
        response = await server.otlp.Export(mixed)
        assert response.partial_success.rejected_log_records == 1
        assert "limit" in response.partial_success.error_message
        assert "xxx" not in response.partial_success.error_message
    assert await server.bodies() == ["fine", "fine, too"]
    assert (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest())).total_count == 1


@pytest.mark.parametrize(
    "payload", [b"\xff" * 50, request("cut").SerializeToString()[:-3], b"\x0a\x05\x12\x03\x12\x01\xff"]
)
async def test_what_cannot_be_decoded_is_refused_for_good_and_told_by_a_dead_letter_without_its_bytes(
    server: IngestServer, payload: bytes
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_export(server, payload)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of_call(caught.value) == "FORMAT_INVALID"
    assert retry_after_s(caught.value) is None
    (letter,) = (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert (letter.source_id, letter.raw_bytes_count, letter.format) == ("otlp/admin", 0, "otlp")
    assert letter.reason.endswith(f"; its {len(payload)} bytes aren't text and weren't kept")
    await server.otlp.Export(request("still alive"))
    assert await server.bodies() == ["still alive"]


async def test_a_bad_request_costs_its_neighbours_nothing(server: IngestServer) -> None:
    calls = [raw_export(server, request(f"r{n}").SerializeToString()) for n in range(20)]
    calls.insert(7, raw_export(server, b"\xff" * 99))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, grpc.aio.AioRpcError) for answer in answers) == 1
    assert sorted(await server.bodies()) == sorted(f"r{n}" for n in range(20))


async def test_attributes_that_explode_when_each_record_gets_them_are_refused(server: IngestServer) -> None:
    bomb = request(*[""] * 5_000, resource_bytes=30_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.otlp.Export(bomb)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "resource" in str(caught.value.details())


async def test_a_byte_identical_retry_is_stored_once(server: IngestServer) -> None:
    for _ in range(3):
        assert not (await server.otlp.Export(request("once"))).HasField("partial_success")
    assert await server.bodies() == ["once"]


async def test_a_retry_while_the_first_is_in_flight_is_stored_once(server: IngestServer) -> None:
    payload = request(*[f"r{n}" for n in range(500)]).SerializeToString()
    await asyncio.gather(*(raw_export(server, payload) for _ in range(8)))
    assert len(await server.bodies()) == 500


async def test_a_retry_after_a_restart_is_stored_once(pki: Pki, tmp_path: Path) -> None:
    for _ in range(2):
        async with ingest_server(pki, tmp_path) as server:
            await server.otlp.Export(request("once"))
    async with ingest_server(pki, tmp_path) as server:
        assert await server.bodies() == ["once"]


async def test_after_ten_minutes_it_is_a_new_request(pki: Pki, tmp_path: Path) -> None:
    clock = ManualClock()
    async with ingest_server(pki, tmp_path, clock=clock) as server:
        await server.otlp.Export(request("again"))
        clock.time_ns += WINDOW_NS
        await server.otlp.Export(request("again"))
        assert await server.bodies() == ["again"]
        clock.time_ns += 1
        await server.otlp.Export(request("again"))
        assert await server.bodies() == ["again", "again"]


async def test_records_without_a_time_are_not_taken_for_repeats(server: IngestServer) -> None:
    for _ in range(2):
        await server.otlp.Export(request("tick", timed=False))
    await asyncio.gather(*(server.otlp.Export(request("tick", timed=False)) for _ in range(3)))
    assert await server.bodies() == ["tick"] * 5


async def test_the_same_bytes_of_another_identity_are_another_request(pki: Pki, server: IngestServer) -> None:
    await server.otlp.Export(request("shared"))
    async with pki.channel(server.rpc.mesh_address, pki.leaf("agent")) as channel:
        await cast("Any", logs_service_pb2_grpc).LogsServiceStub(channel).Export(request("shared"), timeout=20)
    sources = [record["source"] for record in (await server.records()).to_pylist()]
    assert sources == ["otlp/admin", "otlp/agent"]


async def test_a_full_journal_refuses_with_a_time_to_come_back_and_then_takes_the_retry(
    pki: Pki, tmp_path: Path
) -> None:
    small = {"segment_bytes": 256 * 1024, "bytes_max": 512 * 1024, "retain_bytes": 0}
    async with ingest_server(pki, tmp_path, journal=small) as server:
        stored = 0
        refusal: grpc.aio.AioRpcError | None = None
        while refusal is None:
            refused = request(*[f"{stored}/{row} {'x' * 900}" for row in range(50)])
            try:
                await server.otlp.Export(refused)
                stored += 1
            except grpc.aio.AioRpcError as error:
                refusal = error
        assert stored
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of_call(refusal) == "JOURNAL_FULL"
        assert retry_after_s(refusal) == 1.0
        assert len(await server.bodies()) == 50 * stored
        await server.journal.trim(server.journal.head())
        await server.otlp.Export(refused)
        assert f"{stored}/49 " + "x" * 900 in await server.bodies()


async def test_a_wait_beyond_the_deadline_is_refused_at_once(server: IngestServer) -> None:
    server.pipeline._throughput.note(2 * MIB, taken_s=0.0, end_s=60.0 * 2 * MIB / 100_000)
    payload = request("x" * 200_000).SerializeToString()  # two minutes at that rate
    begun_s = asyncio.get_running_loop().time()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_export(server, payload, timeout=15)
    assert asyncio.get_running_loop().time() - begun_s < 5
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (retry_after_s(caught.value) or 0) > 15
    assert await server.frames() == []
    await raw_export(server, payload, timeout=None)  # who waits as long as it takes is served
    assert len(await server.bodies()) == 1


async def test_gzip_is_inflated_up_to_a_limit(server: IngestServer) -> None:
    payload = request(*["words " * 100] * 1_000).SerializeToString()
    await raw_export(server, payload, compression=grpc.Compression.Gzip)
    assert len(await server.bodies()) == 1_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_export(server, request("x" * (17 * MIB)).SerializeToString(), compression=grpc.Compression.Gzip)
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
    assert retry_after_s(caught.value) is None
    assert server.rpc.inflight.used_bytes == 0


async def test_a_request_over_the_message_limit_is_refused_for_good(server: IngestServer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_export(server, request("x" * (5 * MIB)).SerializeToString())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_cancelled_caller_leaves_nothing_behind_and_its_retry_is_stored_once(server: IngestServer) -> None:
    payloads = [request(*[f"{n}/{row}" for row in range(300)]).SerializeToString() for n in range(12)]
    calls = [asyncio.create_task(raw_export(server, payload)) for payload in payloads]
    await asyncio.sleep(0.02)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*(raw_export(server, payload) for payload in payloads))
    bodies = await server.bodies()
    assert len(bodies) == len(set(bodies)) == 12 * 300
    assert server.rpc.inflight.used_bytes == 0
    assert server.pipeline.held_bytes == 0
