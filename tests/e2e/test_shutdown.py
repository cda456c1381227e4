"""SIGTERM under full load: the server is gone in ten seconds, cleanly, and nothing that it acknowledged is."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from heimdall_server.wiring.shutdown import SHUTDOWN_S
from tests.support.kill_load import Load
from tests.support.server_process import ServerProcess, server_process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path) as running:
        yield running


class Reader(threading.Thread):
    """Asks again and again until the server goes away."""

    def __init__(self, server: ServerProcess, ask: Callable[[Client], int]) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ask = ask
        self.stopping = threading.Event()
        self.count = 0

    def run(self) -> None:
        with Client(self._server.client_config()) as client:
            while not self.stopping.is_set():
                try:
                    self.count += self._ask(client)
                except HeimdallError:
                    time.sleep(0.05)


def search(client: Client) -> int:
    return len(list(client.search("* | stats count() by source")))


def scan(client: Client) -> int:
    return int(client.search("/re[qx]ue.t/ | fields n", limit=200_000).to_arrow().num_rows > 0)


def watch(client: Client) -> int:
    return sum(1 for _ in itertools.islice(client.watch("*"), 50))


def watch_counts(client: Client) -> int:
    return sum(1 for _ in itertools.islice(client.watch("* | stats count() by source", every_s=0.2), 10))


@pytest.mark.timeout(180)
def test_sigterm_under_full_load_ends_the_server_in_time_and_loses_nothing(server: ServerProcess) -> None:
    readers = [Reader(server, ask) for ask in (search, scan, scan, watch, watch_counts)]
    with Client(server.client_config()) as client, Load(server, client) as load:
        load.wait_for_progress()
        for reader in readers:
            reader.start()
        load.wait_for(lambda: all(reader.count for reader in readers), "answers for every reader")
        load.wait_for_records(50_000)
        offset = server.log.stat().st_size
        assert server.stop(timeout_s=SHUTDOWN_S) == 0
        assert {event["event"] for event in server.events(offset)} >= {"draining", "drained", "stopped"}
        for reader in readers:
            reader.stopping.set()
        server.start()
        load.check_durable()
        load.wait_for_progress()
        load.finish()
        load.check_exactly_once(client)
    assert server.stop(timeout_s=SHUTDOWN_S) == 0


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
