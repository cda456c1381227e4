from __future__ import annotations

import base64

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from heimdall.errors.v1.reasons_pb2 import ErrorReason
from heimdall_client import errors, status
from tests.support.append_server import status_of


def from_trailers(value: status_pb2.Status) -> errors.RpcError:
    code = next(code for code in grpc.StatusCode if code.value[0] == value.code)
    trailers = grpc.aio.Metadata((status.DETAILS_KEY, value.SerializeToString()), ("x-request-id", "r-7"))
    return status.from_call(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=value.message))


def test_every_reason_of_the_catalogue_has_its_class() -> None:
    catalogue = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert set(errors.BY_REASON) == catalogue
    assert len(set(errors.BY_REASON.values())) == len(catalogue)


@pytest.mark.parametrize("reason", sorted(errors.BY_REASON))
def test_reason_decides_the_class_wherever_the_status_travels(reason: str) -> None:
    value = status_of(code_pb2.ABORTED, reason)
    for error in (status.from_status(value), from_trailers(value)):
        assert type(error) is errors.BY_REASON[reason]
        assert error.reason == reason


def test_details_become_fields() -> None:
    value = status_of(code_pb2.RESOURCE_EXHAUSTED, "JOURNAL_FULL", message="full", retry_s=1.5, field_path="batch.x")
    error = from_trailers(value)
    assert isinstance(error, errors.OverloadedError)
    assert error.retry_after_s == 1.5
    assert error.field_violations == (errors.FieldViolation("batch.x", "must be otherwise"),)
    assert error.metadata == {"note": "x"}
    assert error.request_id == "r-7"
    assert error.retryable
    assert str(error) == "full\n  batch.x: must be otherwise (try again in 1.5 s, request r-7)"


def test_unknown_reason_is_kept() -> None:
    error = from_trailers(status_of(code_pb2.ABORTED, "FROM_THE_FUTURE", message="what"))
    assert type(error) is errors.RpcError
    assert error.reason == "FROM_THE_FUTURE"


def test_foreign_and_damaged_details_are_passed_over() -> None:
    value = status_pb2.Status(code=code_pb2.NOT_FOUND, message="gone")
    foreign = any_pb2.Any()
    foreign.Pack(error_details_pb2.ErrorInfo(domain="elsewhere", reason="JOURNAL_FULL"))
    value.details.append(foreign)
    assert isinstance(from_trailers(value), errors.NotFoundError)
    trailers = grpc.aio.Metadata((status.DETAILS_KEY, b"\xff\xff"))
    raw = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, details="gone")
    assert str(status.from_call(raw)) == "gone"


def test_query_error_shows_the_place() -> None:
    value = status_of(code_pb2.INVALID_ARGUMENT, "QUERY_INVALID", message="unknown field 'sevice'")
    info = error_details_pb2.ErrorInfo(
        domain="heimdall",
        reason="QUERY_INVALID",
        metadata={"column": "1", "suggestion": "did you mean 'service'?", "pointed": "sevice:x\n^"},
    )
    value.details[0].Pack(info)
    error = status.from_status(value)
    assert isinstance(error, errors.QueryInvalidError)
    assert (error.column, error.suggestion) == (1, "did you mean 'service'?")
    assert str(error).endswith("sevice:x\n^")


def test_reasons_with_a_place_to_go_on_tell_it() -> None:
    lagged = errors.StreamLaggedError(
        grpc.StatusCode.ABORTED, "slow", metadata={"resume_token": base64.b64encode(b"t\xff").decode()}
    )
    assert lagged.resume_token == b"t\xff"
    gap = errors.OffsetGapError(grpc.StatusCode.FAILED_PRECONDITION, "gap", metadata={"expected_offset": "12"})
    assert gap.expected_offset == 12
    bare = errors.OffsetGapError(grpc.StatusCode.FAILED_PRECONDITION, "gap")
    assert bare.expected_offset is None


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", True),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING", True),
        (grpc.StatusCode.INTERNAL, "", True),
        (grpc.StatusCode.INTERNAL, "INTERNAL", False),
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", False),
        (grpc.StatusCode.ABORTED, "SOURCE_FENCED", False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", False),
    ],
)
def test_what_may_succeed_later_is_told(code: grpc.StatusCode, reason: str, retryable: bool) -> None:
    assert errors.RpcError(code, "x", reason).retryable is retryable


@pytest.mark.parametrize(
    ("details", "kind", "words"),
    [
        ("last error: UNAVAILABLE: ipv4:1.2.3.4:5: Socket closed", errors.HandshakeError, "client's certificate"),
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", errors.HandshakeError, "ca_file"),
        ("Hostname Verification Check failed.", errors.HandshakeError, "made out to"),
        ("Failed to create security handshaker.", errors.HandshakeError, "certificate files"),
        (
            "last error: health check call failed; will retry after backoff",
            errors.UnavailableError,
            "refuses this certif",
        ),
        ("Connection refused", errors.UnavailableError, "make up"),
        ("errors resolving nosuch:1", errors.UnavailableError, "resolved"),
        ("last error: backend unhealthy", errors.UnavailableError, "healthy"),
        ("last error: something new", errors.UnavailableError, "something new"),
    ],
)
def test_unreachable_server_is_explained(details: str, kind: type[errors.RpcError], words: str) -> None:
    error = status.unavailable(details, address="host:1")
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.SourceMovedError("s", 1, 5, 9), "is this another server"),
        (errors.SourceMovedError("s", 12, 5, 9), "something else feed the same source"),
        (errors.InputError("f", "broken", 1234), "f: broken (after 1,234 bytes)"),
        (errors.ConfigError(("a", "b")), "a\nb"),
        (errors.MissingLibraryError("polars"), "pip install polars"),
        (errors.ClosedError("client"), "the client is closed"),
        (errors.GaveUpError("it", 3, ValueError("x")), "it made no progress for 3 s; the last problem was: x"),
        (errors.StalledError(3), "said nothing for 3 s"),
    ],
)
def test_sentences(error: errors.HeimdallError, words: str) -> None:
    assert words in str(error)
