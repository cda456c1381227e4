"""What commands make of an answer, with a client that answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall.ingest.v1 import ingest_service_pb2, source_pb2
from heimdall.query.v1 import query_service_pb2
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import Link
from tests.support import cli

Outcome = ingest_service_pb2.RetryDeadLettersResponse.Outcome


def refused(letter_id: str, kind: str) -> Outcome:
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message=f"no {kind} named {letter_id!r}")
    info = error_details_pb2.ErrorInfo(domain="heimdall", reason="NOT_FOUND", metadata={"kind": kind})
    status.details.add().Pack(info)
    return Outcome(dead_letter_id=letter_id, status=status)


class Answers:
    """The client's methods that the commands below call."""

    def __init__(self, outcomes: Sequence[Outcome] = (), sampled_count: int = 0) -> None:
        self._outcomes = outcomes
        self._sampled_count = sampled_count

    def list_dead_letters(self, **_: object) -> ingest_service_pb2.ListDeadLettersResponse:
        letters = [source_pb2.DeadLetter(dead_letter_id=one.dead_letter_id) for one in self._outcomes]
        return ingest_service_pb2.ListDeadLettersResponse(dead_letters=letters)

    def retry_dead_letters(self, _: Sequence[str], **__: object) -> ingest_service_pb2.RetryDeadLettersResponse:
        return ingest_service_pb2.RetryDeadLettersResponse(outcomes=self._outcomes)

    def delete_dead_letters(self, ids: Sequence[str]) -> ingest_service_pb2.DeleteDeadLettersResponse:
        outcome = ingest_service_pb2.DeleteDeadLettersResponse.Outcome
        statuses = {one.dead_letter_id: one.status for one in self._outcomes}
        done = [outcome(dead_letter_id=one, status=statuses.get(one)) for one in ids]
        return ingest_service_pb2.DeleteDeadLettersResponse(outcomes=done)

    def list_fields(self, **_: object) -> query_service_pb2.ListFieldsResponse:
        found = [query_service_pb2.Field(name="service", type="keyword", coverage=1, record_count=1)]
        return query_service_pb2.ListFieldsResponse(fields=found, sampled_count=self._sampled_count)


def answer(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    def client(_: Link) -> AbstractContextManager[Answers]:
        return nullcontext(answers)

    monkeypatch.setattr(Link, "client", client)


def test_a_retry_of_an_unknown_dead_letter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers([refused("0-1-2", "dead letter")]))
    outcome = cli.invoke("dead-letters", "retry", "0-1-2")
    assert (outcome.code, outcome.out, outcome.err) == (ExitCode.FAILED, "", "error: no dead letter named '0-1-2'\n")
    assert cli.invoke("dead-letters", "retry", "0-1-2", "-o", "json").json()["accepted_count"] == 0


def test_an_unknown_dead_letter_among_others_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers([refused("9", "dead letter"), Outcome(dead_letter_id="1", accepted_count=1)]))
    outcome = cli.invoke("dead-letters", "retry", "9", "1")
    assert outcome.code == ExitCode.FAILED
    assert outcome.out == "1 of 1 dead letter decoded, 1 record stored\n"
    assert "no dead letter named '9'" in outcome.err


def test_dead_letters_without_bytes_or_settled_meanwhile_are_refused_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers([refused("1", "kept bytes of dead letter")]))
    assert cli.invoke("dead-letters", "retry", "1").code == ExitCode.REJECTED
    answer(monkeypatch, Answers([refused("1", "dead letter")]))
    assert cli.invoke("dead-letters", "retry", "--all").code == ExitCode.REJECTED


def test_a_retry_tells_how_many_records_a_deletion_means(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers([Outcome(dead_letter_id="1", accepted_count=1, deleted_count=2)]))
    outcome = cli.invoke("dead-letters", "retry", "1")
    told = "1 of 1 dead letter decoded, 1 record stored, 2 records left out by a deletion\n"
    assert (outcome.code, outcome.out) == (ExitCode.OK, told)
    assert cli.invoke("dead-letters", "retry", "1", "-o", "json").json()["deleted_count"] == 2


def test_deleted_dead_letters_are_counted_and_unknown_ones_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers([refused("9-9", "dead letter")]))
    done = cli.invoke("dead-letters", "delete", "1-0", "--yes")
    assert (done.code, done.out, done.err) == (ExitCode.OK, "1 of 1 dead letter deleted\n", "")
    mixed = cli.invoke("dead-letters", "delete", "1-0", "9-9", "--yes")
    assert (mixed.code, mixed.out) == (ExitCode.FAILED, "1 of 2 dead letters deleted\n")
    assert mixed.err == "error: no dead letter named '9-9'\n"
    rows = cli.invoke("dead-letters", "delete", "1-0", "9-9", "--yes", "-o", "json").rows()
    assert [row["deleted"] for row in rows] == [True, False]


def test_fields_say_how_many_records_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answers(sampled_count=20_000))
    assert cli.invoke("fields").err == "of the newest 20,000 records\n"
