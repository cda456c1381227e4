"""What is put back from before a rotation or an erasure: what nobody can open makes room, and what comes in then isn't taken for erased."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall.privacy.v1 import operation_pb2
from tests.support.server_process import ServerProcess

ALICE, BOB = "alice.lovelace@example.com", "bob.babbage@example.org"
ENVIRONMENT = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]', "HEIMDALL_JOURNAL__AGE_MAX_S": "2"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=ENVIRONMENT) as running:
        yield running


def database(server: ServerProcess) -> Path:
    ours = server.data_dir / "postgres"
    named = ours / "place"  # as root
    return (Path(named.read_text().strip()) if named.exists() else ours) / "data"


def ingest(server: ServerProcess, file: Path, *values: str) -> list[str]:
    """Take values in; gives the tokens that they have."""
    file.write_text("".join(json.dumps({"message": f"login of {value} from {file.stem}"}) + "\n" for value in values))
    with server.client() as client:
        client.ingest_file(file, source_id=file.stem)
        rows = json.dumps(list(client.search(f"source:{file.stem}", consistent=True)), default=str)
    return re.findall(r"\[email:[0-9a-z]{27}\]", rows)


def rotate(server: ServerProcess) -> None:
    """Let the data keys of the class be rotated, up to the destruction of the old ones."""
    with server.client() as client:
        begun = client.rotate_key("dek", data_classes=["email"], reason="yearly")
        last = list(client.watch_operation(begun.operation_id))[-1]
    assert last.state == operation_pb2.Operation.STATE_DONE, last.problem


def revealed(server: ServerProcess, tokens: list[str]) -> set[str]:
    with server.client() as client:
        return {one.value for one in client.reveal(tokens, reason="ticket 4711")} - {""}


@pytest.mark.timeout(240)
def test_dead_values_make_room_for_fresh_ones_and_hold_up_no_rotation(server: ServerProcess, tmp_path: Path) -> None:
    tokens = sorted(set(ingest(server, tmp_path / "before.ndjson", ALICE, BOB)))
    assert revealed(server, tokens) == {ALICE, BOB}
    server.stop()
    subprocess.run(["cp", "-a", database(server), tmp_path / "backup"], check=True)  # keeps the owner
    server.start()
    rotate(server)
    server.stop()
    shutil.rmtree(database(server))
    subprocess.run(["cp", "-a", tmp_path / "backup", database(server)], check=True)
    server.start()
    assert revealed(server, tokens) == set()
    assert set(ingest(server, tmp_path / "again.ndjson", ALICE)) < set(tokens)
    assert revealed(server, tokens) == {ALICE}
    assert "values whose keys are gone" in server.log_text()
    rotate(server)
    assert revealed(server, tokens) == {ALICE}


@pytest.mark.timeout(240)
def test_who_comes_into_an_older_journal_again_is_found_and_can_be_revealed(
    server: ServerProcess, tmp_path: Path
) -> None:
    (alice,) = set(ingest(server, tmp_path / "before.ndjson", ALICE))
    server.stop()
    parts = [server.data_dir / name for name in ("journal", "warm", "checkpoints")]
    for part in parts:
        shutil.copytree(part, tmp_path / "backup" / part.name, symlinks=True)
    server.start()
    for number in range(20):  # so that the erasure reaches far beyond
        ingest(server, tmp_path / f"more{number}.ndjson", BOB)
    with server.client() as client:
        begun = client.erase([("email", ALICE)], reason="art. 17").operation
        assert any(operation.HasField("inaccessible_time") for operation in client.watch_operation(begun.operation_id))
        assert list(client.search(f"email:{ALICE}", consistent=True)) == []
    server.stop()
    for part in parts:
        shutil.rmtree(part)
        shutil.copytree(tmp_path / "backup" / part.name, part, symlinks=True)
    server.start()
    assert ingest(server, tmp_path / "again.ndjson", ALICE) == [alice]
    with server.client() as client:
        (found,) = client.search(f"email:{ALICE}", consistent=True)
    assert "from again" in str(found["body"])
    # Of a token that nobody knows it is told once the vault has everything; of one that was erased, at once.
    assert revealed(server, [f"[email:0{'a' * 26}]"]) == set()
    assert revealed(server, [alice]) == {ALICE}
