"""Whatever way records come in: values in bodies, attributes, names, resources, sources and dead letters never reach the journal."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as otlp
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from heimdall.ingest.v1 import source_pb2
from heimdall.stored.v1 import loki_shadow_pb2
from heimdall_client.client import AsyncClient
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.ports.journal import Frame
from tests.support.edge_server import Edge, edge_server
from tests.support.ingest_server import FINISH, opening
from tests.support.ingest_server import batch as piece
from tests.support.pki import Pki
from tests.support.sdk_server import client_config
from tests.support.syslog_edge import LOOPBACK, eventually, syslog_edge

Kind = source_pb2.Format
ALICE: Final = "alice.liddell@example.com"
CARD: Final = "4111111111111111"
PASSWORD: Final = "correcthorse7"  # noqa: S105 - nobody's
PLANTED: Final = (ALICE, CARD, PASSWORD)
BODY: Final = f"login of {ALICE} with card {CARD} and password={PASSWORD}"
TIME: Final = "2026-11-24T10:00:00Z"
DOCUMENT: Final = {
    "time": TIME,
    "message": BODY,
    "host": ALICE,
    "service": f"mail for {ALICE}",
    "user": {"contact": [ALICE], ALICE: {"card": int(CARD)}, "password": PASSWORD, "n": int(CARD)},
    ALICE: True,
    f"card {CARD}": 1.5,
    "nested": json.dumps({"deep": {"mail": ALICE}}),
    "logger": ALICE,
    "event_name": ALICE,
}
SOURCE: Final = f"web-1/var/log/{ALICE}.log"


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in documents)


def table() -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["time", "message", ALICE, "password", "contact", "card_no"])
    rows.writerow([TIME, BODY, "yes", PASSWORD, ALICE, CARD])
    return text.getvalue().encode()


def exported() -> otlp.ExportLogsServiceRequest:
    def pair(key: str, text: str) -> common_pb2.KeyValue:
        return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=text))

    inner = common_pb2.AnyValue(kvlist_value=common_pb2.KeyValueList(values=[pair(ALICE, ALICE), pair("n", CARD)]))
    record = logs_pb2.LogRecord(
        time_unix_nano=1_795_514_400_000_000_000,
        body=common_pb2.AnyValue(string_value=BODY),
        event_name=ALICE,
        attributes=[pair("user", ALICE), pair(ALICE, "x"), common_pb2.KeyValue(key="nested", value=inner)],
    )
    record.attributes.add(key="n").value.int_value = int(CARD)
    scope = logs_pb2.ScopeLogs(
        scope=common_pb2.InstrumentationScope(name=ALICE, version=ALICE, attributes=[pair(ALICE, ALICE)]),
        log_records=[record],
    )
    resource = resource_pb2.Resource(
        attributes=[pair("service.name", ALICE), pair("owner", ALICE), pair(ALICE, "x"), pair("password", PASSWORD)]
    )
    return otlp.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs(resource=resource, scope_logs=[scope])])


def exported_json() -> str:
    def pair(key: str, text: str) -> dict[str, Any]:
        return {"key": key, "value": {"stringValue": text}}

    record = {"timeUnixNano": "1795514400000000000", "body": {"stringValue": BODY}, "attributes": [pair(ALICE, ALICE)]}
    scopes = [{"scope": {"name": ALICE}, "logRecords": [record]}]
    return json.dumps({"resourceLogs": [{"resource": {"attributes": [pair(ALICE, ALICE)]}, "scopeLogs": scopes}]})


def syslog_message() -> bytes:
    return f'<165>1 {TIME} host.example {ALICE} - ID47 [{ALICE} user="{ALICE}" password="{PASSWORD}"] {BODY}'.encode()


async def append(edge: Edge, kind: int, data: bytes, **fields: Any) -> None:
    await edge.ingest.send(SOURCE, data, kind=kind, **fields)


async def append_arrow(edge: Edge) -> None:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist([{"message": BODY, ALICE: ALICE, "password": PASSWORD, "n": int(CARD)}])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    payload = sink.getvalue().to_pybytes()
    await edge.ingest.append([opening(SOURCE, kind=Kind.KIND_ARROW), piece(0, payload, next_offset=1), FINISH])


async def sdk_records(edge: Edge) -> None:
    config = client_config(edge.pki, "program", address=edge.ingest.rpc.mesh_address)
    async with AsyncClient(config) as client, client.record_ingester(SOURCE, host=ALICE, service=ALICE) as records:
        await records.log(BODY, attributes={"user": ALICE, ALICE: CARD, "password": PASSWORD})


async def export_by_grpc(edge: Edge) -> None:
    await edge.ingest.otlp.Export(exported())


async def post(edge: Edge, path: str, body: bytes | str, content_type: str) -> None:
    reply = await edge.send("POST", path, body, content_type=content_type)
    assert reply.status in (200, 204), reply.body


async def bulk(edge: Edge) -> None:
    await post(edge, "/_bulk", lines({"create": {"_index": f"logs-{ALICE}"}}, DOCUMENT), "application/x-ndjson")


async def loki_json(edge: Edge) -> None:
    own = {"user": ALICE, ALICE: "x"}
    stream = {"stream": {"app": ALICE, ALICE: "x"}, "values": [["1795514400000000000", BODY, own]]}
    await post(edge, "/loki/api/v1/push", json.dumps({"streams": [stream]}), "application/json")


async def loki_protobuf(edge: Edge) -> None:
    message = loki_shadow_pb2.LokiPush()
    entry = message.streams.add(labels=f'{{app="{ALICE}", {ALICE}="x"}}').entries.add(line=BODY.encode())
    entry.timestamp.seconds = 1_795_514_400
    entry.structured_metadata.add(name=ALICE, value=ALICE)
    entry.structured_metadata.add(name="password", value=PASSWORD)
    packed = bytes(pa.compress(message.SerializeToString(), codec="snappy", asbytes=True))
    await post(edge, "/loki/api/v1/push", packed, "application/x-protobuf")


DUMP: Final = {
    "name": CARD, "content_sha256": bytes(32), "file_name": f"{ALICE}.csv", "origin": f"sent by {ALICE}",
}  # fmt: skip
DOORS: dict[str, Callable[[Edge], Awaitable[None]]] = {
    "ndjson": lambda edge: append(edge, Kind.KIND_NDJSON, lines(DOCUMENT)),
    "json": lambda edge: append(edge, Kind.KIND_JSON, json.dumps([DOCUMENT]).encode()),
    "csv": lambda edge: append(edge, Kind.KIND_CSV, table()),
    "a dump": lambda edge: append(edge, Kind.KIND_CSV, table(), dump=DUMP),
    "text": lambda edge: append(edge, Kind.KIND_TEXT, f"{TIME} INFO {BODY} user={ALICE}\n".encode()),
    "logfmt": lambda edge: append(
        edge, Kind.KIND_TEXT, f'time={TIME} level=info msg="{BODY}" user={ALICE} password={PASSWORD}\n'.encode()
    ),
    "syslog file": lambda edge: append(edge, Kind.KIND_SYSLOG, syslog_message() + b"\n"),
    "arrow": append_arrow,
    "sdk records": sdk_records,
    "otlp by grpc": export_by_grpc,
    "otlp by http": lambda edge: post(edge, "/v1/logs", exported().SerializeToString(), "application/x-protobuf"),
    "otlp in json": lambda edge: post(edge, "/v1/logs", exported_json(), "application/json"),
    "elasticsearch": bulk,
    "loki in json": loki_json,
    "loki in protobuf": loki_protobuf,
    "a bad line": lambda edge: append(edge, Kind.KIND_NDJSON, b'{"user": "%s", ' % ALICE.encode() + BODY.encode()),
    "a bad row": lambda edge: append(edge, Kind.KIND_CSV, table() + f"{ALICE},{CARD}\n".encode()),
    "a bad document": lambda edge: append(edge, Kind.KIND_JSON, f'[{{"a": 1}}, "{ALICE} {CARD}"]'.encode()),
}


def written(frames: list[Frame], snapshot: bytes) -> str:
    """All that is in frames and in the state that is made from them, as text."""
    told = [repr(one.entry) for one in frames]
    told += [repr(one.entry.batch.to_pylist()) for one in frames if one.entry.batch is not None]
    return "\n".join([*told, snapshot.decode("latin-1")])


def check(frames: list[Frame], snapshot: bytes) -> None:
    text = written(frames, snapshot)
    assert "[email]" in text
    assert [value for value in PLANTED if value in text] == []
    assert ALICE.partition("@")[0] not in text


@pytest.mark.parametrize("door", DOORS)
async def test_no_planted_value_is_in_the_journal(pki: Pki, tmp_path: Path, door: str) -> None:
    async with edge_server(pki, tmp_path) as edge:
        await DOORS[door](edge)
        frames = await edge.ingest.frames()
        assert edge.ingest.state.counts.accepted + edge.ingest.state.counts.rejected > 0
        check(frames, edge.ingest.state.snapshot())
    # What was read back from the journal says no more.
    async with edge_server(pki, tmp_path) as edge:
        check(await edge.ingest.frames(), edge.ingest.state.snapshot())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_no_planted_value_of_syslog_is_in_the_journal(pki: Pki, tmp_path: Path, transport: str) -> None:
    config = SyslogConfig(tcp_address=LOOPBACK, udp_address=LOOPBACK)
    async with syslog_edge(pki, tmp_path, config) as edge:
        if transport == "tcp":
            await edge.send(syslog_message() + b"\n")
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(syslog_message(), edge.place("udp"))
        await eventually(lambda: edge.state.counts.accepted > 0)
        check(await edge.frames(), edge.state.snapshot())
