"""PostgreSQL under observation in a real server: reports by the command, and what is told while it doesn't answer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heimdall_client.errors import PermissionDeniedError
from heimdall_server.storage.postgres.leftovers import processes_of
from tests.support import opened_stores as stores
from tests.support.server_process import ServerProcess

ENVIRONMENT = {
    "HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]',
    "HEIMDALL_POSTGRES__SLOW_STATEMENT_S": "0.01",
    "HEIMDALL_POSTGRES__STATEMENT_TIMEOUT_S": "1.0",
    "HEIMDALL_POSTGRES__CONNECT_TIMEOUT_S": "1.0",
}
PLANTED = ("alice.planted", "203.0.113.77", "planted.example")
LINE = "2026-03-01T08:00:00Z INFO login {} of alice.planted@example.com from 203.0.113.77 by planted.example\n"


def heimdall(server: ServerProcess, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("heimdall")), "--config", str(server.client_file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def frozen(server: ServerProcess) -> Iterator[None]:
    """A PostgreSQL that hangs: it is there, and says nothing."""
    pids = processes_of(stores.postgres_folder(server.data_dir))
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


@pytest.mark.timeout(240)
def test_what_postgres_does_is_told_and_while_it_hangs_ingest_goes_on_and_the_rest_catches_up(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, metrics=True, environment=ENVIRONMENT) as server, server.client() as client:

        def states() -> dict[str, tuple[str, int]]:
            return {one.name: (one.state, one.lag_frame_count) for one in client.status().projections}

        client.ingest_stream(io.BytesIO(LINE.format(1).encode()), "app")
        until(lambda: states()["graph"] == ("running", 0), "the graph doesn't run")
        with frozen(server):
            # An acknowledgement doesn't wait for PostgreSQL: this one would never come.
            client.ingest_stream(io.BytesIO(LINE.format(2).encode()), "app")
            # The graph waits for the vault, which knows whose tokens are whose.
            until(lambda: states()["vault"][0] == "retrying" and states()["graph"][1] > 0, "nobody says that it hangs")
            (told,) = {one.problem for one in client.status().projections if one.name == "vault"}
            assert told.startswith("postgres failed: it ")
            client.slow_statements()  # doesn't ask it
        until(lambda: states()["graph"] == states()["vault"] == ("running", 0), "it doesn't catch up")
        assert client.vertex("ip:203.0.113.77").vertex.type == "ipv4"
        client.cypher("MATCH (planted:Entity) WHERE planted.value = '203.0.113.77' RETURN planted.value")
        report = json.loads(heimdall(server, "admin", "indexes", "-o", "json"))
        assert report["index_count"] > 30
        assert all("CONCURRENTLY" in one["statement"] for one in report.get("findings", []) if one.get("statement"))
        slow = [
            json.loads(line) for line in heimdall(server, "admin", "slow", "--since", "1h", "-o", "json").splitlines()
        ]
        assert slow
        assert {one["user"] for one in slow} & {"vault", "graph_writer", "graph_reader", "cypher"}
        assert any(one.get("plan") for one in slow)
        metrics = stores.metrics_text(server.metrics_address).decode()
        for name in (
            'heimdall_postgres_connections{pool="heimdall",state="idle"}',
            'heimdall_postgres_transaction_seconds_count{user="graph_writer"}',
            'heimdall_postgres_wait_seconds_count{user="vault"}',
            "heimdall_postgres_failures_total{kind=",
        ):
            assert name in metrics
        logged = [one for one in server.events() if one.get("event") == "slow statement"]
        assert logged
        for value in PLANTED:
            assert value not in json.dumps([slow, logged, report])
            assert value not in metrics
        with server.client("writer") as writer, pytest.raises(PermissionDeniedError):
            writer.indexes()
        assert server.stop() == 0
