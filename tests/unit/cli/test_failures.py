from __future__ import annotations

import grpc
import pytest

from heimdall_client import errors
from heimdall_client.cli import failures
from heimdall_client.cli.exits import ExitCode
from tests.support import cli


def query_error(query: str, column: int) -> errors.QueryInvalidError:
    pointed = f"{query}\n{' ' * (column - 1)}^"
    return errors.QueryInvalidError(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message=f"unknown stage (column {column})",
        reason="QUERY_INVALID",
        metadata={"pointed": pointed, "column": str(column)},
        request_id="abc",
    )


@pytest.mark.parametrize("width", [30, 60, 100, 1000])
@pytest.mark.parametrize("column", [1, 20, 75, 150])
def test_the_caret_stays_under_the_problem_however_narrow_the_terminal(width: int, column: int) -> None:
    query = "".join(chr(ord("a") + index % 26) for index in range(160))
    text, caret = failures.pointed(query_error(query, column), width=width)
    assert caret.endswith("^")
    assert text[len(caret) - 1] == query[column - 1]
    assert len(text) <= max(width, 22)


def test_a_problem_without_a_place_has_no_caret() -> None:
    error = errors.QueryInvalidError(grpc.StatusCode.INVALID_ARGUMENT, "not SQL")
    assert failures.pointed(error, width=80) == []
    assert failures.pointed(errors.ClosedError("client"), width=80) == []


def test_the_request_id_is_told_where_more_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(query_error("a | b", 5), verbose=False)
    assert "abc" not in capsys.readouterr().err
    failures.report(query_error("a | b", 5), verbose=True)
    said = capsys.readouterr().err
    assert "request abc" in said
    assert "reason QUERY_INVALID" in said
    assert said.count("^") == 1


def test_fields_that_the_message_does_not_name_are_told() -> None:
    error = errors.InvalidArgumentError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request breaks a rule",
        field_violations=(errors.FieldViolation("row_limit", "at most 10"),),
        retry_after_s=2.5,
    )
    assert failures.sentence(error) == "the request breaks a rule (try again in 2.5 s)\nrow_limit: at most 10"


def test_the_reason_of_giving_up_is_told_in_detail() -> None:
    last = errors.UnavailableError(grpc.StatusCode.UNAVAILABLE, "nothing listens")
    lines = failures.details(errors.GaveUpError("the search", 3.0, last))
    assert lines == ["status UNAVAILABLE", "no request id: no server answered"]


def test_exit_codes_tell_whose_fault_it_is() -> None:
    assert failures.exit_code(query_error("a", 1)) is ExitCode.USAGE
    assert failures.exit_code(errors.ConfigError(("x",))) is ExitCode.USAGE
    assert failures.exit_code(errors.UnavailableError(grpc.StatusCode.UNAVAILABLE, "x")) is ExitCode.FAILED
    assert failures.exit_code(errors.InputError("a", "b")) is ExitCode.FAILED


def test_a_bug_is_not_dressed_up_as_a_problem_of_the_user() -> None:
    with pytest.raises(ZeroDivisionError), failures.told(verbose=False):
        raise ZeroDivisionError


def test_nobody_listening_is_told_with_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.support.pki import Pki
    from tests.support.sdk_server import client_config

    folder = tmp_path_factory.mktemp("pki")
    config = client_config(Pki(folder), address="127.0.0.1:1")
    outcome = cli.invoke(
        "status", "--address", config.address, "--ca-file", config.ca_file, "--cert-file", config.cert_file,
        "--key-file", config.key_file,
    )  # fmt: skip
    assert outcome.code == ExitCode.FAILED
    assert outcome.err == "error: nothing listens at 127.0.0.1:1: is the server up? `make up` starts one\n"
