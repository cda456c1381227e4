"""OTLP/HTTP to the letter of its specification, over real TLS, on a real journal."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.rpc import status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as otlp
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from prometheus_client import REGISTRY

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall_server.rpc.limits import RpcLimits
from tests.support.edge_server import Edge, Reply, edge_server
from tests.support.ingest_server import reason_of
from tests.support.journal import START_NS
from tests.support.pki import Pki

MIB = 1024 * 1024
PROTOBUF = "application/x-protobuf"
JSON = "application/json"


@pytest.fixture
async def edge(pki: Pki, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_server(pki, tmp_path) as running:
        yield running


def request(*bodies: str, timed: bool = True) -> bytes:
    records = [
        logs_pb2.LogRecord(
            time_unix_nano=START_NS + n if timed else 0,
            body=common_pb2.AnyValue(string_value=body),
            trace_id=b"\1" * 16,
        )
        for n, body in enumerate(bodies)
    ]
    scope = logs_pb2.ScopeLogs(log_records=records)
    whole = otlp.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs(scope_logs=[scope])])
    return whole.SerializeToString()


def in_json(*bodies: str) -> str:
    records = [
        {"timeUnixNano": str(START_NS + n), "body": {"stringValue": body}, "traceId": "01" * 16, "unknown": 1}
        for n, body in enumerate(bodies)
    ]
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})


async def post(edge: Edge, body: bytes | str, content_type: str = PROTOBUF, **how: Any) -> Reply:
    return await edge.send("POST", "/v1/logs", body, content_type=content_type, **how)


def status_of(reply: Reply) -> status_pb2.Status:
    assert reply.headers["content-type"] == PROTOBUF
    return status_pb2.Status.FromString(reply.body)


async def test_protobuf_and_json_are_answered_in_kind_and_stored(edge: Edge) -> None:
    first = await post(edge, request("a", "b"))
    assert (first.status, first.headers["content-type"], first.body) == (200, PROTOBUF, b"")
    second = await post(edge, in_json("c"), f"{JSON}; charset=utf-8")
    assert (second.status, second.headers["content-type"], second.json()) == (200, JSON, {})
    records = await edge.ingest.records_of("otlp/admin")
    assert [(record["body"], record["trace_id"]) for record in records] == [(body, b"\1" * 16) for body in "abc"]


async def test_the_same_request_by_grpc_protobuf_and_json_is_stored_once(edge: Edge) -> None:
    await edge.ingest.otlp.Export(otlp.ExportLogsServiceRequest.FromString(request("once")))
    assert (await post(edge, request("once"))).status == 200
    assert (await post(edge, in_json("once"), JSON)).status == 200
    assert await edge.ingest.bodies() == ["once"]


async def test_retries_in_flight_are_stored_once(edge: Edge) -> None:
    body = request(*[f"r{n}" for n in range(300)])
    replies = await asyncio.gather(*(post(edge, body) for _ in range(4)))
    assert [reply.status for reply in replies] == [200] * 4
    assert len(await edge.ingest.bodies()) == 300


async def test_an_empty_request_succeeds_and_stores_nothing(edge: Edge) -> None:
    assert (await post(edge, b"")).status == 200
    assert (await post(edge, "{}", JSON)).status == 200
    assert await edge.ingest.frames() == []


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_bodies_may_be_packed(edge: Edge, encoding: str) -> None:
    body = request(*["words " * 50] * 500)
    if encoding == "zstd":
        reply = await post(edge, zstandard.compress(body), content_encoding="zstd")
    else:
        reply = await post(edge, body, packed=encoding)
    assert reply.status == 200
    assert len(await edge.ingest.bodies()) == 500
    assert edge.ingest.rpc.inflight.used_bytes == 0


async def test_records_over_the_limit_are_told_in_partial_success(edge: Edge) -> None:
    body = request("fine", "x" * (MIB + 1))
    for _ in range(2):  # the repeat gets the same answer
        told = otlp.ExportLogsServiceResponse.FromString((await post(edge, body)).body)
        assert told.partial_success.rejected_log_records == 1
        assert "limit" in told.partial_success.error_message
    told_in_json = (await post(edge, in_json("fine", "x" * (MIB + 1)), JSON)).json()["partialSuccess"]
    assert told_in_json["rejectedLogRecords"] == "1"


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '{"resourceLogs":{}}', '{"resourceLogs":' + "[" * 5000, in_json("a").replace("01" * 16, "no hex")],
)
async def test_bad_json_is_refused_for_good_with_a_status_in_json(edge: Edge, body: str) -> None:
    reply = await post(edge, body or " ", JSON)
    assert (reply.status, reply.headers["content-type"], reply.json()["code"]) == (400, JSON, 3)
    assert "retry-after" not in reply.headers
    assert await edge.ingest.frames() == []


async def test_json_has_a_limit_of_its_own(edge: Edge) -> None:
    reply = await post(edge, in_json("x" * 5 * MIB), JSON)
    assert (reply.status, reply.json()["code"]) == (413, 8)
    assert "protobuf" in reply.json()["message"]


async def test_requests_are_counted_by_door_operation_and_status(edge: Edge) -> None:
    def count(operation: str, code: str) -> float:
        labels = {"door": "otlp", "operation": operation, "code": code}
        return REGISTRY.get_sample_value("heimdall_edge_requests_total", labels) or 0.0

    before = count("export", "200"), count("export", "400"), count("unknown", "404")
    await post(edge, request("a"))
    await post(edge, "{", JSON)
    await edge.send("GET", "/made/up")
    assert (count("export", "200"), count("export", "400"), count("unknown", "404")) == tuple(n + 1 for n in before)


async def test_what_is_no_protobuf_is_refused_and_told_by_a_dead_letter(edge: Edge) -> None:
    reply = await post(edge, b"\xff" * 50)
    assert reply.status == 400
    assert reason_of(status_of(reply)) == "FORMAT_INVALID"
    (letter,) = (await edge.ingest.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert (letter.source_id, letter.raw_bytes_count) == ("otlp/admin", 0)  # bytes that no rule can search aren't kept


async def test_other_content_types_encodings_methods_and_paths_are_refused(edge: Edge) -> None:
    assert (await post(edge, b"x", "text/plain")).status == 415
    refused = await post(edge, b"x", content_encoding="br")
    assert (refused.status, "gzip" in refused.headers["accept-encoding"]) == (415, True)
    assert (await post(edge, b"not gzip", content_encoding="gzip")).status == 400
    assert (await post(edge, gzip.compress(request("cut"))[:-9], content_encoding="gzip")).status == 400
    get = await edge.send("GET", "/v1/logs")
    assert (get.status, get.headers["allow"]) == (405, "POST")
    assert (await edge.send("POST", "/v1/traces", b"x", content_type=PROTOBUF)).status == 404
    assert await edge.ingest.frames() == []


async def test_a_body_over_the_limit_is_refused_before_it_is_read(edge: Edge) -> None:
    connection = edge.connection()
    connection.putrequest("POST", "/v1/logs")
    connection.putheader("content-type", PROTOBUF)
    connection.putheader("content-length", str(17 * MIB))
    await asyncio.to_thread(connection.endheaders)
    response = await asyncio.to_thread(connection.getresponse)
    assert (response.status, response.getheader("connection")) == (413, "close")
    connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_bomb_is_refused_at_the_limit_after_decompression(edge: Edge, encoding: str) -> None:
    zeros = bytes(64 * MIB)
    if encoding == "zstd":
        reply = await post(edge, zstandard.compress(zeros), content_encoding="zstd")
    else:
        reply = await post(edge, zeros, packed=encoding)
    assert reply.status == 413
    assert edge.ingest.rpc.inflight.used_bytes == 0
    assert (await post(edge, request("still alive"))).status == 200


async def test_gzip_of_several_members_and_zstd_that_tells_no_size_are_inflated(edge: Edge) -> None:
    body = request(*["words " * 50] * 200)
    members = gzip.compress(body[:50_000]) + gzip.compress(body[50_000:])
    assert (await post(edge, members, content_encoding="gzip")).status == 200
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    other = request(*["other " * 50] * 200)
    assert (await post(edge, packer.compress(other) + packer.flush(), content_encoding="zstd")).status == 200
    assert len(await edge.ingest.bodies()) == 400
    assert edge.ingest.rpc.inflight.used_bytes == 0


async def test_a_full_budget_refuses_with_a_time_to_come_back(pki: Pki, tmp_path: Path) -> None:
    limits = RpcLimits(inflight_bytes_max=16 * MIB)
    async with edge_server(pki, tmp_path, limits=limits) as edge:
        with edge.ingest.rpc.inflight.try_acquire(16 * MIB - 1000):
            reply = await post(edge, request("x" * 2000))
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert reason_of(status_of(reply)) == "BUDGET_EXCEEDED"
        assert (await post(edge, request("x" * 2000))).status == 200


async def test_a_full_journal_refuses_with_a_time_to_come_back_and_then_takes_the_retry(
    pki: Pki, tmp_path: Path
) -> None:
    small = {"segment_bytes": 256 * 1024, "bytes_max": 512 * 1024, "retain_bytes": 0}
    async with edge_server(pki, tmp_path, journal=small) as edge:
        stored = 0
        while (reply := await post(edge, request(*[f"{stored}/{n} {'x' * 900}" for n in range(100)]))).status == 200:
            stored += 1
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert reason_of(status_of(reply)) == "JOURNAL_FULL"
        assert len(await edge.ingest.bodies()) == 100 * stored
        await edge.ingest.journal.trim(edge.ingest.journal.head())
        assert (await post(edge, request(*[f"{stored}/{n} {'x' * 900}" for n in range(100)]))).status == 200


async def test_a_wait_beyond_the_deadline_is_refused_at_once(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path, http={"request_s": 10.0}) as edge:
        edge.ingest.pipeline._throughput.note(2 * MIB, taken_s=0.0, end_s=60.0 * 2 * MIB / 100_000)
        reply = await post(edge, request("x" * 200_000))
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) > 10


async def test_a_server_that_drains_says_so_and_closes(edge: Edge) -> None:
    edge.ingest.rpc.drain_signal.begin()
    reply = await post(edge, request("late"))
    assert (reply.status, reply.headers["retry-after"], reply.headers["connection"]) == (503, "1", "close")
    assert reason_of(status_of(reply)) == "DRAINING"


async def test_requests_follow_each_other_on_one_connection(edge: Edge) -> None:
    connection = edge.connection()

    def both() -> list[int]:
        statuses = []
        for body in (request("a"), b"\xff", request("b")):
            connection.request("POST", "/v1/logs", body, {"content-type": PROTOBUF, "x-request-id": "mine"})
            response = connection.getresponse()
            statuses.append(response.status)
            assert response.getheader("x-request-id") == "mine"
            response.read()
        return statuses

    assert await asyncio.to_thread(both) == [200, 400, 200]
    assert edge.http.connection_count == 1
    connection.close()
