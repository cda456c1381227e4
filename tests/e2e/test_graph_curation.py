"""What people decide about the graph of a real server, by the command and the SDK."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heimdall_client import Client
from heimdall_client.errors import EtagMismatchError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from tests.e2e.test_graph import SERVICES, wait_applied
from tests.support.cli import invoke_on
from tests.support.server_process import ServerProcess

LOG = b"""2026-03-01T08:00:00Z INFO www.evil.example was asked for
2026-03-01T09:00:00Z WARN evil.example was asked for
"""
PART, WHOLE = "domain:www.evil.example", "domain:evil.example"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=SERVICES) as running:
        yield running


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    """Run `heimdall graph`; returns what it said."""
    outcome = invoke_on(server, "graph", *arguments)
    assert outcome.code == code, outcome.err
    return outcome.out + outcome.err


def shown(server: ServerProcess, vertex: str) -> dict[str, Any]:
    """What `graph show` tells of a vertex, and the values of its neighbours within two hops."""
    told = json.loads(heimdall(server, "show", vertex, "--depth", "2", "-o", "json"))
    about: dict[str, Any] = told["vertex"]
    return about | {"sources": {one["value"] for one in told["neighbours"]}}


def neighbours(server: ServerProcess, vertex: str) -> list[dict[str, str]]:
    """Rows of a vertex and its neighbours."""
    lines = heimdall(server, "show", vertex, "-o", "csv").splitlines()
    return list(csv.DictReader(lines))


@pytest.mark.timeout(120)
def test_people_label_annotate_merge_and_split_what_the_graph_holds(server: ServerProcess) -> None:
    with server.client() as client:
        for number, line in enumerate(LOG.splitlines(keepends=True)):
            client.ingest_stream(io.BytesIO(line), f"app{number}")
        wait_applied(server)
        _label(server, client)
        _annotate(server, client)
        _merge(server, client)
        acts = [one for one in client.audit_entries(action="graph.curate", limit=0) if one.outcome == "allowed"]
    assert {one.details["method"].rpartition("/")[2] for one in acts} == {
        *("AddLabel", "RemoveLabel", "AddNote", "ChangeNote", "RemoveNote", "MergeEntities", "SplitEntity")
    }
    assert all(len(one.subject) == 32 for one in acts), "an entry names what was decided about"
    assert "alice@" not in repr(acts)
    assert server.stop() == 0


def _label(server: ServerProcess, client: Client) -> None:
    assert "labelled" in heimdall(server, "label", WHOLE, " c2 ", "--reason", "alice@example.com told so")
    heimdall(server, "label", WHOLE, "of bob@example.com", "--tlp", "green")
    assert shown(server, WHOLE)["vertex"]["labels"] == ["c2", "of [email]"]
    table = heimdall(server, "show", WHOLE)
    assert "c2, of [email]" in table
    gone = json.loads(heimdall(server, "label", WHOLE, "of bob@example.com", "--remove", "-o", "json"))
    assert gone["label"] == "of [email]"
    heimdall(server, "label", WHOLE, "of bob@example.com", "--remove", code=2)
    heimdall(server, "label", "domain:nothing.example", "c2", code=2)
    with pytest.raises(InvalidArgumentError):
        client.add_label(WHOLE, "two\nlines")
    with server.client("writer") as writer, pytest.raises(PermissionDeniedError):
        writer.add_label(WHOLE, "mine")


def _annotate(server: ServerProcess, client: Client) -> None:
    note = json.loads(heimdall(server, "note", WHOLE, "ask alice@example.com", "-o", "json"))
    assert (note["text"], note["etag"], note["tlp"]) == ("ask [email]", "1", "amber")
    heimdall(server, "note", WHOLE, "ask nobody", "--edit", note["note_id"], code=2)
    heimdall(server, "note", WHOLE, "ask nobody", "--edit", note["note_id"], "--etag", "1")
    with pytest.raises(EtagMismatchError):
        client.change_note(note["note_id"], "ask me", etag="1")
    with pytest.raises(EtagMismatchError):
        client.remove_note(note["note_id"], etag="1")
    (told,) = client.vertex(WHOLE).notes
    assert (told.text, told.etag) == ("ask nobody", "2")
    assert told.note_id in heimdall(server, "show", WHOLE).replace("\n", "")
    again = [client.add_note(WHOLE, "once", request_id="r1") for _ in range(2)]
    assert again[0] == again[1]
    assert client.add_note(WHOLE, "twice", request_id="r1").note_id != again[0].note_id
    assert "deleted" in heimdall(server, "note", WHOLE, "--remove", again[0].note_id)
    with pytest.raises(NotFoundError):
        client.remove_note(again[0].note_id)
    assert [one.text for one in client.vertex(WHOLE).notes] == ["ask nobody", "twice"]


def _merge(server: ServerProcess, client: Client) -> None:
    assert "app0" not in shown(server, WHOLE)["sources"]
    heimdall(server, "label", PART, "alias")
    merge = json.loads(heimdall(server, "merge", PART, WHOLE, "--reason", "one machine", "-o", "json"))
    for name in (PART, WHOLE):
        told = shown(server, name)
        assert told["vertex"]["value"] == "evil.example"
        assert told["vertex"]["labels"] == ["alias", "c2"]
        assert {"app0", "app1"} <= told["sources"]
        assert told["vertex"]["seen"]["count"] == 2
        assert [one["etag"] for one in told["merges"]] == [merge["etag"]]
        assert [one.value for one in client.sightings(name).sightings] in (["app0", "app1"], ["app1", "app0"])
    # Reached by what a part was told, it is shown with the edge and who says that.
    (sighting,) = [one for one in neighbours(server, WHOLE) if one["value"] == "app0"]
    (whole,) = [one for one in neighbours(server, sighting["vertex_id"]) if one["hops"] == "1"]
    assert (whole["value"], whole["by"], whole["says"][:4]) == ("evil.example", "OF_ENTITY", "app0")
    assert client.merge_entities(PART, WHOLE).etag == merge["etag"]
    with pytest.raises(InvalidArgumentError, match="part of"):
        client.merge_entities(WHOLE, PART)
    assert "no part of" in heimdall(server, "split", PART)
    heimdall(server, "split", PART, code=2)
    assert "app0" not in shown(server, WHOLE)["sources"]
    assert shown(server, PART)["vertex"]["value"] == "www.evil.example"
