"""SIGTERM under full load: the server is gone in ten seconds, cleanly, and nothing that it acknowledged is.

That the test sees a server that goes badly is itself tested: on ones that are broken on purpose.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from heimdall_server.wiring.shutdown import SHUTDOWN_S
from tests.support.kill_load import Load
from tests.support.server_process import ServerProcess, server_process

BROKEN = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path) as running:
        yield running


class Reader(threading.Thread):
    """Asks again and again until it is left, on a server that may come and go. Use it as a context manager."""

    def __init__(self, server: ServerProcess, ask: Callable[[Client], int]) -> None:
        super().__init__(name=f"reader-{ask.__name__}", daemon=True)
        self._client = server.client()
        self._ask = ask
        self._leaving = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self._leaving.is_set():
            try:
                self.count += self._ask(self._client)
            except HeimdallError:
                self._leaving.wait(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._client.close()  # a watch would wait for its server for ever
        self.join()


def search(client: Client) -> int:
    return len(list(client.search("* | stats count() by source")))


def scan(client: Client) -> int:
    return int(client.search("/re[qx]ue.t/ | fields n", limit=200_000).to_arrow().num_rows > 0)


def watch(client: Client) -> int:
    return sum(1 for _ in itertools.islice(client.watch("*"), 50))


def watch_counts(client: Client) -> int:
    return sum(1 for _ in itertools.islice(client.watch("* | stats count() by source", every_s=0.2), 10))


def end_under_load(server: ServerProcess, load: Load, *, records: int, within_s: float = SHUTDOWN_S) -> None:
    """Tell a server to end in the middle of its work; start it again, and see that it has what it acknowledged."""
    load.wait_for_records(records)
    offset = server.log.stat().st_size
    assert server.stop(timeout_s=within_s) == 0, "it fails at its end"
    told = {event["event"] for event in server.events(offset)}
    assert told >= {"draining", "drained", "stopped"}, "it sends nobody away"
    server.start()
    load.check_durable()


@pytest.mark.timeout(180)
def test_sigterm_under_full_load_ends_the_server_in_time_and_loses_nothing(server: ServerProcess) -> None:
    with Client(server.client_config()) as client, Load(server, client) as load, contextlib.ExitStack() as stack:
        load.wait_for_progress()
        readers = [stack.enter_context(Reader(server, ask)) for ask in (search, scan, scan, watch, watch_counts)]
        load.wait_for(lambda: all(reader.count for reader in readers), "answers for every reader")
        end_under_load(server, load, records=50_000)
        stack.close()
        load.wait_for_progress()
        load.finish()
        load.check_exactly_once(client)
    assert server.stop(timeout_s=SHUTDOWN_S) == 0


@pytest.mark.parametrize(
    ("how", "error", "verdict"),
    [
        ("waits_for_whoever_stays", subprocess.TimeoutExpired, "timed out"),
        ("acknowledges_at_its_end", AssertionError, "acknowledged bytes of .* are lost"),
        ("leaves_at_once", AssertionError, "it sends nobody away"),
        ("trips_at_its_end", AssertionError, "it fails at its end"),
    ],
)
def test_a_server_is_found_out_that(tmp_path: Path, how: str, error: type[Exception], verdict: str) -> None:
    with (
        ServerProcess(tmp_path, module=("tests.support.broken_server", how), environment=BROKEN) as server,
        Client(server.client_config()) as client,
        Load(server, client, appender_count=1, users=("admin",)) as load,
        Reader(server, watch) as watcher,
    ):
        load.wait_for_progress()
        load.wait_for(lambda: bool(watcher.count), "rows for the watch")
        with pytest.raises(error, match=verdict):
            # One that is well is gone in less than this.
            end_under_load(server, load, records=1_000, within_s=SHUTDOWN_S if error is AssertionError else 4.0)
        server.kill()


@pytest.mark.timeout(120)
def test_a_store_that_is_far_behind_delays_the_end_no_longer_than_it_may(tmp_path: Path) -> None:
    linger = "HEIMDALL_WARM__READ__LINGER_S"
    with ServerProcess(tmp_path, environment={linger: "60"}) as server:
        with Client(server.client_config()) as client, client.ingester("behind", format="ndjson") as ingester:
            ingester.write(b"".join(b'{"n":%d}\n' % number for number in range(1000)))
            ingester.finish(timeout_s=30)
        offset = server.log.stat().st_size
        assert server.stop(timeout_s=SHUTDOWN_S) == 0
        (drained,) = [event for event in server.events(offset) if event["event"] == "drained"]
        assert (drained["accepted_durable"], drained["caught_up"]) == (True, False)
        del server._environment[linger]
        server.start()
        with Client(server.client_config()) as client:
            (row,) = client.search("* | stats count()", consistent=True)
            assert row["count"] == 1000
