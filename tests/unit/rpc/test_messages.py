"""From bytes to a checked message."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import expression_pb2
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.rpc.messages import inflate, inflated_size, is_compressed, parse, validate


@settings(max_examples=30)
@given(payload=st.binary(max_size=100_000))
async def test_gzip_is_undone(payload: bytes) -> None:
    raw = gzip.compress(payload)
    assert is_compressed(raw)
    size = inflated_size(raw, bytes_max=100_000)
    assert await inflate(raw, size=size) == payload


@settings(max_examples=30)
@given(text=st.text(), number=st.integers(-(2**63), 2**63 - 1))
def test_no_message_looks_compressed(text: str, number: int) -> None:
    message = query_service_pb2.SearchRequest(
        question=query_service_pb2.Question(text=text.encode("utf-8", "ignore").decode()), row_limit=number
    )
    assert not is_compressed(message.SerializeToString())


@settings(max_examples=30)
@given(payload=st.binary(min_size=1, max_size=2000), cut=st.integers(0, 2000), garbage=st.binary(max_size=20))
async def test_damaged_gzip_is_refused(payload: bytes, cut: int, garbage: bytes) -> None:
    whole = gzip.compress(payload)
    raw = whole[: min(cut, len(whole) - 1)] + garbage
    if raw == whole:
        return
    with pytest.raises(InvalidArgumentError):
        await inflate(raw, size=inflated_size(raw, bytes_max=10_000))


@settings(max_examples=30)
@given(payload=st.binary(min_size=2, max_size=2000), said=st.integers(0, 4000))
async def test_gzip_that_lies_about_its_size_is_refused(payload: bytes, said: int) -> None:
    raw = gzip.compress(payload)[:-4] + said.to_bytes(4, "little")
    if said == len(payload):
        return
    with pytest.raises(InvalidArgumentError):
        await inflate(raw, size=inflated_size(raw, bytes_max=4000))


def test_path_of_a_violation_has_its_subscripts() -> None:
    request = query_service_pb2.SearchRequest(question=query_service_pb2.Question(tree=expression_pb2.Query()))
    request.question.tree.stages.add()
    with pytest.raises(InvalidArgumentError) as caught:
        validate(request)
    paths = [caught.value.field, *(path for path, _ in caught.value.further)]
    assert any(path.startswith("question.tree.stages[0].") for path in paths)


def test_method_that_takes_bytes_gets_them_unchecked() -> None:
    assert parse(b"\xff", None) == b"\xff"
