"""Views of a real server's graph, by the command and the SDK: pivots, lists, sums, CSV."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from heimdall.graph.v1 import graph_pb2, graph_service_pb2_grpc, views_pb2
from heimdall_client import Client
from heimdall_client.errors import InvalidArgumentError, PermissionDeniedError
from tests.e2e.test_graph import SERVICES, wait_applied
from tests.support.cli import invoke_on
from tests.support.pki import TRUST_DOMAIN
from tests.support.server_process import ServerProcess

LINES = [
    *(f"2026-03-01T08:0{minute}:00Z ERROR login of alice@example.com from 203.0.113.7 failed" for minute in range(4)),
    "2026-03-01T09:00:00Z ERROR login of bob@example.com from 198.51.100.2 failed",
    "2026-03-01T09:01:00Z INFO evil.example asked by 203.0.113.7",
]
DUMP = b"mail,ip,comment\nalice@example.com,203.0.113.7,=1+1\n"
ACCESS = f"""
[access.grants]
"spiffe://{TRUST_DOMAIN}/client/admin" = ["admin"]
"spiffe://{TRUST_DOMAIN}/client/writer" = ["writer", "reader"]
"spiffe://{TRUST_DOMAIN}/client/walker" = ["walker"]
[access.roles]
walker = ["graph.read"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("views"), environment=SERVICES)
    server.pki.write("walker", server.pki.leaf("walker"))
    (server.data_dir / "heimdall.toml").write_text(ACCESS)
    with server as running:
        with running.client() as client:
            client.ingest_stream(io.BytesIO("\n".join(LINES).encode() + b"\n"), "auth", service="auth")
            client.ingest_stream(io.BytesIO(b"2026-03-02T08:00:00Z ERROR 203.0.113.7\n"), "secret", tlp="red")
            client.ingest_stream(io.BytesIO(DUMP), "leak", dump="forum-2026-03", format="csv", tlp="amber")
        wait_applied(running)
        yield running


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> tuple[str, str]:
    outcome = invoke_on(server, "graph", *arguments)
    assert outcome.code == code, outcome.err
    return outcome.out, outcome.err


def rows(server: ServerProcess, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(heimdall(server, *arguments, "-o", "csv")[0])))


def json_rows(server: ServerProcess, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in heimdall(server, *arguments, "-o", "json")[0].splitlines()]


def test_records_of_a_query_lead_to_entities(server: ServerProcess) -> None:
    question = ("pivot", "service:auth AND severity:>=ERROR", "--to", "ip", "--min", "3", "--since", "2026-01-01")
    (found,) = json_rows(server, *question)
    assert (found["vertex"]["value"], found["record_count"], found["is_known"]) == ("203.0.113.7", 4, True)
    assert found["dumps"] == ["forum-2026-03"]
    assert found["sources"] == [{"source": "auth", "record_count": 4}]
    assert found["first_time"] == "2026-03-01T08:00:00Z"
    table, said = heimdall(server, *question)
    assert "203.0.113.7" in table
    assert "1 entity in 5 records" in said
    (row,) = rows(server, *question)
    assert (row["value"], row["record_count"], row["is_known"]) == ("203.0.113.7", "4", "true")

    assert json_rows(server, *question[:2], "--since", "2026-04-01") == []
    joined = json_rows(server, "pivot", "sighted_in:forum-2026-03 AND service:auth", "--to", "ip")
    assert [(one["vertex"]["value"], one["record_count"]) for one in joined] == [("203.0.113.7", 5)]
    everything = {one["vertex"]["value"]: one["record_count"] for one in json_rows(server, "pivot", "service:auth")}
    tokens = {value: count for value, count in everything.items() if value.startswith("[email:")}
    assert sorted(tokens.values()) == [1, 4]
    assert everything["evil.example"] == 1
    assert not any("alice" in value for value in everything)
    assert "a pivot takes a filter without pipes" in heimdall(server, "pivot", "* | stats count()", code=2)[1]
    assert "there is no type" in heimdall(server, "pivot", "*:*", "--to", "wizard", code=2)[1]


def test_a_pivot_says_where_it_was_cut(server: ServerProcess) -> None:
    with server.client() as client:
        found = client.pivot("*:*", to=["ip"], record_limit=2, limit=1)
    kind = views_pb2.PivotResponse.Cut
    assert {cut.reason for cut in found.summary.cuts} == {kind.REASON_RECORD_COUNT}
    assert found.summary.record_count == 2
    exact = json_rows(server, "pivot", "service:auth", "--records", "6", "--limit", "2")
    assert len(exact) == 2
    said = heimdall(server, "pivot", "service:auth", "--records", "6", "--limit", "2")[1]
    assert "there are more entities" in said
    assert "more records match" not in said


def test_a_pivot_asks_for_what_a_search_asks_for(server: ServerProcess) -> None:
    with server.client() as client:
        before = len(list(client.audit_entries(action="privacy.match", limit=0)))
        found = client.pivot("email:alice@example.com", to=["ip"])
        assert {one.vertex.value: one.record_count for one in found.entities} == {"203.0.113.7": 5}
        assert len(list(client.audit_entries(action="privacy.match", limit=0))) == before + 1, "audited as in a search"
    with server.client("writer") as client:
        assert client.pivot("service:auth", to=["domain"]).entities
        with pytest.raises(PermissionDeniedError):
            client.pivot("email:alice@example.com")
    with server.client("walker") as client:
        assert client.entities(limit=1), "it may walk"
        with pytest.raises(PermissionDeniedError, match=r"query\.search"):
            client.pivot("*:*")


def test_what_lies_above_the_ceiling_is_neither_counted_nor_listed(server: ServerProcess) -> None:
    def counted(client: Client, **options: Any) -> int:
        (found,) = client.pivot("severity:>=ERROR AND 203.0.113.7", to=["ip"], **options).entities
        return found.record_count

    with server.client() as client:
        assert counted(client) == 5
        assert counted(client, tlp="amber+strict") == 4
        assert not client.pivot("severity:>=ERROR AND 203.0.113.7", tlp="green").entities, "unmarked is amber"
        assert client.sum_sightings("ip:203.0.113.7", by="source").total.count == 7
        whole, lowered = (client.vertex("ip:203.0.113.7", tlp=tlp) for tlp in ("", "amber+strict"))
        assert (whole.vertex.seen.count, lowered.vertex.seen.count) == (7, 6)
        assert len(lowered.provenances) < len(whole.provenances)
    assert " 6 times, " in heimdall(server, "show", "ip:203.0.113.7", "--tlp", "amber+strict")[0]
    with server.client("writer") as client:
        assert counted(client) == 4
        assert client.sum_sightings("ip:203.0.113.7", by="source").total.count == 6
        (listed,) = [one for one in client.entities(types=["ip"]) if one.vertex.value == "203.0.113.7"]
        assert listed.vertex.seen.count == 6


def test_entities_are_listed_page_by_page(server: ServerProcess) -> None:
    heimdall(server, "label", "domain:evil.example", "c2", "--reason", "a test")
    (found,) = json_rows(server, "list", "--type", "domain", "--label", "c2")
    assert (found["vertex"]["value"], found["vertex"]["labels"]) == ("evil.example", ["c2"])
    with server.client() as client:
        every = {one.vertex.vertex_id for one in client.iterate_entities(page_size=2)}
        assert len(every) == len(client.entities(limit=1000)) >= 5
        tokens = [one.vertex.value for one in client.iterate_entities(types=["email"])]
        assert len(tokens) == 2
        assert all(value.startswith("[email:") for value in tokens)
        with pytest.raises(InvalidArgumentError):
            client.entities(types=["wizard"])
    table, said = heimdall(server, "list", "--limit", "2", "--confidence", "10")
    assert len(table.splitlines()) == 3
    assert "2 entities, and more" in said
    assert [row["value"] for row in rows(server, "list", "--label", "c2")] == ["evil.example"]
    recent = {row["value"] for row in rows(server, "list", "--since", "2026-08-01")}
    assert "203.0.113.7" in recent, "the dump's records have the time at which they came"
    assert "evil.example" not in recent


def test_a_page_token_of_another_request_is_refused(server: ServerProcess) -> None:
    channel = grpc.secure_channel(server.address, server.credentials())
    with channel:
        stub = graph_service_pb2_grpc.GraphServiceStub(channel)
        page = stub.ListEntities(views_pb2.ListEntitiesRequest(page_size=1), timeout=10)
        again = views_pb2.ListEntitiesRequest(page_size=2, page_token=page.next_page_token)
        assert page.entities[0] not in stub.ListEntities(again, timeout=10).entities
        for wrong in (
            views_pb2.ListEntitiesRequest(types=["ip"], page_token=page.next_page_token),
            views_pb2.ListEntitiesRequest(tlp_max=graph_pb2.TLP_GREEN, page_token=page.next_page_token),
            views_pb2.ListEntitiesRequest(page_token="no token"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ListEntities(wrong, timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_sightings_are_added_up(server: ServerProcess) -> None:
    entity = "ip:203.0.113.7"
    days = {row["day"]: row["count"] for row in rows(server, "sightings", entity, "--by", "day", "--tlp", "amber")}
    assert days["2026-03-01"] == "5"
    assert {row["hour"]: row["count"] for row in rows(server, "sightings", entity, "--by", "hour")}[
        "2026-03-01T08:00"
    ] == "4"
    sources = {row["source"]: row["count"] for row in rows(server, "sightings", entity, "--by", "source")}
    assert sources == {"auth": "5", "secret": "1", "leak": "1"}
    assert [row["dump"] for row in rows(server, "sightings", entity, "--by", "dump")] == ["forum-2026-03"]
    table, said = heimdall(server, "sightings", entity, "--by", "source", "--limit", "1")
    assert "auth" in table
    assert "seen 7 times in 3 sightings, more sums than are told: --limit" in said
    assert {row["seen_in"] for row in rows(server, "sightings", entity)} == {"auth", "secret", "forum-2026-03"}


def test_whatever_the_graph_answers_is_csv_too_and_no_formula_comes_through(server: ServerProcess) -> None:
    shown = rows(server, "show", "dump:forum-2026-03", "--depth", "2")
    assert shown[0]["hops"] == "0"
    assert {"'=1+1", "203.0.113.7"} <= {row["value"] for row in shown}
    steps = rows(server, "path", "ip:203.0.113.7", "email:alice@example.com")
    assert steps[1]["by"]
    assert "%" in steps[1]["says"]
    cypher = rows(server, "cypher", "MATCH (e:Entity) WHERE e.value = 'evil.example' RETURN e.value, e.type")
    assert list(cypher[0].values()) == ["evil.example", "domain"]


@pytest.mark.parametrize("output", ["dot", "graphml"])
def test_what_other_programs_read_holds_every_vertex_and_odd_value(server: ServerProcess, output: str) -> None:
    text = heimdall(server, "show", "dump:forum-2026-03", "--depth", "2", "-o", output)[0]
    table = rows(server, "show", "dump:forum-2026-03", "--depth", "2")
    assert all(row["vertex_id"] in text for row in table)
    if output == "dot":
        assert text.startswith("digraph")
        assert text.count("->") >= len(table) - 1
        return
    root = ET.fromstring(text)  # noqa: S314 - of our own server
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    nodes = {node.get("id") for node in root.iterfind(".//g:node", space)}
    assert {row["vertex_id"] for row in table} <= nodes
    assert all({edge.get("source"), edge.get("target")} <= nodes for edge in root.iterfind(".//g:edge", space))
    assert "=1+1" in {data.text for data in root.iterfind(".//g:data", space)}
