"""What a refusal repeats of a caller's words has no personal value in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.rpc import error_details_pb2, status_pb2

from heimdall_server.domain import errors
from heimdall_server.protect.texts import masked_text
from heimdall_server.rpc.status import to_status
from heimdall_server.rpc.status_texts import mask_texts

VALUE = "ada.lovelace@example.com"


@pytest.fixture(autouse=True)
def masking() -> Iterator[None]:
    mask_texts(masked_text)
    yield
    mask_texts(str)


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    return found


@pytest.mark.parametrize(
    "error",
    [
        errors.QuerySyntaxError(f'contact:"{VALUE}', 8, f"\"{VALUE} isn't closed", f'write "{VALUE}"'),
        errors.InvalidArgumentError("source_id", f"{VALUE!r} isn't an id", ((VALUE, VALUE),)),
        errors.NotFoundError("operation", VALUE),
        errors.FormatError("csv", f"no column {VALUE}"),
    ],
)
def test_no_value_is_repeated(error: errors.HeimdallError) -> None:
    status = to_status(error)
    assert VALUE.encode() not in status.SerializeToString()
    assert "[email]" in status.message or "[email]" in str(status.details)


def test_a_query_without_values_is_pointed_into() -> None:
    assert info(to_status(errors.QuerySyntaxError("a (", 2, "isn't closed"))).metadata["pointed"] == "a (\n  ^"


def test_a_value_at_the_end_of_a_long_text_is_not_cut_into_something_else() -> None:
    status = to_status(errors.InvalidArgumentError("text", "x" * 380 + f" {VALUE}"))
    assert b"lovelace" not in status.SerializeToString()
