"""A whole server with the privacy service: tokenise, reveal, rotate, erase, delete, over a kill."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall.privacy.v1 import operation_pb2
from heimdall_client.certificates import check_certificate
from heimdall_client.errors import QueryInvalidError
from heimdall_client.sync_client import Client
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


def ended(client: Client, operation_id: str, *, inaccessible: bool = False) -> operation_pb2.Operation:
    """Follow an operation to its end, or until what it concerns is inaccessible."""
    for operation in client.watch_operation(operation_id):
        if operation.state != operation_pb2.Operation.STATE_RUNNING:
            assert operation.state == operation_pb2.Operation.STATE_DONE, operation.problem
            return operation
        if inaccessible and operation.HasField("inaccessible_time"):
            return operation
    raise AssertionError("the stream ended before the operation did")


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
        for kind in ("index", "kek"):
            ended(client, client.rotate_key(kind, reason="yearly").operation_id)
    server.kill()
    server.start()
    with server.client() as client:
        (revealed,) = client.reveal([alice], reason="after a crash")
        assert revealed.value == ALICE
        answer = client.erase([("email", ALICE)], reason="art. 17 request", dry_run=True)
        assert answer.scope.vault_value_count == 1
        assert answer.scope.record_count == 1
        rotation = client.rotate_key("dek", data_classes=["phone"], reason="yearly")
        operation = client.erase([("email", ALICE)], reason="art. 17 request").operation
        ended(client, operation.operation_id, inaccessible=True)
        (gone,) = client.reveal([alice], reason="too late")
        assert gone.WhichOneof("answer") == "error"
        ended(client, rotation.operation_id)
        ended(client, operation.operation_id)
        destroyed = {key.data_class for key in client.keys().keys if key.HasField("destroy_time")}
        assert destroyed == {"phone", "email"}
        certificate = client.erasure_certificate(operation.operation_id)
        kept = {"certificate": certificate.certificate.decode(), "signature": certificate.signature.hex()}
        facts = check_certificate(json.dumps(kept).encode(), client.keys().signing_public_key)
        assert facts["keys_destroyed"]
        deleted = client.delete_records("body:leakedword", reason="leaked").operation
        ended(client, deleted.operation_id, inaccessible=True)
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
