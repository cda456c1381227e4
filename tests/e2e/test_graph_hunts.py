"""Hunts of a real server: by the command and the SDK, over kills, under a ceiling, and what an erasure leaves."""

from __future__ import annotations

import datetime as dt
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from heimdall.graph.v1 import hunting_pb2 as pb
from heimdall_client import Client
from tests.e2e.test_graph import heimdall
from tests.support.server_process import ServerProcess

ENVIRONMENT = {
    "HEIMDALL_SERVICES": '["ingest","query","admin","privacy","graph"]',
    "HEIMDALL_GRAPH__HUNT__STEP_ROWS": "12",
    "HEIMDALL_GRAPH__HUNT__CONFIDENCE_MIN": "5",
}
MD5 = "0cc175b9c0f1b6a831c399e269772661"
NOW = dt.datetime.now(dt.UTC)


def at(hours: float) -> str:
    return (NOW - dt.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("hunts"), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture
def server(process: ServerProcess) -> ServerProcess:
    """The module's server, which the test before may have stopped."""
    return process if process.running else process.start()


def until(holds: Callable[[], bool], what: str, *, timeout_s: float = 40.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def ingest(server: ServerProcess, text: str, source: str, **further: str) -> None:
    with server.client() as client:
        client.ingest_stream(io.BytesIO(text.encode()), source, **further)  # type: ignore[arg-type]


def found_by(client: Client, **filters: str) -> dict[tuple[str, str, str], str]:
    """Type, value and source of matches, and how each was found."""
    matches = client.matches(**filters)  # type: ignore[arg-type]
    return {(one.type, one.value, one.source): pb.Match.Found.Name(one.found) for one in matches}


class Watcher:
    """Takes what a watch tells, in a thread, for as long as the server is up or comes back."""

    def __init__(self, server: ServerProcess, *names: str, **filters: object) -> None:
        self.events: list[pb.WatchResponse] = []
        self.breaks = 0
        self.began = threading.Event()
        self._client = server.client()
        self._names, self._filters = names, filters
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.began.wait(30)

    def _run(self) -> None:
        def broke(*_: object) -> None:
            self.breaks += 1

        try:
            for event in self._client.watch_graph(*self._names, on_retry=broke, **self._filters):  # type: ignore[arg-type]
                self.began.set()
                if event.WhichOneof("event") != "progress":
                    self.events.append(event)
        except Exception:  # noqa: BLE001 - the client was closed under it, which ends the test
            return

    def matches(self) -> list[tuple[str, str, str]]:
        return [(one.match.value, one.match.source, one.match.day) for one in self.events if one.HasField("match")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._thread.join(10)


@pytest.mark.timeout(240)
def test_a_dump_is_hunted_for_in_logs_before_and_after_it_by_who_may_see_it_and_an_erasure_takes_what_was_found(
    server: ServerProcess,
) -> None:
    ingest(
        server,
        f"{at(3)} INFO alice@example.com logged in from 198.18.7.7\n{at(2)} WARN dropped {MD5} by evil-host.example\n",
        "app",
    )
    with Watcher(server, kinds=["match"], types=["ip", "md5", "domain"]) as watcher:
        ingest(
            server,
            f"mail,ip,md5\nalice@example.com,198.18.7.7,{MD5}\nbob@example.com,198.18.9.9,\n",
            "leak",
            dump="forum",
            format="csv",
        )
        with server.client() as client:
            expected = {"198.18.7.7": "FOUND_GRAPH", MD5: "FOUND_HISTORY"}
            until(
                lambda: expected.keys() <= {value for _, value, _ in found_by(client)}, "the dump is found in the logs"
            )
            found = found_by(client)
            assert {value: how for (_, value, _), how in found.items() if value in expected} == expected
            assert {type_ for type_, _, _ in found} == {"email", "ipv4", "md5"}
            until(lambda: client.hunts("forum")[0].state == pb.HUNT_STATE_DONE, "the hunt is over")
            assert client.hunts("forum")[0].match_count == 3

            ingest(server, f"{at(0.1)} INFO 198.18.9.9 asked evil-host.example\n", "proxy")
            until(lambda: ("ipv4", "198.18.9.9", "proxy") in found_by(client), "logs after the dump are found")
            assert found_by(client)["ipv4", "198.18.9.9", "proxy"] == "FOUND_LOG"
            until(lambda: len(watcher.events) == 3, "the watch is told")
        assert sorted(value for value, _, _ in watcher.matches()) == sorted([*expected, "198.18.9.9"])

    ingest(server, "ip\n198.18.7.7\n", "leak2", dump="inner", format="csv", tlp="red")
    with server.client() as client, server.client("writer") as reader:
        until(lambda: len(found_by(client, dump="inner")) == 1, "a red dump is hunted for")
        assert not found_by(reader, dump="inner")
        assert found_by(reader, dump="forum") == found_by(client, dump="forum")
        assert {hunt.dump for hunt in reader.hunts()} - {"many"} == {"forum"}
        client.erase([("email", "alice@example.com")], reason="a test")
        until(lambda: "email" not in {type_ for type_, _, _ in found_by(client)}, "an erasure takes matches along")
        assert len(found_by(client, dump="forum")) == 3

    shown = heimdall(server, "show", "ip:198.18.7.7")
    assert "logged by" in shown
    assert "forum" in heimdall(server, "hunts")
    assert len(heimdall(server, "matches", "--dump", "forum", "-o", "json").splitlines()) == 3
    assert "queued" in heimdall(server, "hunt", "forum", "--since", "90d")
    with server.client() as client:
        until(lambda: client.hunts("forum")[0].state == pb.HUNT_STATE_DONE, "it is over again")
        assert client.hunts("forum")[0].record_count > 0
    assert "does no more" in heimdall(server, "hunt", "inner", "--cancel")
    assert "no vertex named" in heimdall(server, "hunt", "nothing", code=2)


@pytest.mark.timeout(240)
def test_a_server_that_is_killed_goes_on_hunting_and_its_watchers_miss_nothing_and_hear_nothing_twice(
    server: ServerProcess,
) -> None:
    addresses = [f"100.64.{number // 200}.{number % 200}" for number in range(400)]
    ingest(server, "".join(f"{at(1)} INFO {one} came in\n" for one in addresses), "gate")
    with Watcher(server, dumps=["many"], kinds=["match"]) as watcher:
        ingest(server, "\n".join(["ip", *addresses]), "leak3", dump="many", format="csv")
        with server.client() as client:
            until(lambda: any(hunt.match_count for hunt in client.hunts("many")), "the hunt is under way")
        server.kill()
        server.start()
        with server.client() as client:
            until(lambda: client.hunts("many")[0].state == pb.HUNT_STATE_DONE, "it goes on")
            assert client.hunts("many")[0].match_count == len(addresses)
            assert {value for _, value, _ in found_by(client, dump="many")} == set(addresses)
        until(lambda: len(watcher.events) == len(addresses), "the watch has all")
        tokens = [event.resume_token for event in watcher.events]
        assert watcher.breaks > 0
        assert len({value for value, _, _ in watcher.matches()}) == len(addresses)

    half = len(tokens) // 2
    with server.client() as client:
        again = client.watch_graph(dumps=["many"], kinds=["match"], resume_token=tokens[half - 1])
        rest = [next(event for event in again if event.HasField("match")) for _ in range(len(tokens) - half)]
        assert [event.resume_token for event in rest] == tokens[half:]
        again.close()  # type: ignore[attr-defined]
    told = json.loads(heimdall(server, "hunts", "--dump", "many", "-o", "json"))
    assert (told["state"], told["entity_count"]) == ("done", len(addresses))
    assert server.stop() == 0
