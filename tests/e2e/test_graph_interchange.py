"""Imports and exports of a real server, by the command: over a kill, up to the erasure of a person."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_client.errors import FormatInvalidError, NotFoundError, PermissionDeniedError
from tests.support.cli import invoke_on
from tests.support.interchange import LATER, TIME, bundle, observable, stix
from tests.support.server_process import ServerProcess

SERVICES = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]'}
IP = observable("ipv4-addr", value="203.0.113.7")
MAIL = observable("email-addr", value="alice@example.com")
ACTOR = stix("threat-actor", name="Crime Crew", aliases=["CC"])
TECHNIQUE = stix(
    "attack-pattern", name="Phishing", external_references=[{"source_name": "mitre-attack", "external_id": "T1566"}]
)
USES = stix("relationship", relationship_type="uses", source_ref=ACTOR["id"], target_ref=TECHNIQUE["id"])
MAILS = stix("relationship", relationship_type="attributed-to", source_ref=MAIL["id"], target_ref=ACTOR["id"])
SEEN = stix("observed-data", first_observed=TIME, last_observed=LATER, number_observed=7, object_refs=[IP["id"]])
TALKS = stix("relationship", relationship_type="communicates-with", source_ref=ACTOR["id"], target_ref=IP["id"])
BAD = observable("ipv4-addr", value="203.0.113.777")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=SERVICES) as running:
        yield running


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    """Run the command; returns what it said."""
    outcome = invoke_on(server, *arguments)
    assert outcome.code == code, outcome.out + outcome.err
    return outcome.out + outcome.err


def piped(server: ServerProcess, *arguments: str, stdin: bytes, code: int) -> str:
    """The same in a process of its own, which reads a pipe."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("heimdall")), "--config", str(server.client_file), *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == code, told
    return told


@pytest.mark.timeout(240)
def test_facts_come_in_stay_go_out_and_go_with_the_person(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "partner.json"
    file.write_bytes(bundle(USES, MAILS, TALKS, SEEN, IP, MAIL, ACTOR, TECHNIQUE, BAD))
    told = heimdall(server, "graph", "import", str(file), "--dry-run", code=3)
    assert "would keep 8 new facts by partner" in told
    options = ("--source", "partner", "--reason", "case 17")
    told = piped(server, "graph", "import", "-", *options, code=3, stdin=file.read_bytes())
    assert "kept 8 new facts by partner" in told
    assert "refused 1" in told
    server.kill()
    server.start()
    assert "kept 0 new facts by partner, 8 were there" in heimdall(server, "graph", "import", str(file), code=3)

    feed = tmp_path / "feed"
    feed.mkdir()
    uuid = "00000000-0000-4000-8000-000000000001"
    attribute = {
        "uuid": "00000000-0000-4000-8000-000000000002",
        "type": "ip-dst",
        "category": "Network activity",
        "value": "203.0.113.7",
        "to_ids": True,
    }
    event = {"uuid": uuid, "info": "OSINT", "timestamp": "1772359200", "distribution": "3", "Attribute": [attribute]}
    (feed / "manifest.json").write_text(json.dumps({uuid: {"info": "OSINT"}}))
    (feed / f"{uuid}.json").write_text(json.dumps({"Event": event}))
    assert "kept 3 new facts by feed" in heimdall(server, "graph", "import", str(feed), "--tlp", "green")

    shown = heimdall(server, "graph", "show", "attack-pattern:T1566")
    assert "Phishing" in shown
    assert "Crime Crew" in shown
    assert "misp-event" in heimdall(server, "graph", "show", "ip:203.0.113.7")

    out = tmp_path / "out.json"
    told = heimdall(server, "graph", "export", "threat-actor:CC", "--output", str(out))
    assert "1 personal entity" in told
    assert "alice" not in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    types = {one["type"] for one in json.loads(out.read_bytes())["objects"]}
    assert {"threat-actor", "attack-pattern", "ipv4-addr", "relationship", "observed-data"} <= types
    heimdall(server, "graph", "export", "threat-actor:CC", "--reveal-personal", code=2)
    revealing = ("--reveal-personal", "--reason", "case 17", "--output", str(out))
    heimdall(server, "graph", "export", "threat-actor:CC", *revealing)
    assert "alice@example.com" in out.read_text()

    with server.client("writer") as stranger:
        for refused in (
            lambda: stranger.import_facts(file.read_bytes(), "stranger"),
            lambda: stranger.export_stix_bundle("threat-actor:CC"),
        ):
            with pytest.raises(PermissionDeniedError):
                refused()
    with server.client() as client:
        with pytest.raises(FormatInvalidError):
            client.import_facts(b"[1", "partner")
        acts = heimdall(server, "audit", "list", "--action", "graph.import", "-o", "json")
        assert "case 17" in acts
        assert client.vertex("email:alice@example.com").vertex.value.startswith("[email:")
        heimdall(
            server,
            "privacy",
            "erase",
            "--subject",
            "email:alice@example.com",
            "--reason",
            "asked for",
            "--yes",
            "--no-wait",
        )
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            try:
                client.vertex("email:alice@example.com")
            except NotFoundError:
                break
            time.sleep(0.2)
        else:
            raise AssertionError("the person is still in the graph")
        assert client.vertex("threat-actor:CC").vertex.value == "Crime Crew"
    assert server.stop() == 0
