"""Elasticsearch's `_bulk` over real TLS: what becomes a record, what each item is told, and the questions before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from tests.support.edge_server import Edge, Reply, edge_server
from tests.support.pki import Pki

NDJSON = "application/x-ndjson"
TIME = "2026-11-24T10:00:00.123456789Z"


@pytest.fixture
async def edge(pki: Pki, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_server(pki, tmp_path) as running:
        yield running


def bulk(*lines: Any) -> str:
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)


def document(message: str, **fields: Any) -> dict[str, Any]:
    return {"@timestamp": TIME, "message": message, **fields}


async def post(edge: Edge, body: str, path: str = "/_bulk", **how: Any) -> Reply:
    return await edge.send("POST", path, body, content_type=how.pop("content_type", NDJSON), **how)


def statuses(reply: Reply) -> list[int]:
    assert reply.status == 200
    return [next(iter(item.values()))["status"] for item in reply.json()["items"]]


async def test_ecs_documents_become_records(edge: Edge) -> None:
    ecs = {
        "log": {"level": "error", "file": {"path": "/var/log/shop.log"}},
        "host": {"name": "web-1"},
        "service": {"name": "shop"},
        "trace": {"id": "5b8efff798038103d269b633813fc60c"},
        "span": {"id": "eee19b7ec3c1b174"},
        "http": {"response": {"status_code": 502}},
        "tags": ["a", "b"],
        "ok": False,
    }
    reply = await post(edge, bulk({"create": {"_index": "logs-shop"}}, document("payment refused", **ecs)))
    assert reply.json()["errors"] is False
    assert statuses(reply) == [201]
    assert reply.headers["x-elastic-product"] == "Elasticsearch"
    (record,) = await edge.ingest.records_of("elastic/admin")
    assert (record["body"], record["severity"], record["host"], record["service"]) == (
        "payment refused", 17, "web-1", "shop",
    )  # fmt: skip
    assert record["time"].isoformat() == "2026-11-24T10:00:00.123456789+00:00"
    assert record["trace_id"].hex() == "5b8efff798038103d269b633813fc60c"
    assert record["span_id"].hex() == "eee19b7ec3c1b174"
    assert dict(record["attributes"]) == {
        "_index": "logs-shop",
        "log.file.path": "/var/log/shop.log",
        "tags": '["a", "b"]',
    }
    assert dict(record["attributes_number"]) == {"http.response.status_code": 502.0}
    assert dict(record["attributes_bool"]) == {"ok": False}


async def test_the_path_names_the_index_where_an_action_names_none(edge: Edge) -> None:
    lines = bulk({"index": {}}, document("a"), {"index": {"_index": "own", "_id": None}}, document("b"))
    assert statuses(await post(edge, lines, "/logs-2026.11.24/_bulk")) == [201, 201]
    assert statuses(await post(edge, bulk({"index": {}}, document("c")))) == [201]
    found = [dict(record["attributes"]).get("_index") for record in await edge.ingest.records_of("elastic/admin")]
    assert found == ["logs-2026.11.24", "own", None]


async def test_each_item_is_told_what_became_of_it(edge: Edge) -> None:
    lines = bulk(
        {"create": {"_index": "x"}}, document("first"),
        {"delete": {"_index": "x", "_id": "1"}},
        {"update": {"_index": "x", "_id": "1"}}, {"doc": {"a": 1}},
        {"index": {"_index": "x"}}, '{"message": broken',
        {"index": {"_index": "x"}}, document("last"),
    )  # fmt: skip
    for _ in range(2):  # a repeat is told the same and stores nothing
        reply = await post(edge, lines)
        assert statuses(reply) == [201, 400, 400, 400, 201]
        value = reply.json()
        assert value["errors"] is True
        assert [next(iter(item)) for item in value["items"]] == ["create", "delete", "update", "index", "index"]
        assert "not JSON" in value["items"][3]["index"]["error"]["reason"]
        assert "broken" not in reply.body.decode()
    assert await edge.ingest.bodies_of("elastic/admin") == ["first", "last"]
    (letter,) = (await edge.ingest.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert (letter.source_id, letter.format, letter.offset) == ("elastic/admin", "ndjson", 1)


async def test_a_bad_document_can_be_retried_as_what_it_is(edge: Edge) -> None:
    await post(edge, bulk({"index": {}}, "{not json", {"index": {}}, document("good")))
    (letter,) = (await edge.ingest.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    text = source_pb2.Format(kind=source_pb2.Format.KIND_TEXT)
    retry = pb.RetryDeadLettersRequest(dead_letter_ids=[letter.dead_letter_id], format=text)
    await edge.ingest.stub.RetryDeadLetters(retry)
    assert await edge.ingest.bodies() == ["good", "{not json"]


async def test_a_byte_identical_repeat_is_stored_once_but_not_one_without_times(edge: Edge) -> None:
    for _ in range(3):
        assert statuses(await post(edge, bulk({"index": {}}, document("once")))) == [201]
        assert statuses(await post(edge, bulk({"index": {}}, {"message": "tick"}))) == [201]
    assert sorted(await edge.ingest.bodies()) == ["once", "tick", "tick", "tick"]


async def test_the_answer_is_short_where_the_client_asks_for_statuses_only(edge: Edge) -> None:
    path = "/_bulk?filter_path=errors,items.*.error,items.*.status"
    reply = await post(edge, bulk({"create": {"_index": "x"}}, document("a")), path, packed="gzip")
    assert reply.json() == {"took": 1, "errors": False, "items": [{"create": {"status": 201}}]}


async def test_a_client_of_version_8_gets_its_media_type_back(edge: Edge) -> None:
    media = "application/vnd.elasticsearch+json; compatible-with=8"
    reply = await post(
        edge,
        bulk({"index": {}}, document("a")),
        content_type="application/vnd.elasticsearch+x-ndjson; compatible-with=8",
        accept=media,
    )
    assert reply.headers["content-type"] == "application/vnd.elasticsearch+json;compatible-with=8"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n",
        "{}\n{}\n",
        '{"index":{}}\n',
        '{"index":{}}\n{}\n{"index":{}}\n',
        '{"nonsense":{}}\n{}\n',
        "no json\n{}\n",
    ],
)
async def test_a_request_whose_lines_do_not_fit_is_refused_whole(edge: Edge, body: str) -> None:
    reply = await post(edge, body)
    assert reply.status == 400
    assert reply.json()["status"] == 400
    assert reply.json()["error"]["reason"]
    assert await edge.ingest.frames() == []


async def test_overload_is_told_as_elasticsearch_does(pki: Pki, tmp_path: Path) -> None:
    small = {"segment_bytes": 256 * 1024, "bytes_max": 512 * 1024, "retain_bytes": 0}
    async with edge_server(pki, tmp_path, journal=small) as edge:
        number = 0
        while True:
            lines = "".join(bulk({"index": {}}, document(f"{number}/{n} {'x' * 900}")) for n in range(100))
            if (reply := await post(edge, lines)).status != 200:
                break
            number += 1
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert reply.json()["error"]["type"] == "es_rejected_execution_exception"
        assert len(await edge.ingest.bodies()) == 100 * number


QUESTIONS = [
    "GET /", "HEAD /", "GET /_license?human=false", "GET /_xpack", "GET /_cluster/health", "GET /_nodes",
    "GET /_ilm/policy/filebeat", "PUT /_ilm/policy/filebeat", "HEAD /_index_template/filebeat-8.17.0",
    "PUT /_index_template/filebeat-8.17.0", "GET /_ingest/pipeline/p", "PUT /_ingest/pipeline/p",
    "HEAD /_data_stream/logs", "HEAD /_alias/filebeat", "HEAD /logs-shop", "PUT /logs-shop",
]  # fmt: skip


async def test_what_shippers_ask_and_set_up_first_is_answered(edge: Edge) -> None:
    for question in QUESTIONS:
        method, path = question.split()
        reply = await edge.send(method, path, b"{}" if method == "PUT" else b"", content_type="application/json")
        assert (question, reply.status) == (question, 200)
        assert reply.headers["x-elastic-product"] == "Elasticsearch"
        assert (reply.body == b"") == (method == "HEAD")
    assert (await edge.send("GET", "/")).json()["version"]["number"].startswith("8.")


@pytest.mark.parametrize("path", ["/_nodes/http", "/_nodes/ingest"])
async def test_who_asks_for_other_nodes_is_told_of_none(edge: Edge, path: str) -> None:
    reply = await edge.send("GET", path)
    assert (reply.status, reply.json()["nodes"]) == (200, {})


async def test_what_is_not_here_is_not_found(edge: Edge) -> None:
    for path in ("/logs/_search", "/_security/user", "/logs/_doc/1"):
        assert (await edge.send("GET", path)).status == 404


async def test_a_large_request_comes_in_whole_and_in_order(edge: Edge) -> None:
    lines = "".join(bulk({"create": {"_index": "x", "_id": str(n)}}, document(f"r{n}")) for n in range(5_000))
    replies = await asyncio.gather(*(post(edge, lines, packed="gzip") for _ in range(2)))
    for reply in replies:
        assert statuses(reply) == [201] * 5_000
    assert await edge.ingest.bodies() == [f"r{n}" for n in range(5_000)]
