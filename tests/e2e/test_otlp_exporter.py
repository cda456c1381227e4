"""The real OpenTelemetry exporter for Python against a real server: what it sends is found, and found once."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from heimdall_client import Row
from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.client_config()) as client:
        yield client


@pytest.fixture
def service() -> str:
    """A service name of the test's own, to find its records by."""
    return f"svc{uuid.uuid4().hex[:12]}"


@contextmanager
def exporter(server: ServerProcess, **options: Any) -> Iterator[OTLPLogExporter]:
    made = OTLPLogExporter(
        endpoint=server.otlp_address, credentials=server.credentials("writer"), timeout=20, **options
    )
    try:
        yield made
    finally:
        made.shutdown()


def record(service: str, body: Any, *, attributes: dict[str, Any] | None = None, **fields: Any) -> ReadableLogRecord:
    fields.setdefault("timestamp", time.time_ns())
    log = LogRecord(
        observed_timestamp=time.time_ns(),
        severity_number=SeverityNumber.WARN,
        severity_text="warning",
        body=body,
        attributes=attributes or {},
        **fields,
    )
    resource = Resource({"service.name": service, "host.name": "box", "deployment.ring": 2})
    return ReadableLogRecord(log, resource, instrumentation_scope=InstrumentationScope("shop.orders", "1.2"))


def find(client: Client, question: str) -> list[Row]:
    return list(client.search(question, consistent=True, order="oldest"))


def count(client: Client, service: str) -> int:
    (row,) = find(client, f"service:{service} | stats count()")
    return int(row["count"])


def send(
    server: ServerProcess, request: bytes, *, compression: grpc.Compression | None = None
) -> pb.ExportLogsServiceResponse:
    """Send exactly these bytes, as a retry does."""
    with grpc.secure_channel(server.otlp_address, server.credentials("writer")) as channel:
        call: Any = channel.unary_unary(EXPORT, response_deserializer=pb.ExportLogsServiceResponse.FromString)
        answer: pb.ExportLogsServiceResponse = call(request, timeout=20, compression=compression)
        return answer


def encoded(records: Sequence[ReadableLogRecord]) -> bytes:
    return bytes(encode_logs(records).SerializeToString())


def test_what_the_exporter_sends_is_found_with_its_context(server: ServerProcess, client: Client, service: str) -> None:
    sent = record(
        service,
        "disk almost full",
        attributes={"mount": "/var", "free_bytes": 12.5, "retried": True, "inode": 7},
        timestamp=1_790_000_000_123_456_789,
        trace_id=0x0102030405060708090A0B0C0D0E0F10,
        span_id=0x0102030405060708,
    )
    with exporter(server) as otlp:
        assert otlp.export([sent]) is LogRecordExportResult.SUCCESS
    (row,) = find(client, f'service:{service} AND mount:"/var" AND free_bytes:>12 AND retried:true AND inode:7')
    assert row["body"] == "disk almost full"
    assert row["host"] == "box"
    assert row["severity_text"] == "warning"
    assert row["trace_id"] in ("0102030405060708090a0b0c0d0e0f10", bytes(range(1, 17)))
    assert len(find(client, f'service:{service} AND deployment.ring:2 AND "almost full"')) == 1
    assert len(find(client, "trace_id:0102030405060708090a0b0c0d0e0f10 AND service:" + service)) == 1


BODIES: dict[str, tuple[Any, str]] = {
    "text": ("plain words", "plain words"),
    "integer": (2**53 + 1, "9007199254740993"),
    "negative": (-5, "-5"),
    "fraction": (0.5, "0.5"),
    "truth": (True, "true"),
    "array": (["a", 1, None], '["a",1,null]'),
    "mapping": ({"k": {"deep": [1, 2]}}, '{"k":{"deep":[1,2]}}'),
    "nothing": (None, ""),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_of_each_kind_is_kept(server: ServerProcess, client: Client, service: str, kind: str) -> None:
    body, expected = BODIES[kind]
    with exporter(server) as otlp:
        assert otlp.export([record(service, body)]) is LogRecordExportResult.SUCCESS
    (row,) = find(client, f"service:{service}")
    assert (row["body"] or "").replace(": ", ":").replace(", ", ",") == expected


def test_attributes_of_each_kind_are_kept(server: ServerProcess, client: Client, service: str) -> None:
    sent = {
        "text": "value",
        "whole": 42,
        "huge": 2**60 + 1,
        "fraction": 1.25,
        "yes": True,
        "texts": ["a", "b"],
        "numbers": [1, 2],
        "nested": {"inner": {"x": "y"}},
        "bytes": b"\x00\xff",
    }
    with exporter(server) as otlp:
        assert otlp.export([record(service, "kinds", attributes=sent)]) is LogRecordExportResult.SUCCESS
    questions = ["text:value", "whole:42", "whole:>41", "fraction:1.25", "yes:true", f"huge:{2**60 + 1}"]
    for question in questions:
        assert len(find(client, f"service:{service} AND {question}")) == 1, question
    (row,) = find(client, f"service:{service}")
    kept = {**row["attributes"], **row["attributes_number"], **row["attributes_bool"]}
    assert json.loads(kept["texts"]) == ["a", "b"]
    assert json.loads(kept["numbers"]) == [1, 2]
    assert any(name.startswith("nested") for name in kept), kept
    assert "bytes" in kept


def test_a_byte_identical_retry_is_stored_once(server: ServerProcess, client: Client, service: str) -> None:
    request = encoded([record(service, f"order {number}") for number in range(10)])
    first = send(server, request)
    assert send(server, request) == first
    assert send(server, request, compression=grpc.Compression.Gzip) == first
    assert count(client, service) == 10


def test_an_equal_record_in_another_request_is_another_record(
    server: ServerProcess, client: Client, service: str
) -> None:
    one = record(service, "tick", timestamp=1_790_000_000_000_000_000)
    send(server, encoded([one]))
    send(server, encoded([one, one]))
    assert count(client, service) == 3


def test_records_without_a_time_are_never_taken_for_a_retry(
    server: ServerProcess, client: Client, service: str
) -> None:
    resource = encode_logs([record(service, "x")]).resource_logs[0].resource
    log = logs_pb2.LogRecord(body=common_pb2.AnyValue(string_value="no time"))
    scope = logs_pb2.ScopeLogs(log_records=[log])
    request = pb.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(resource=resource, scope_logs=[scope])]
    ).SerializeToString()
    send(server, request)
    send(server, request)
    assert count(client, service) == 2


def test_gzip_is_taken(server: ServerProcess, client: Client, service: str) -> None:
    records = [record(service, f"compressible {'x' * 200} {number}") for number in range(500)]
    with exporter(server, compression=grpc.Compression.Gzip) as otlp:
        assert otlp.export(records) is LogRecordExportResult.SUCCESS
    assert count(client, service) == 500


def test_a_message_that_inflates_beyond_the_limit_is_refused(server: ServerProcess) -> None:
    bomb = bytes(17 * 1024 * 1024)
    assert len(gzip.compress(bomb)) < 64 * 1024
    with pytest.raises(grpc.RpcError) as caught:
        send(server, bomb, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, "it would never fit"


def test_an_empty_request_is_answered_with_success(server: ServerProcess) -> None:
    assert send(server, b"") == pb.ExportLogsServiceResponse()
    empty = pb.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs()]).SerializeToString()
    assert send(server, empty) == pb.ExportLogsServiceResponse()
    with exporter(server) as otlp:
        assert otlp.export([]) is LogRecordExportResult.SUCCESS


def test_what_is_rejected_is_told_and_the_rest_is_kept(server: ServerProcess, client: Client, service: str) -> None:
    good, bad = record(service, "good"), record(service, "x" * (1024 * 1024 + 1))
    request = encoded([good, bad, good])
    answer = send(server, request)
    assert send(server, request).partial_success.rejected_log_records == 1
    assert answer.partial_success.rejected_log_records == 1
    assert answer.partial_success.error_message
    assert count(client, service) == 2
    with exporter(server) as otlp:
        # To an exporter a partial success is a success: it must not send the batch again.
        assert otlp.export([bad]) is LogRecordExportResult.SUCCESS


def test_garbage_is_refused_for_good(server: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(server, b"\x0a\xff\xff\xff\xff\x0f garbage")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_personal_data_is_masked_on_this_way_too(server: ServerProcess, client: Client, service: str) -> None:
    with exporter(server) as otlp:
        otlp.export([record(service, "mail to ada@example.com", attributes={"to": "ada@example.com"})])
    (row,) = find(client, f"service:{service}")
    assert "ada@example.com" not in json.dumps(row, default=str)


def test_the_logging_handler_of_a_program_works(server: ServerProcess, client: Client, service: str) -> None:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(
            OTLPLogExporter(endpoint=server.otlp_address, credentials=server.credentials("writer"), timeout=20)
        )
    )
    logger = provider.get_logger("shop")
    for number in range(100):
        logger.emit(LogRecord(timestamp=time.time_ns(), body=f"emitted {number}", severity_number=SeverityNumber.INFO))
    assert provider.force_flush()
    provider.shutdown()
    assert count(client, service) == 100
