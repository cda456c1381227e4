"""The table of errors is whole, both ways, and tells nothing internal."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall.errors.v1.reasons_pb2 import ErrorReason
from heimdall_server.domain import errors
from heimdall_server.rpc import status
from tests.support.rpc_server import info_of, unpack_all


def all_classes(root: type[errors.HeimdallError] = errors.HeimdallError) -> list[type[errors.HeimdallError]]:
    """Every error class of the domain below the root."""
    found = []
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            found.append(kind)
        found.extend(all_classes(kind))
    return found


SAMPLES: dict[str, Any] = {
    "str": "text",
    "int": 7,
    "float": 2.5,
    "bytes": b"token",
    "tuple[str, ...]": ("a problem",),
    "tuple[tuple[str, str], ...]": (("other.field", "must be good"),),
}


def make(kind: type[errors.HeimdallError], **values: Any) -> errors.HeimdallError:
    """An instance with plausible values."""
    arguments = {field.name: SAMPLES[str(field.type)] for field in dataclasses.fields(kind)}
    return kind(**(arguments | values))


CLASSES = sorted(set(all_classes()), key=lambda kind: kind.__name__)
REASONS = sorted(name for name in ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED")  # noqa: SIM118 - not a dict


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_class_has_its_own_row(kind: type[errors.HeimdallError]) -> None:
    assert kind in status.TABLE


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_becomes_a_status_with_one_error_info(kind: type[errors.HeimdallError]) -> None:
    told = status.to_status(make(kind))
    assert told.code != grpc.StatusCode.OK.value[0]
    assert told.message
    assert not told.message.endswith(".")
    info = info_of(told)
    assert info.domain == "heimdall"
    assert f"ERROR_REASON_{info.reason}" in REASONS
    assert told.ByteSize() <= status.STATUS_BYTES_MAX


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_told_by_some_error(reason: str) -> None:
    told = {ErrorReason.Name(row.reason) for row in status.TABLE.values()}
    told.add(f"ERROR_REASON_{status.reason_of(ValueError())}")
    assert reason in told


@pytest.mark.parametrize(
    "kind",
    [kind for kind in CLASSES if issubclass(kind, errors.OverloadedError)],
    ids=lambda kind: kind.__name__,
)
def test_overload_says_when_to_come_back(kind: type[errors.HeimdallError]) -> None:
    (retry,) = unpack_all(status.to_status(make(kind, retry_after_s=2.5)), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize(
    "error",
    [
        errors.StoreError("warm", "INTERNAL"),
        errors.CorruptionError("INTERNAL", "INTERNAL"),
        errors.KeyMismatchError("INTERNAL", "INTERNAL"),
        errors.ConfigurationError(("INTERNAL",)),
        KeyError("INTERNAL"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_internal_stays_inside(error: BaseException) -> None:
    assert "INTERNAL" not in status.to_status(error).message
    info = info_of(status.to_status(error))
    assert "INTERNAL" not in info.metadata.values()


def test_violations_of_several_fields_are_all_told() -> None:
    error = errors.InvalidArgumentError("a.b", "must be 1", (("c", "must be 2"),))
    (bad,) = unpack_all(status.to_status(error), error_details_pb2.BadRequest)
    assert [(item.field, item.description) for item in bad.field_violations] == [
        ("a.b", "must be 1"),
        ("c", "must be 2"),
    ]


@settings(max_examples=40)
@given(text=st.text(min_size=0, max_size=200_000), column=st.integers(0, 200_000))
def test_status_stays_small_whatever_the_query(text: str, column: int) -> None:
    error = errors.QuerySyntaxError(text, min(column, len(text)), "no idea " + text[:5000], text)
    told = status.to_status(error)
    assert told.ByteSize() <= status.STATUS_BYTES_MAX
    assert info_of(told).reason == "QUERY_INVALID"


@settings(max_examples=40)
@given(count=st.integers(0, 2000), length=st.integers(0, 3000))
def test_status_stays_small_however_many_violations(count: int, length: int) -> None:
    error = errors.InvalidArgumentError("ä" * length, "é" * length, (("ö" * length, "x"),) * count)
    told = status.to_status(error)
    assert told.ByteSize() <= status.STATUS_BYTES_MAX
    assert info_of(told).reason == "INVALID_ARGUMENT"


@settings(max_examples=40)
@given(token=st.binary(max_size=6000))
def test_resume_token_is_told_whole_or_not_at_all(token: bytes) -> None:
    info = info_of(status.to_status(errors.StreamLaggedError("slow", token)))
    told = info.metadata.get("resume_token", "")
    assert told in ("", base64.b64encode(token).decode())
    if len(token) <= 1024:
        assert told == base64.b64encode(token).decode()


def test_first_error_of_ours_in_a_group_is_told() -> None:
    group = ExceptionGroup("", [ValueError(), ExceptionGroup("", [errors.DrainingError()])])
    assert status.reason_of(group) == "DRAINING"
    assert status.is_mapped(group)
    assert not status.is_mapped(ExceptionGroup("", [ValueError()]))
    assert status.code_of(ValueError()) is grpc.StatusCode.INTERNAL
    assert status.ok_status().code == 0
