"""What an operator does with a person's address and a whole server: query, watch, explain, delete, over rotations and restarts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from tests.support import cli
from tests.support.byte_scan import Scanner
from tests.support.server_process import ServerProcess

ALICE, BOB = "alice.lovelace@example.com", "bob.babbage@example.org"
PLANTED = {"alice": ALICE, "bob": BOB, "address": "10.1.2.77", "host": "10.1.2.99"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    environment = {
        "HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]',
        "HEIMDALL_LOG_LEVEL": "DEBUG",
        "HEIMDALL_PRIVACY": '{"version": 1, "rules": [{"action": "tokenise"}]}',
        "HEIMDALL_PRIVACY_LIMITS__MATCHES_BURST": "8",
        "HEIMDALL_PRIVACY_LIMITS__MATCHES_PER_MINUTE": "1",
    }
    with ServerProcess(tmp_path, environment=environment) as running:
        yield running
    place = tmp_path / "data" / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


def ingest(server: ServerProcess, folder: Path, name: str, *records: dict[str, object]) -> None:
    file = folder / f"{name}.ndjson"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with server.client() as client:
        client.ingest_file(file, source_id=name)
    file.unlink()


def found(server: ServerProcess, text: str) -> list[int]:
    """The numbers of the records that `heimdall query` finds."""
    rows = cli.query_on(server, f"{text} | fields n", "-o", "json").rows()
    return sorted(int(row["n"]) for row in rows)


def erase(server: ServerProcess, *options: str) -> None:
    outcome = cli.invoke_on(
        server, "privacy", "erase", "--subject", f"email:{ALICE}", "--reason", "art. 17", "--yes", *options
    )
    assert outcome.code == 0, outcome.err


def rotate(server: ServerProcess) -> None:
    with server.client() as client:
        operation = client.rotate_key("index", reason="yearly")
        *_, last = client.watch_operation(operation.operation_id)
        assert last.state == last.STATE_DONE, last.problem


def test_a_person_is_found_watched_explained_and_deleted_though_no_store_has_the_address(
    server: ServerProcess, tmp_path: Path
) -> None:
    ingest(
        server,
        tmp_path,
        "first",
        {"message": f"login of {ALICE}", "n": 1},
        {"message": "login", "user": ALICE, "peer": "10.1.2.77", "n": 2},
        {"message": f"login of {BOB}", "host": "10.1.2.99", "n": 3},
    )
    assert found(server, f"email:{ALICE}") == [1, 2]
    assert found(server, f"user:{ALICE}") == [2]
    assert found(server, "ip:10.1.2.0/24") == [2, 3]
    assert found(server, "host:10.1.2.99") == [3]
    assert found(server, "ip:10.1.2.99") == [3]
    held = cli.invoke_on(server, "privacy", "export", "--subject", "ip:10.1.2.99", "--reason", "art. 15")
    assert [row["record"]["body"][:8] for row in held.rows() if row["kind"] == "record"] == ["login of"]

    told = cli.invoke_on(server, "query", "-", "-o", "json", stdin=f"email:{ALICE} | fields n\n".encode())
    assert sorted(int(row["n"]) for row in told.rows()) == [1, 2]

    explained = cli.invoke_on(server, "explain", f"email:{ALICE}")
    assert explained.code == 0, explained.err
    assert "tokens:" in explained.out
    assert ALICE not in explained.out

    watching = subprocess.Popen(
        cli.line("watch", f"email:{ALICE} | fields n", "--last", "1", "-o", "json", config=server.client_file),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert int(json.loads(watching.stdout.readline())["n"]) == 2
        rotate(server)
        ingest(server, tmp_path, "second", {"message": f"again {ALICE}", "n": 4}, {"message": f"again {BOB}", "n": 5})
        assert int(json.loads(watching.stdout.readline())["n"]) == 4
    finally:
        watching.terminate()
        watching.wait(10)
        watching.stdout.close()
    assert found(server, f"email:{ALICE}") == [1, 2, 4]
    server.kill()
    server.start()
    assert found(server, f"email:{ALICE}") == [1, 2, 4]

    refused = cli.invoke_on(server, "query", "email:alice*")
    assert refused.code != 0
    assert "token" in refused.err

    planned = cli.invoke_on(server, "delete", f"email:{ALICE}", "--reason", "ticket 1", "--dry-run")
    assert planned.code == 0, planned.err
    assert "3" in planned.out + planned.err
    done = cli.invoke_on(server, "delete", f"email:{ALICE}", "--reason", "ticket 1", "--yes")
    assert done.code == 0, done.err
    deadline_s = time.monotonic() + 20
    while found(server, f"email:{ALICE}") and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert found(server, "*") == [3, 5]
    with server.client() as client:
        (operation,) = [one for one in client.operations() if one.query]
        assert ALICE not in operation.query
        assert "tokens:" in operation.query
        entries = [entry for entry in client.audit_entries() if entry.action.startswith("privacy.")]
        assert {entry.outcome for entry in entries} == {"allowed"}
        assert ALICE not in str(entries)

    server.stop()
    scanner = Scanner(PLANTED)
    assert scanner.scan_files(server.data_dir) == []
    assert scanner.scan("the log", [server.log.read_bytes()]) == []


def test_an_erased_person_is_found_by_what_came_in_later_and_not_at_all_if_blocked(
    server: ServerProcess, tmp_path: Path
) -> None:
    ingest(
        server,
        tmp_path,
        "first",
        {"message": f"login of {ALICE}", "n": 1},
        {"message": "login", "user": ALICE, "n": 2},
        {"message": f"login of {BOB}", "n": 3},
    )
    (row,) = cli.query_on(server, f"user:{ALICE}", "-o", "json").rows()
    (token,) = re.findall(r"\[email:[0-9a-z]{27}\]", json.dumps(row))
    erase(server)
    assert found(server, f"email:{ALICE}") == []
    assert found(server, f"user:{ALICE}") == []
    assert found(server, f"email:{BOB}") == [3]
    assert found(server, token) == [1, 2]

    ingest(server, tmp_path, "second", {"message": f"again {ALICE}", "n": 4})
    assert found(server, f"email:{ALICE}") == [4]
    assert found(server, token) == [1, 2, 4]
    server.kill()
    server.start()
    assert found(server, f"email:{ALICE}") == [4]

    erase(server, "--block")
    ingest(server, tmp_path, "third", {"message": f"again {ALICE}", "n": 5})
    assert found(server, f"email:{ALICE}") == []
    assert found(server, token) == [1, 2, 4, 5]


def test_who_may_only_read_is_refused_and_nobody_guesses_without_end(server: ServerProcess, tmp_path: Path) -> None:
    ingest(server, tmp_path, "first", {"message": f"login of {ALICE}", "n": 1})
    reader = tmp_path / "reader.toml"
    config = server.client_config("writer")
    reader.write_text(
        "".join(
            f"{name} = {json.dumps(str(getattr(config, name)))}\n"
            for name in ("address", "ca_file", "cert_file", "key_file")
        )
    )
    for command in ("query", "explain", "watch"):
        outcome = cli.invoke(command, f"email:{ALICE}", config=reader)
        assert outcome.code != 0
        assert "lacks the permission 'privacy.match', which searching for a personal value (email) needs" in outcome.err
    assert cli.invoke("query", "login", "-o", "json", "--consistent", config=reader).rows()
    with grpc.secure_channel(server.address, server.credentials()) as channel:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)

        def guess(text: str) -> None:
            list(
                stub.Search(query_service_pb2.SearchRequest(question=query_service_pb2.Question(text=text)), timeout=20)
            )

        for number in range(8):
            guess(f"phone:+4915112345{number:03d}")
        # The SDK would wait, and try again.
        with pytest.raises(grpc.RpcError) as caught:
            guess("phone:+4915112345999")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            guess("phone:>+4915112345999")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with server.client() as client:
        outcomes = [entry.outcome for entry in client.audit_entries() if entry.action == "privacy.match"]
        assert outcomes == [*["denied"] * 4, *["allowed"] * 8, "failed"]  # `watch` asks twice


def test_a_leaked_secret_that_no_rule_knows_is_gone_from_every_file_with_the_filter_that_deleted_it(
    server: ServerProcess, tmp_path: Path
) -> None:
    leaked = "Zebra77horse"
    ingest(server, tmp_path, "first", {"message": f"oops {leaked} everywhere", "n": 1}, {"message": "fine", "n": 2})
    assert found(server, leaked) == [1]
    for last in ("--dry-run", "--yes"):
        done = cli.invoke_on(server, "delete", f'"{leaked}" OR user:{leaked}', "--reason", "a leaked key", last)
        assert done.code == 0, done.err
    listed = cli.invoke_on(server, "privacy", "operations", "list", "-o", "json")
    assert [row["query"] for row in listed.rows()] == ['body:"…" OR user:"…"']
    with server.client() as client:
        told = [dict(entry.details) for entry in client.audit_entries() if entry.action == "privacy.delete"]
    assert [one["query"] for one in told] == ['body:"…" OR user:"…"'] * 3  # --yes counts first, too
    assert len({one["query_digest"] for one in told}) == 1
    server.kill()
    server.start()
    assert found(server, "*") == [2]
    server.stop()
    assert Scanner({"leaked": leaked}).scan_files(server.data_dir) == []


def test_what_was_deleted_does_not_come_back_from_dead_letters_which_can_be_deleted_themselves(
    server: ServerProcess, tmp_path: Path
) -> None:
    leaked = "Zebra77horse"
    file = tmp_path / "broken.ndjson"
    file.write_text(
        f'{{"message": "{leaked}", broken\n{{"message": "fine", broken\n{{"message": "{leaked}", "n": 1}}\n'
    )
    with server.client() as client:
        client.ingest_file(file, source_id="broken")
    file.unlink()
    assert found(server, leaked) == [1]
    second, first = (
        row["dead_letter_id"] for row in cli.invoke_on(server, "dead-letters", "list", "-o", "json").rows()
    )
    done = cli.invoke_on(server, "delete", leaked, "--reason", "a leaked key", "--yes")
    assert done.code == 0, done.err
    server.kill()
    server.start()
    retried = cli.invoke_on(server, "dead-letters", "retry", first, "--format", "text", "--pattern", "plain")
    assert (retried.code, retried.out) == (
        0,
        "1 of 1 dead letter decoded, 0 records stored, 1 record left out by a deletion\n",
    )
    assert cli.query_on(server, "*", "-o", "json").rows() == []
    gone = cli.invoke_on(server, "dead-letters", "delete", second, "--yes")
    assert (gone.code, gone.out) == (0, "1 of 1 dead letter deleted\n")
    assert cli.invoke_on(server, "dead-letters", "list", "-o", "json").rows() == []
    with server.client() as client:
        told = [entry.outcome for entry in client.audit_entries() if entry.action == "ingest.dead_letters.delete"]
    assert told == ["allowed"]
