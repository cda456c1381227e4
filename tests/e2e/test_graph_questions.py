"""Logs joined with sightings on a real server: in searches, in SQL, page by page, in watches; explained, refused, deleted by."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_client import Client
from heimdall_client.errors import ClosedError, HeimdallError
from heimdall_client.watch_state import Rows
from tests.e2e.test_graph import DUMP, SERVICES, wait_applied
from tests.support.server_process import ServerProcess

LOG = b"""2026-03-02T08:00:00Z INFO login of alice@example.com from 192.0.2.1
2026-03-02T08:01:00Z WARN 203.0.113.7 asked evil.example
2026-03-02T08:02:00Z WARN 1203.0.113.7 isn't an address, 203.0.113.70 another
2026-03-02T08:03:00Z INFO nobody asked www.evil.example
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("questions"), environment=SERVICES) as running:
        with running.client() as client:
            client.ingest_stream(io.BytesIO(LOG), "app")
            client.ingest_stream(io.BytesIO(DUMP), "leak", dump="forum-2026-03", format="csv")
        wait_applied(running)
        yield running


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("heimdall")), "--config", str(server.client_file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def bodies(client: Client, question: str) -> list[str]:
    return sorted(str(row["body"]) for row in client.search(question, consistent=True))


@pytest.mark.timeout(120)
def test_records_that_hold_what_a_dump_tells_of_are_found_and_counted(server: ServerProcess) -> None:
    with server.client() as client:
        found = bodies(client, "sighted_in:forum-2026-03 AND source:app")
        assert len(found) == 2
        assert found[0].endswith("203.0.113.7 asked evil.example")
        assert "[email:" in found[1], "a person is found by the token"
        counted = list(client.search("sighted_in:forum-2026-03 AND source:app | stats count() as n by severity"))
        assert sum(int(row["n"]) for row in counted) == 2
        others = bodies(client, "NOT sighted_in:forum-2026-03 AND source:app")
        assert len(others) == 2
        assert any("1203.0.113.7" in body for body in others)

        client.add_label("domain:evil.example", "c2", reason="a test")
        assert len(bodies(client, "entity_label:c2 AND source:app")) == 1
        assert not bodies(client, "entity_label:never")


@pytest.mark.timeout(120)
def test_a_question_of_the_graph_is_explained_in_counts_and_refused_by_name(server: ServerProcess) -> None:
    told = heimdall(server, "explain", "sighted_in:forum-2026-03 AND source:app", "--analyze", "-v")
    assert "sighted_in forum-2026-03: 4 entities" in told
    assert "2 words of tokens looked up in the indexes" in told
    assert "2 values as a sorted set" in told
    assert "the graph has every record" in told
    assert "203.0.113" not in told
    sql = heimdall(
        server,
        "query",
        "--sql",
        "SELECT count(*) AS n FROM logs WHERE sighted_in = 'forum-2026-03' AND source = 'app'",
        "-o",
        "csv",
    )
    assert sql.splitlines()[1] == "2"
    assert "is asked with one name" in heimdall(server, "query", "sighted_in:forum*", code=2)
    assert "is asked with a marking" in heimdall(server, "query", "entity_tlp:pink", code=2)
    assert "filters and where only" in heimdall(server, "query", "* | stats count() by sighted_in", code=2)
    assert "can't ask the graph" in heimdall(
        server, "delete", "sighted_in:forum-2026-03", "--reason", "a test", "--dry-run", code=2
    )


@pytest.mark.timeout(120)
def test_pages_keep_to_the_set_that_the_first_one_began_with(server: ServerProcess) -> None:
    with server.client() as client:
        client.add_label("ip:192.0.2.1", "paged", reason="a test")
        client.add_label("ip:203.0.113.7", "paged", reason="a test")
        first = client.search("entity_label:paged AND source:app", limit=1)
        assert len(list(first)) == 1
        client.remove_label("ip:192.0.2.1", "paged", reason="a test")
        time.sleep(2.5)  # what was asked a moment ago is used again
        assert len(bodies(client, "entity_label:paged AND source:app")) == 1
        rest = list(client.search("entity_label:paged AND source:app", limit=1, resume_token=first.resume_token))
        assert len(rest) == 1, "the page goes on with what the first one asked for"
    server.stop()
    server.start()
    with server.client() as client, pytest.raises(HeimdallError) as refused:
        list(client.search("entity_label:paged AND source:app", limit=1, resume_token=first.resume_token))
    assert "has changed since the first page" in str(refused.value)


@pytest.mark.timeout(120)
def test_a_watch_hears_of_a_new_label_within_seconds(server: ServerProcess) -> None:
    seen: list[str] = []

    def follow(client: Client) -> None:
        with contextlib.suppress(ClosedError):
            for event in client.watch("entity_label:watched"):
                if isinstance(event, Rows):
                    seen.extend(str(row["body"]) for row in event.rows)
                    return

    with server.client() as client, server.client() as following:
        watcher = threading.Thread(target=follow, args=(following,), daemon=True)
        watcher.start()
        time.sleep(1.0)
        client.ingest_stream(io.BytesIO(b"2026-03-03T08:00:00Z INFO met 198.51.100.2 once\n"), "live-1")
        client.add_label("ip:198.51.100.2", "watched", reason="a test")
        deadline_s = time.monotonic() + 30
        number = 0
        while not seen and time.monotonic() < deadline_s:
            number += 1
            line = f"2026-03-03T08:00:{number:02}Z INFO met 198.51.100.2 again, not 1198.51.100.2\n"
            client.ingest_stream(io.BytesIO(line.encode()), f"live-again-{number}")
            time.sleep(1.0)
        watcher.join(10)
    assert seen
    assert "again" in seen[0], "what came before the label isn't told again"


@pytest.mark.timeout(120)
def test_who_may_not_read_the_graph_may_not_ask_it(server: ServerProcess) -> None:
    told = heimdall(server, "graph", "label", "domain:evil.example", "hush", "--tlp", "red", "--reason", "a test")
    assert told
    with server.client("writer") as client:
        assert not bodies(client, "entity_label:hush"), "above the ceiling"
    with server.client() as client:
        assert bodies(client, "entity_label:hush")
