"""An export of a real server: every record beyond every limit, dead letters and the graph; and what isn't in it is said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import ServerProcess

ALICE, BOB = "alice.lovelace@example.com", "bob.babbage@example.org"
SERVICES = ["ingest", "query", "admin", "privacy", "graph"]
ROWS_MAX, RECORDS = 40, 130


def environment(services: list[str]) -> dict[str, str]:
    return {"HEIMDALL_SERVICES": json.dumps(services), "HEIMDALL_LIMITS__QUERY_ROWS_MAX": str(ROWS_MAX)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=environment(SERVICES)) as running:
        yield running


def exported(server: ServerProcess, *, reveal: bool = False) -> list[dict[str, Any]]:
    with server.client() as client:
        pieces = list(client.export_subject([("email", ALICE)], reason="art. 15 request", reveal=reveal))
    return [json.loads(line) for line in b"".join(pieces).splitlines()]


@pytest.mark.timeout(240)
def test_an_export_is_whole_and_says_what_is_not_in_it(server: ServerProcess, tmp_path: Path) -> None:
    lines = [json.dumps({"message": f"login of {ALICE}", "peer": BOB, "n": number}) for number in range(RECORDS)]
    lines[7:7] = [json.dumps({"message": f"login of {BOB}"}), f'{{"message": "broken, {ALICE} and {BOB}']
    file = tmp_path / "in.ndjson"
    file.write_text("".join(line + "\n" for line in lines))
    with server.client() as client:
        client.ingest_file(file, source_id="people", format="ndjson")
        before = exported(server)  # waits for the graph, too
        assert before[-1]["missing"] == []
        client.add_note(f"email:{ALICE}", "called on Monday")
    found = exported(server, reveal=True)
    kinds = Counter(line["kind"] for line in found)
    assert kinds["record"] == found[-1]["record_count"] == RECORDS > 3 * ROWS_MAX
    numbers = [line["record"]["attributes_number"]["n"] for line in found if line["kind"] == "record"]
    assert sorted(numbers) == list(range(RECORDS))
    text = json.dumps(found)
    assert BOB not in text
    assert all(ALICE in line["record"]["body"] for line in found if line["kind"] == "record")
    (letter,) = [line["dead_letter"] for line in found if line["kind"] == "dead_letter"]
    assert ALICE in letter["text"]
    assert letter["source"] == "people"
    (entity,) = [line for line in found if line["kind"] == "graph_entity"]
    assert entity["entity"]["value"] == ALICE
    assert [note["body"] for note in entity["notes"]] == ["called on Monday"]
    assert sum(line["sighting"]["count"] for line in found if line["kind"] == "graph_sighting") == RECORDS
    assert found[-1]["missing"] == []
    assert ALICE not in json.dumps(before)
    server.stop()

    with ServerProcess(tmp_path, environment=environment(SERVICES[:-1])) as without:
        later = exported(without)
    (missing,) = [line for line in later if line["kind"] == "missing"]
    assert (missing["part"], later[-1]["missing"]) == ("graph", ["graph"])
    assert "doesn't run the graph" in missing["reason"]
    assert Counter(line["kind"] for line in later) == kinds | {"missing": 1}
