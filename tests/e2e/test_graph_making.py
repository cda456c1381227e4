"""A graph that loses what was deleted, is made again, and is the same however often server and PostgreSQL are killed meanwhile."""

from __future__ import annotations

import contextlib
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
    pieces: list[tuple[bytes, str, dict[str, str]]] = [
        (logs(part).replace(b"@example.com", b".example"), f"app-{part}", {}) for part in range(2)
    ]
    rows = dump(500).replace(b"@example.com", b".example").replace(b"mail", b"who")  # else personal, and its ids keyed
    pieces += [(rows, "leak", {"dump": "forum", "format": "csv"})]
    graphs = []
    for name in ("quiet", "killed"):
        with ServerProcess(tmp_path / name, environment=SERVICES) as server:
            chance = random.Random(11)
            for number, (data, source, options) in enumerate(pieces):
                ingest(server, data, source, **options)
                if name == "killed":
                    time.sleep(chance.uniform(0, 1.0))
                    if number % 2:
                        kill_postgres(server)
                    else:
                        server.kill()
                        server.start()
            graphs.append(graph(server, **how))
            if name == "killed":
                told = graph(server)
                heimdall(server, "graph", "rebuild", "--yes")
                assert graph(server) == told
    quiet, killed = (set(map(repr, one)) for one in graphs)
    assert len(quiet) > 100
    assert (sorted(quiet - killed)[:5], sorted(killed - quiet)[:5]) == ([], [])
