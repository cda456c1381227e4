"""A graph that loses what was deleted, is made again, and is the same however often server and PostgreSQL are killed meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heimdall.graph.v1 import graph_pb2
from heimdall.ingest.v1 import source_pb2
from heimdall_client import Client
from heimdall_client.errors import HeimdallError
from tests.support.graphs import canonical_statements
from tests.support.opened_stores import postgres_connection, postgres_folder
from tests.support.server_process import ServerProcess

SERVICES = {
    "HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]',
    "HEIMDALL_JOURNAL__SEGMENT_BYTES": str(1 << 20),
    "HEIMDALL_JOURNAL__RETAIN_BYTES": "0",
}
LINES = 200


def logs(part: int) -> bytes:
    """Lines of a log: the same few addresses, day after day."""
    lines = [
        f"2026-03-{part % 3 + 1:02d}T{row % 24:02d}:00:{row % 60:02d}Z INFO user{row % 7}@example.com from 203.0.113.{row % 50} "
        f"asked host{row % 30}.example {random.Random(part * LINES + row).randbytes(2000).hex()}"
        for row in range(LINES)
    ]
    return "\n".join(lines).encode() + b"\n"


def dump(rows: int) -> bytes:
    """A dump in which some of them stand, too."""
    lines = [
        f"2026-03-01T00:{row // 60 % 60:02d}:{row % 60:02d}Z,user{row % 9}@example.com,203.0.113.{row % 60},n{row}"
        for row in range(rows)
    ]
    return "\n".join(["time,mail,ip,comment", *lines]).encode() + b"\n"


def until(what: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    """Ask until there is an answer."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(HeimdallError):
            if found := what():
                return found
        time.sleep(0.2)
    raise AssertionError("it took too long")


def caught_up(client: Client) -> bool:
    states = {one.name: one for one in client.status().projections}
    return not states["graph"].lag_frame_count and not states["warm"].lag_frame_count


def graph(server: ServerProcess, **how: Any) -> list[tuple[object, ...]]:
    """The graph as it is, once it has everything; not how it was put together."""
    with server.client() as client:
        until(lambda: caught_up(client))
    found: list[tuple[object, ...]] = []
    with postgres_connection(server.data_dir) as connection:
        connection.execute("SET search_path = heimdall, ag_catalog")
        for name, statement in canonical_statements(**how):
            if name != "graph_applied":
                found += [(name, *row) for row in connection.execute(statement.encode()).fetchall()]
    return sorted(found, key=repr)


def heimdall(server: ServerProcess, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("heimdall")), "--config", str(server.client_file), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_postgres(server: ServerProcess) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((postgres_folder(server.data_dir) / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)


def ingest(server: ServerProcess, data: bytes, source: str, **how: Any) -> None:
    """Hand data over, however often the server is away."""

    def hand_over() -> bool:
        with server.client() as client:
            client.ingest_stream(io.BytesIO(data), source, **how)
        return True

    until(hand_over, timeout_s=120)


@pytest.mark.timeout(240)
def test_a_deletion_leaves_what_a_rebuild_makes_and_a_rebuild_goes_on_after_kills(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, environment=SERVICES) as server:
        for part in range(4):
            ingest(server, logs(part), f"app-{part % 2}")
        ingest(server, dump(300), "leak", dump="forum", format="csv")
        ingest(server, dump(20), "leak-2", dump="shop", format="csv")
        with server.client() as client:
            until(lambda: caught_up(client))
            client.add_label("ip:203.0.113.7", "c2")
        heimdall(server, "delete", "source:app-1 OR dump:shop", "--reason", "a test", "--yes")
        left = graph(server)
        assert "app-0" in str(left)
        assert "forum" in str(left)
        assert "app-1" not in str(left)
        assert "shop" not in str(left)

        with server.client() as client:  # so that a part of it comes from the store
            until(lambda: client.status().journal.tail.shards[0] > 0)
        answer = json.loads(heimdall(server, "graph", "rebuild", "--yes", "--reason", "a test", "-o", "json"))
        assert answer["done_count"] == answer["position_count"]
        assert graph(server) == left
        chance = random.Random(7)
        heimdall(server, "graph", "rebuild", "--yes", "--detach")
        for turn in range(3):
            time.sleep(chance.uniform(0.1, 1.5))
            if turn == 1:
                kill_postgres(server)
            else:
                server.kill()
                server.start()
        with server.client() as client:
            until(lambda: client.graph_rebuild().HasField("end_time"))
            shown = client.vertex("ip:203.0.113.7")
            assert list(shown.vertex.labels) == ["c2"]
            assert client.graph_rebuild().reason == ""
            acts = list(client.audit_entries(action="graph.rebuild", limit=0))
            assert client.refused_facts() == []
        assert len(acts) >= 2
        assert graph(server) == left
        assert server.stop() == 0


@pytest.mark.timeout(240)
def test_server_and_postgres_killed_while_logs_and_dumps_come_in_end_in_the_graph_of_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    how = {"who": "(p.source, p.method, p.dump, p.confidence, p.tlp)::text", "places": False}
    # Accounts are no mail addresses: ids of those are keyed, and differ from server to server.
    logged = [(logs(part) + logs(part + 2)).replace(b"@example.com", b".example") for part in range(2)]
    leaked = dump(1500).replace(b"@example.com", b".example").replace(b"mail", b"who")
    with ServerProcess(tmp_path / "killed", environment=SERVICES) as server:
        feed(server, logged[0], "app-0", kill_server)
        feed(server, logged[1], "app-1", kill_postgres)
        forum = source_pb2.Dump(name="forum", content_sha256=hashlib.sha256(leaked).digest())
        feed(server, leaked, "leak", kill_both, dump=forum, format="csv")
        killed = graph(server, **how)
        told = graph(server)
        heimdall(server, "graph", "rebuild", "--yes")
        assert graph(server) == told
        assert server.stop() == 0
    with ServerProcess(tmp_path / "quiet", environment=SERVICES) as server:
        for number, data in enumerate(logged):
            ingest(server, data, f"app-{number}")
        ingest(server, leaked, "leak", dump="forum", format="csv")
        quiet = graph(server, **how)
    assert len(quiet) > 100
    expected, found = (set(map(repr, one)) for one in (quiet, killed))
    assert (sorted(expected - found)[:5], sorted(found - expected)[:5]) == ([], [])


def feed(
    server: ServerProcess, data: bytes, source: str, kill: Callable[[ServerProcess], None], **options: Any
) -> None:
    """Take in line by line, kill when the graph has some of it and lacks some of what is durable, and take in the rest."""
    lines = data.splitlines(keepends=True)
    with server.client() as client, client.ingester(source, **options) as ingester:
        _, begin = places(client)
        applied = head = begin
        while not begin < applied < head:
            assert len(lines) > 40, "there is nothing left that could come in when it is killed"
            ingester.write(b"".join(lines[:4]))
            del lines[:4]
            time.sleep(0.1)
            applied, head = places(client)
        ingester.write(b"".join(lines[:20]))
        kill(server)
        ingester.write(b"".join(lines[20:]))
        summary = ingester.finish()
    assert summary.next_offset == len(data)
    assert bool(summary.break_count) == (kill is not kill_postgres), "it was being taken in"


def places(client: Client) -> tuple[int, int]:
    """What the graph has applied, and the journal's head."""
    (found,) = [one for one in client.status().projections if one.name == "graph"]
    applied = int(found.applied.shards[0])
    return applied, applied + found.lag_frame_count


def kill_server(server: ServerProcess) -> None:
    """It is there again when this returns; PostgreSQL goes with it."""
    server.kill()
    server.start()


def kill_both(server: ServerProcess) -> None:
    """PostgreSQL first."""
    kill_postgres(server)
    kill_server(server)


def take(server: ServerProcess, file: Path, name: str, *how: str) -> dict[str, Any]:
    """Take a dump in; what became of it."""
    said = heimdall(server, "ingest", str(file), "--dump", name, *how, "--output", "json")
    found: dict[str, Any] = json.loads(said)["files"][0]
    return found


@pytest.mark.timeout(120)
def test_a_dump_whose_records_were_all_deleted_is_taken_in_again_also_with_another_marking(tmp_path: Path) -> None:
    leak = tmp_path / "leak.csv"
    leak.write_bytes(dump(40))
    with ServerProcess(tmp_path / "server", environment=SERVICES) as server:

        def take_in(tlp: str) -> dict[str, Any]:
            return take(server, leak, "forum", "--tlp", tlp)

        def delete(query: str) -> None:
            heimdall(server, "delete", query, "--reason", "a test", "--yes")

        first = take_in("amber")
        delete("dump:forum AND comment:n1")
        again = take_in("amber")
        assert (first["already_complete"], again["already_complete"]) == (False, True)
        delete("dump:forum")
        assert "forum" not in str(graph(server))
        server.kill()  # what it forgot of the source isn't in its memory alone
        server.start()
        assert not take_in("green")["already_complete"]
        assert "forum" in str(graph(server))
        with server.client() as client:
            assert client.vertex("dump:forum").vertex.seen.tlp == graph_pb2.TLP_GREEN
            found = json.loads(heimdall(server, "query", "dump:forum | stats count", "--output", "json"))
            assert found["count"] == 40
        assert server.stop() == 0


@pytest.mark.timeout(120)
def test_several_dumps_of_one_source_are_taken_in_resumed_and_deleted_each_by_itself(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.csv" for name in ("forum", "shop")}
    for rows, file in zip((40, 30), files.values(), strict=True):
        file.write_bytes(dump(rows))
    of_osint = ("--source", "osint", "--tlp", "amber")
    with ServerProcess(tmp_path / "server", environment=SERVICES) as server:

        def counts() -> dict[str, int]:
            graph(server)
            said = heimdall(server, "query", "dump:* | stats count by source, dump", "--output", "json")
            rows = [json.loads(line) for line in said.splitlines()]
            assert {row["source"] for row in rows} <= {"osint"}
            return {row["dump"]: row["count"] for row in rows}

        content = files["shop"].read_bytes()
        half = content.index(b"n15\n") + len(b"n15\n")
        begun = source_pb2.Dump(name="shop", content_sha256=hashlib.sha256(content).digest())
        with server.client() as client, client.ingester("osint", format="csv", tlp="amber", dump=begun) as ingester:
            ingester.write(content[:half])
            ingester.flush()
        assert take(server, files["forum"], "forum", *of_osint)["accepted_count"] == 40
        server.kill()
        server.start()
        rest = take(server, files["shop"], "shop", *of_osint)
        assert (rest["start_offset"], rest["accepted_count"]) == (half, 14)
        assert [take(server, file, name, *of_osint)["already_complete"] for name, file in files.items()] == [True, True]
        assert counts() == {"forum": 40, "shop": 30}
        with server.client() as client:
            for name in files:
                assert [told.source for told in client.vertex(f"dump:{name}").provenances] == ["osint"]
        heimdall(server, "delete", "dump:shop", "--reason", "a test", "--yes")
        assert counts() == {"forum": 40}
        again = [take(server, file, name, *of_osint)["already_complete"] for name, file in files.items()]
        assert again == [True, False]
        assert counts() == {"forum": 40, "shop": 30}
        assert server.stop() == 0


@pytest.mark.timeout(120)
def test_what_stands_in_the_host_of_a_dump_and_of_a_log_is_one_entity_and_finds_both(tmp_path: Path) -> None:
    leak = tmp_path / "stealer.csv"
    leak.write_text("host,user,password\nevil.example,bob,x\n203.0.113.9,eve,y\n")
    with ServerProcess(tmp_path / "server", environment=SERVICES) as server:
        take(server, leak, "stealer", "--source", "osint", "--service", "mail")
        ingest(
            server,
            b'{"host":"evil.example","message":"hello"}\n{"host":"web-1","message":"bye"}\n',
            "app",
            format="ndjson",
        )
        told = str(graph(server))
        assert "evil.example" in told
        with server.client() as client:
            assert client.vertex("domain:evil.example").vertex.seen.count == 2
            levels = client.neighbourhood("dump:stealer", edges=["HAS_FIELD"])
            fields = {vertex.value for level in levels if level.depth for vertex in level.vertices}
        assert fields == {"host", "user", "password"}
        said = heimdall(server, "query", "sighted_in:stealer | stats count by source", "--output", "json")
        assert {row["source"]: row["count"] for row in map(json.loads, said.splitlines())} == {"app": 1, "osint": 2}
        assert server.stop() == 0
