"""Every key is rotated while records come in, and the server is killed in the midst of each rotation: nothing is lost, all is found."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from heimdall.privacy.v1 import operation_pb2
from heimdall_client import IngestOptions
from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from heimdall_server.services.privacy.logic.kinds.shredding import RESEALED
from tests.support.byte_scan import Scanner
from tests.support.server_process import ServerProcess

STEADY, ERASED = "steady@example.com", "erased@example.com"
LINES = 100
PAUSE_S = 0.1
WAIT_S = 60.0
SETTINGS = {
    "HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]',
    "HEIMDALL_PRIVACY_LIMITS__VALUES_PER_MINUTE": "100000",
    "HEIMDALL_PRIVACY_LIMITS__VALUES_BURST": "100000",
}
Operation = operation_pb2.Operation


class Feeder(threading.Thread):
    """Sends lines with an address each, all but one of a batch new, until it is stopped; that the server is killed is the SDK's matter."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(name="feeder", daemon=True)
        self._client = server.client()
        self.stopping = threading.Event()
        self.batch_count = 0
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            options = IngestOptions(chunk_bytes=16 * 1024, give_up_after_s=5 * WAIT_S)
            with self._client.ingester("load", format="ndjson", options=options) as ingester:
                while not self.stopping.is_set():
                    ingester.write(self._lines())
                    time.sleep(PAUSE_S)
                ingester.finish(timeout_s=WAIT_S)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            self.problem = error

    def _lines(self) -> bytes:
        """The next lines; the first two of them name who always comes again."""
        first = self.batch_count * LINES
        addresses = [STEADY, ERASED, *(address(first + number) for number in range(2, LINES))]
        self.batch_count += 1
        return "".join(json.dumps({"message": f"login of {one}"}) + "\n" for one in addresses).encode()

    def stop(self) -> None:
        self.stopping.set()
        self.join(2 * WAIT_S)
        if self.problem is not None:
            raise self.problem
        assert not self.is_alive()

    def abandon(self) -> None:
        """A test that failed hasn't stopped it: with its client it ends."""
        self.stopping.set()
        self._client.close()
        self.join()


def address(number: int) -> str:
    return f"user{number}@example.com"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=SETTINGS) as running:
        yield running
    place = tmp_path / "data" / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


@pytest.fixture
def feeder(server: ServerProcess) -> Iterator[Feeder]:
    feeder = Feeder(server)
    feeder.start()
    yield feeder
    feeder.abandon()


def eventually(act: Callable[[], None]) -> None:
    """Until it holds: what was sent a moment ago is seen a moment later."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            act()
        except (AssertionError, HeimdallError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
        else:
            return


def check_found(client: Client, value: str, count: int) -> None:
    """A value's records are found by its tokens of all epochs, and each token that a record has is revealed."""
    scope = client.erase([("email", value)], reason="where is it", dry_run=True).scope
    assert scope.record_count == count
    assert scope.vault_value_count
    words = [token[token.index(":") + 1 : -1] for token in scope.tokens]
    rows = json.dumps(list(client.search(" OR ".join(words), consistent=True)), default=str)
    (counted,) = client.search(f"email:{value} | stats count() as n", consistent=True)
    assert counted["n"] == count
    named = sorted(set(re.findall(r"\[email:[0-9a-z]{27}\]", rows)))
    assert named
    assert {one.value for one in client.reveal(named, reason="is it right")} == {value}


def kill_when(server: ServerProcess, operation_id: str, moment: Callable[[Operation], bool]) -> None:
    """Follow an operation, kill the server at a moment or at the end, and start it again."""
    with server.client() as client:
        for operation in client.watch_operation(operation_id):
            if moment(operation) or operation.state != Operation.STATE_RUNNING:
                break
        server.kill()
    server.start()


def ended(client: Client, operation_id: str) -> Operation:
    """Follow an operation to its end."""
    last = client.operation(operation_id)
    for last in client.watch_operation(operation_id):
        assert last.state in (Operation.STATE_RUNNING, Operation.STATE_DONE), last.problem
    assert last.state == Operation.STATE_DONE
    return last


MOMENTS: dict[Literal["kek", "dek", "index"], list[Callable[[Operation], bool]]] = {
    "kek": [lambda _: True],
    "dek": [lambda one: one.done_count > 0, lambda one: one.stage.startswith(RESEALED)],
    "index": [lambda _: True],
}
"""When the server is killed, for each kind of key."""


@pytest.mark.timeout(600)
def test_every_key_is_rotated_under_load_and_kills_and_every_record_is_found(
    server: ServerProcess, feeder: Feeder, tmp_path: Path
) -> None:
    with server.client() as client:
        eventually(lambda: check_found(client, address(5 * LINES + 2), 1))
        erasure = client.erase([("email", ERASED)], reason="art. 17 request", block=True).operation
    marks = [2, feeder.batch_count * LINES - 1]
    begun: dict[str, str] = {}
    for kind, moments in MOMENTS.items():
        with server.client() as client:
            begun[kind] = client.rotate_key(kind, reason="yearly").operation_id
        for moment in moments:
            kill_when(server, begun[kind], moment)
        with server.client() as client:
            for mark in marks[:2]:
                eventually(lambda mark=mark: check_found(client, address(mark), 1))  # type: ignore[misc]  # bound at once
        marks.append(feeder.batch_count * LINES - 1)
    with server.client() as client:
        assert client.operation(begun["kek"]).affected_count > 15
        for kind in ("kek", "index"):
            ended(client, begun[kind])
    feeder.stop()
    marks.append(feeder.batch_count * LINES - 1)
    check_everything(server, feeder, marks)
    server.stop()
    # The journal lets go of its frames soon, so that the old keys may be destroyed.
    with ServerProcess(tmp_path, environment={**SETTINGS, "HEIMDALL_JOURNAL__AGE_MAX_S": "1"}) as later:
        with later.client() as client:
            for operation_id in (begun["dek"], erasure.operation_id):
                ended(client, operation_id)
            *old, newest = (key for key in client.keys().keys if (key.kind, key.data_class) == ("data", "email"))
            assert old
            assert all(key.HasField("destroy_time") for key in old)
            assert newest.value_count >= feeder.batch_count * (LINES - 2)
        check_everything(later, feeder, marks)
    assert Scanner({"steady": STEADY, "first": address(marks[0])}).scan_files(server.data_dir) == []


def check_everything(server: ServerProcess, feeder: Feeder, marks: Sequence[int]) -> None:
    """Everybody is found and read, but for who was erased and blocked: she comes in all the time, and is read in no epoch."""
    with server.client() as client:
        for mark in marks:
            eventually(lambda mark=mark: check_found(client, address(mark), 1))  # type: ignore[misc]  # bound at once
        eventually(lambda: check_found(client, STEADY, feeder.batch_count))
        scope = client.erase([("email", ERASED)], reason="is she gone", dry_run=True).scope
        assert (scope.record_count, scope.vault_value_count) == (feeder.batch_count, 0)
        assert len({token[len("[email:")] for token in scope.tokens}) == 2
        assert {one.WhichOneof("answer") for one in client.reveal(scope.tokens, reason="is she gone")} == {"error"}
        assert client.verify_audit_log().entry_count
