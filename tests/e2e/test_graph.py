"""The graph of a real server: from logs and a dump to entities, over a kill, by the command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_client import Client
from heimdall_client.errors import NotFoundError, PermissionDeniedError
from tests.support.pki import TRUST_DOMAIN
from tests.support.server_process import ServerProcess

SERVICES = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]'}
LOG = b"""2026-03-01T08:00:00Z INFO login of alice@example.com from 203.0.113.7
2026-03-01T09:00:00Z WARN 203.0.113.7 asked evil.example
"""
DUMP = b"""mail,ip,comment
alice@example.com,203.0.113.7,hi
bob@example.com,198.51.100.2,met 203.0.113.7
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=SERVICES) as running:
        yield running


def wait_applied(server: ServerProcess, *, timeout_s: float = 40.0) -> None:
    """Wait until the graph has every frame."""
    deadline_s = time.monotonic() + timeout_s
    with server.client() as client:
        while time.monotonic() < deadline_s:
            found = {one.name: one for one in client.status().projections}["graph"]
            if not found.lag_frame_count:
                return
            time.sleep(0.1)
    raise AssertionError(f"the graph is behind: {found}")


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("heimdall")), "--config", str(server.client_file), "graph", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_two_identities_that_send_the_same_source_are_both_named(server: ServerProcess) -> None:
    for name in ("admin", "writer"):
        with server.client(name) as client:
            client.ingest_stream(io.BytesIO(LOG.replace(b"evil", name.encode())), "app")
            leaked = DUMP + b"%s@example.com,198.51.100.9,x\n" % name.encode()
            client.ingest_stream(io.BytesIO(leaked), "leak", dump="forum", format="csv")
    wait_applied(server)

    shown = json.loads(heimdall(server, "show", "ip:203.0.113.7", "-o", "json"))
    told = [(one["actor"], one["source"], one["count"]) for one in shown["vertex"]["provenances"]]
    uris = [f"spiffe://{TRUST_DOMAIN}/client/{name}" for name in ("admin", "writer")]
    assert sorted(told) == [(uri, source, 2) for uri in uris for source in ("app", "leak")]
    assert {one["actor"] for edge in shown["edges"] for one in edge["provenances"]} == set(uris)
    only = json.loads(heimdall(server, "show", "domain:writer.example", "-o", "json"))
    assert [one["actor"] for one in only["vertex"]["provenances"]] == [uris[1]]
    assert "forum by client/writer (dump-field, 25 %)" in heimdall(server, "show", "ip:203.0.113.7")
    with server.client() as client:
        found = client.search(f'principal:"{uris[1]}" | fields source, principal', consistent=True).to_arrow()
    assert sorted(found.column("source").to_pylist()) == ["app"] * 2 + ["leak"] * 3


@pytest.mark.timeout(180)
def test_logs_and_dumps_become_entities_that_are_found_by_value_and_walked(server: ServerProcess) -> None:
    with server.client() as client:
        client.ingest_stream(io.BytesIO(LOG), "app")
    server.kill()
    server.start()
    with server.client() as client:
        client.ingest_stream(io.BytesIO(DUMP), "leak", dump="forum-2026-03", format="csv")
    wait_applied(server)

    shown = json.loads(heimdall(server, "show", "ip:203.0.113.7", "-o", "json"))
    assert shown["vertex"]["vertex"]["value"] == "203.0.113.7"
    assert {(one["source"], one.get("dump", "")) for one in shown["vertex"]["provenances"]} == {
        ("app", ""),
        ("leak", "forum-2026-03"),
    }
    # Addresses for documentation are on a warninglist.
    assert shown["vertex"]["warninglists"] == ["documentation-addresses"]
    assert {one["confidence"] for one in shown["vertex"]["provenances"]} == {25}
    assert "public-resolvers" in heimdall(server, "warninglists")
    sightings = [
        json.loads(line)
        for line in heimdall(server, "sightings", "ip:203.0.113.7", "-o", "json").splitlines()
        if line[0] == "{"
    ]
    logged = next(one for one in sightings if one["value"] == "app")
    assert (logged["day"], int(logged["seen"]["count"])) == ("2026-03-01", 2)

    way = heimdall(server, "path", "ip:198.51.100.2", "email:alice@example.com")
    assert "OF_ENTITY" in way
    assert "alice" not in way, "personal values are tokens"
    table = heimdall(server, "show", "dump:forum-2026-03", "--depth", "2")
    for name in ("mail", "comment", "field_value", "[email:"):
        assert name in table
    rows = heimdall(server, "cypher", "MATCH (e:Entity) RETURN e.value ORDER BY e.value")
    assert "evil.example" in rows
    assert "alice" not in rows
    assert "begins with MATCH" in heimdall(server, "cypher", "CREATE (e:Entity) RETURN e", code=2)
    assert "<graphml" in heimdall(server, "show", "domain:evil.example", "-o", "graphml")

    # Of each neighbour it is told since when it is one, and who says so.
    assert {
        (told["dump"] or told["source"], told["method"]) for edge in shown["edges"] for told in edge["provenances"]
    } == {("app", "log-observable"), ("forum-2026-03", "dump-field")}
    table = heimdall(server, "show", "ip:203.0.113.7")
    assert "first seen" in table
    assert "app by client/admin (log-observable, 25 %)" in table
    # Only along what is asked for: an address is one of two types, and mail addresses aren't walked through.
    met = json.loads(heimdall(server, "show", "dump:forum-2026-03", "--depth", "3", "--type", "ip", "-o", "json"))
    assert {one["type"] for one in met["neighbours"] if one["kind"] == "entity"} == {"ipv4"}
    assert "there is no type" in heimdall(server, "show", "dump:forum-2026-03", "--type", "wizard", code=2)

    with server.client() as client:
        token = client.vertex("email:alice@example.com").vertex.value
        assert (
            client.vertex(token).vertex.vertex_id
            == client.vertex(("email", "Alice@EXAMPLE.com".replace("A", "a"))).vertex.vertex_id
        )
        with pytest.raises(NotFoundError):
            client.vertex("domain:nothing.example")
        acts = client.audit_entries(action="privacy.match", limit=0)
    assert acts, "who asks by a personal value is in the audit log"
    with server.client("writer") as client:
        assert client.vertex("ip:203.0.113.7").vertex.value == "203.0.113.7", "who may search may see the graph"
        with pytest.raises(PermissionDeniedError):
            client.cypher("MATCH (e:Entity) RETURN e.value")
        with pytest.raises(PermissionDeniedError):
            client.add_label("ip:203.0.113.7", "mine")

    gone = json.loads(heimdall(server, "show", "email:bob@example.com", "-o", "json"))["vertex"]["vertex"]
    with server.client() as client:
        client.erase([("email", "bob@example.com")], reason="a test")
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s and _is_there(client, gone["vertex_id"]):
            time.sleep(0.1)
        assert not _is_there(client, gone["vertex_id"]), "an erasure takes the person out of the graph"
        assert _is_there(client, "email:alice@example.com")
    assert gone["value"] not in heimdall(server, "show", "dump:forum-2026-03", "--depth", "2")
    assert server.stop() == 0


def _is_there(client: Client, vertex: str) -> bool:
    try:
        client.vertex(vertex)
    except NotFoundError:
        return False
    return True
