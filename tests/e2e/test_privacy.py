"""A whole server with the privacy service: tokenise, reveal, rotate, erase, delete, over a kill."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall.privacy.v1 import operation_pb2
from heimdall_client.certificates import check_certificate
from heimdall_client.errors import QueryInvalidError
from tests.support.byte_scan import Scanner
from tests.support.server_process import ServerProcess

ALICE, BOB = "alice.lovelace@example.com", "bob.babbage@example.org"
PLANTED = {"alice": ALICE, "bob": BOB, "card": "4111111111111111", "phone": "+14155552671"}
LINES = [
    {"message": f"login of {ALICE} failed", "user": BOB, "n": 1},
    {"message": f"paid with {PLANTED['card']}", "contact": f"call {PLANTED['phone']}", "n": 2},
    {"message": "nothing personal, but leakedword", "n": 3},
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    environment = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]', "HEIMDALL_JOURNAL__AGE_MAX_S": "2"}
    with ServerProcess(tmp_path, environment=environment) as running:
        yield running
    place = tmp_path / "data" / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


def rows_of(server: ServerProcess) -> str:
    """Every stored record, as one text."""
    with server.client() as client:
        return json.dumps(list(client.search("*", consistent=True)), default=str)


def ended(server: ServerProcess, operation_id: str, *, until: str = "ended") -> operation_pb2.Operation:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        with server.client() as client:
            operation = client.operation(operation_id)
        if until == "inaccessible" and operation.HasField("inaccessible_time"):
            return operation
        if operation.state != operation_pb2.Operation.STATE_RUNNING:
            return operation
        time.sleep(0.2)
    raise AssertionError(f"still {operation.stage}: {operation.problem}")


def test_values_are_tokenised_revealed_rotated_erased_and_records_deleted(
    server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "in.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    with server.client() as client:
        client.ingest_file(file, source_id="people")
    file.unlink()
    rows = rows_of(server)
    classes = re.findall(r"\[(\w+):[0-9a-z]{27}\]", rows)
    assert ALICE not in rows
    assert set(classes) == {"email", "card", "phone"}
    found = re.findall(r"login of (\[email:[0-9a-z]{27}\]) failed", rows)
    assert len(found) == 1
    alice = found[0]
    with server.client() as client:
        (revealed,) = client.reveal([alice], reason="ticket 4711")
        assert revealed.value == ALICE
        rotation = client.rotate_key("index", reason="yearly")
        assert ended(server, rotation.operation_id).state == operation_pb2.Operation.STATE_DONE
    server.kill()
    server.start()
    with server.client() as client:
        (revealed,) = client.reveal([alice], reason="after a crash")
        assert revealed.value == ALICE
        answer = client.erase([("email", ALICE)], reason="art. 17 request", dry_run=True)
        assert answer.scope.vault_value_count == 1
        assert answer.scope.record_count == 1
        operation = client.erase([("email", ALICE)], reason="art. 17 request").operation
        ended(server, operation.operation_id, until="inaccessible")
        (gone,) = client.reveal([alice], reason="too late")
        assert gone.WhichOneof("answer") == "error"
        done = ended(server, operation.operation_id)
        assert done.state == operation_pb2.Operation.STATE_DONE, done.problem
        certificate = client.erasure_certificate(operation.operation_id)
        kept = {"certificate": certificate.certificate.decode(), "signature": certificate.signature.hex()}
        facts = check_certificate(json.dumps(kept).encode(), client.keys().signing_public_key)
        assert facts["keys_destroyed"]
        deleted = client.delete_records("body:leakedword", reason="leaked").operation
        ended(server, deleted.operation_id, until="inaccessible")
        assert "leakedword" not in rows_of(server)
        assert client.verify_audit_log().entry_count >= 5
        with pytest.raises(QueryInvalidError):
            client.delete_records("a | limit 1", reason="nonsense")
    server.stop()
    assert Scanner(PLANTED).scan_files(server.data_dir) == []
    place = (
        (server.data_dir / "postgres" / "place").read_text().strip()
        if (server.data_dir / "postgres" / "place").is_file()
        else ""
    )
    if place:
        assert Scanner(PLANTED).scan_files(Path(place)) == []
    assert Scanner(PLANTED).scan("the log", [server.log.read_bytes()]) == []
