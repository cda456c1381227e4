"""Loki's push over real TLS: JSON and protobuf, labels and structured metadata."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.stored.v1 import loki_shadow_pb2
from tests.support.edge_server import Edge, Reply, edge_server
from tests.support.pki import Pki

PATH = "/loki/api/v1/push"
JSON = "application/json"
PROTOBUF = "application/x-protobuf"
START_NS = 1_795_514_400_123_456_789
Entry = tuple[int, str] | tuple[int, str, Mapping[str, str]]


@pytest.fixture
async def edge(pki: Pki, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_server(pki, tmp_path) as running:
        yield running


def in_json(*streams: tuple[Mapping[str, str], Sequence[Entry]]) -> bytes:
    return json.dumps(
        {
            "streams": [
                {"stream": labels, "values": [[str(e[0]), *e[1:]] for e in entries]} for labels, entries in streams
            ]
        }
    ).encode()


def in_protobuf(*streams: tuple[Mapping[str, str], Sequence[Entry]]) -> bytes:
    push = loki_shadow_pb2.LokiPush()
    for labels, entries in streams:
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        stream = push.streams.add(labels=f"{{{text}}}")
        for time_ns, line, *own in entries:
            entry = stream.entries.add(line=str(line).encode())
            entry.timestamp.seconds, entry.timestamp.nanos = divmod(time_ns, 1_000_000_000)
            for name, value in (own[0] if own else {}).items():
                entry.structured_metadata.add(name=name, value=value)
    return push.SerializeToString()


def packed(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="snappy", asbytes=True))


async def push(edge: Edge, form: str, *streams: tuple[Mapping[str, str], Sequence[Entry]], **how: Any) -> Reply:
    if form == "json":
        return await edge.send("POST", PATH, in_json(*streams), content_type=JSON, **how)
    return await edge.send("POST", PATH, packed(in_protobuf(*streams)), content_type=PROTOBUF, **how)


@pytest.mark.parametrize("form", ["json", "protobuf"])
async def test_entries_become_records_with_their_labels(edge: Edge, form: str) -> None:
    shop = {"service_name": "shop", "instance": "web-1", "env": 'a "b"\\c', "time": "label, not a time"}
    trace = "5b8efff798038103d269b633813fc60c"
    reply = await push(
        edge,
        form,
        (shop, [(START_NS, 'one\n\t"two" ü {}'), (START_NS + 1, "", {"level": "warn", "trace_id": trace, "k.x": "v"})]),
        ({"app": "cart", "host": "h", "level": "error"}, [(START_NS + 2, "three")]),
    )
    assert (reply.status, reply.body) == (204, b"")
    one, two, three = await edge.ingest.records_of("loki/admin")
    assert [record["body"] for record in (one, two, three)] == ['one\n\t"two" ü {}', "", "three"]
    assert [record["time"].value for record in (one, two, three)] == [START_NS, START_NS + 1, START_NS + 2]
    assert [(record["service"], record["host"]) for record in (one, two, three)] == [
        ("shop", "web-1"), ("shop", "web-1"), ("cart", "h"),
    ]  # fmt: skip
    assert [record["severity"] for record in (one, two, three)] == [0, 13, 17]
    labels = {"service_name": "shop", "instance": "web-1", "env": 'a "b"\\c', "label.time": "label, not a time"}
    assert dict(one["attributes"]) == labels
    assert dict(two["attributes"]) == {**labels, "k.x": "v"}
    assert two["trace_id"].hex() == trace
    assert dict(three["attributes"]) == {}


@pytest.mark.parametrize("form", ["json", "protobuf"])
async def test_a_byte_identical_repeat_is_stored_once(edge: Edge, form: str) -> None:
    for _ in range(3):
        assert (await push(edge, form, ({"app": "a"}, [(START_NS, "once")]))).status == 204
    assert await edge.ingest.bodies() == ["once"]


async def test_an_entry_without_a_time_takes_the_moment_it_came(edge: Edge) -> None:
    assert (await push(edge, "protobuf", ({"app": "a"}, [(0, "now")]))).status == 204
    (record,) = await edge.ingest.records_of("loki/admin")
    assert record["time"] == record["observed_time"]
    assert record["time_flags"] == 1


async def test_lines_that_are_not_utf_8_are_stored_as_far_as_they_are(edge: Edge) -> None:
    message = loki_shadow_pb2.LokiPush()
    entry = message.streams.add(labels='{app="a"}').entries.add(line=b"caf\xe9")
    entry.timestamp.seconds = START_NS // 1_000_000_000
    reply = await edge.send("POST", PATH, packed(message.SerializeToString()), content_type=PROTOBUF)
    assert reply.status == 204
    assert await edge.ingest.bodies() == ["caf\N{REPLACEMENT CHARACTER}"]


async def test_gzipped_json_and_empty_pushes_are_taken(edge: Edge) -> None:
    gzipped = await edge.send("POST", PATH, in_json(({"a": "b"}, [(START_NS, "x")])), content_type=JSON, packed="gzip")
    assert gzipped.status == 204
    assert (await edge.send("POST", PATH, b'{"streams":[]}', content_type=JSON)).status == 204
    assert (await edge.send("POST", PATH, packed(b""), content_type=PROTOBUF)).status == 204
    assert await edge.ingest.bodies() == ["x"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", JSON), (b"{}", JSON), (b'{"streams":[{"stream":{},"values":[["1"]]}]}', JSON),
        (b'{"streams":[{"stream":{},"values":[["1",2]]}]}', JSON), (b'{"streams":[{"stream":3,"values":[]}]}', JSON),
        (b"not snappy", PROTOBUF), (packed(b"\xff\xff"), PROTOBUF), (b"", PROTOBUF),
    ],
)  # fmt: skip
async def test_what_is_no_push_is_refused_for_good(edge: Edge, body: bytes, content_type: str) -> None:
    reply = await edge.send("POST", PATH, body, content_type=content_type)
    assert reply.status == 400
    assert reply.headers["content-type"].startswith("text/plain")
    assert await edge.ingest.frames() == []


async def test_a_snappy_bomb_is_refused_at_the_limit(edge: Edge) -> None:
    reply = await edge.send("POST", PATH, packed(bytes(64 << 20)), content_type=PROTOBUF)
    assert reply.status == 413
    assert edge.ingest.rpc.inflight.used_bytes == 0


async def test_labels_that_explode_when_each_entry_gets_them_are_refused(edge: Edge) -> None:
    reply = await push(edge, "protobuf", ({"large": "x" * 100_000}, [(START_NS, "")] * 1_000))
    assert reply.status == 413


async def test_entries_over_the_limit_are_told_and_the_others_stored(edge: Edge) -> None:
    reply = await push(edge, "json", ({"app": "a"}, [(START_NS, "fine"), (START_NS + 1, "x" * (1 << 20))]))
    assert reply.status == 400
    assert reply.body.startswith(b"1 of 2 entries refused: ")
    assert await edge.ingest.bodies() == ["fine"]
    (letter,) = (await edge.ingest.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert letter.source_id == "loki/admin"


async def test_readiness_and_what_is_not_here(edge: Edge) -> None:
    ready = await edge.send("GET", "/ready")
    assert (ready.status, ready.body) == (200, b"ready\n")
    assert (await edge.send("GET", PATH)).status == 405
    assert (await edge.send("POST", PATH, b"x", content_type="text/csv")).status == 415
    assert (await edge.send("GET", "/loki/api/v1/query")).status == 404
