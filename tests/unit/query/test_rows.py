"""Rows in messages of at most 1 MiB, each with its own token."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.services.query.translate.rows import MESSAGE_BYTES_MAX, RowEncoder
from heimdall_server.services.query.watch_model import Packed

ENCODINGS = (pb.ROW_ENCODING_JSON, pb.ROW_ENCODING_ARROW_IPC)


def bodies_of(messages: list[pb.SearchResponse.Batch], schema: pa.Schema) -> list[str]:
    bodies = []
    for message in messages:
        if message.arrow_batch:
            batch = pa.ipc.read_record_batch(pa.py_buffer(message.arrow_batch), schema)
            assert batch.num_rows == message.row_count
            bodies += batch.column("body").to_pylist()
        else:
            assert len(message.json_rows) == message.row_count
            bodies += [json.loads(row)["body"] for row in message.json_rows]
    return bodies


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.sampled_from((0, 10, 5_000, 300_000, 900_000)), min_size=1, max_size=12))
def test_each_message_fits_and_says_where_to_go_on(encoding: pb.RowEncoding.ValueType, sizes: list[int]) -> None:
    bodies = [f"{index}:".ljust(size, "x") for index, size in enumerate(sizes)]
    batch = pa.record_batch({"body": bodies, "n": range(len(bodies))})
    encoder = RowEncoder(encoding)
    messages = list(encoder.batches(batch, lambda count: str(count).encode()))
    assert bodies_of(messages, batch.schema) == bodies
    assert all(message.ByteSize() <= MESSAGE_BYTES_MAX for message in messages)
    counts = [int(message.resume_token) for message in messages]
    assert counts == [sum(message.row_count for message in messages[: end + 1]) for end in range(len(messages))]
    assert encoder.cut_count == 0


@pytest.mark.parametrize(("size", "message_count"), [(10, 1), (200_000, 2)])
def test_rows_that_are_packed_already_are_sent_as_they_are_if_they_fit(size: int, message_count: int) -> None:
    batch = pa.record_batch({"body": [f"{index}:".ljust(size, "x") for index in range(8)]})
    packed = Packed(batch.schema, batch.num_rows, batch.serialize())
    encoder = RowEncoder(pb.ROW_ENCODING_ARROW_IPC)
    messages = list(encoder.packed(packed, lambda count: str(count).encode()))
    assert bodies_of(messages, batch.schema) == batch.column("body").to_pylist()
    assert len(messages) == message_count
    assert all(message.ByteSize() <= MESSAGE_BYTES_MAX for message in messages)
    assert messages[-1].resume_token == b"8"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_many_rows_are_cut_into_few_messages(encoding: pb.RowEncoding.ValueType) -> None:
    batch = pa.record_batch({"body": [f"request {row} done" for row in range(20_000)]})
    messages = list(RowEncoder(encoding).batches(batch, lambda _: b""))
    assert bodies_of(messages, batch.schema) == batch.column("body").to_pylist()
    assert len(messages) <= 4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_row_larger_than_a_message_is_cut_and_says_so(encoding: pb.RowEncoding.ValueType) -> None:
    huge = "\x00" * 1_000_000
    attributes = [[(f"k{index}", "v" * 30_000) for index in range(40)], []]
    kind = pa.map_(pa.string(), pa.string())
    batch = pa.record_batch({"body": [huge, "small"], "attributes": pa.array(attributes, kind)})
    encoder = RowEncoder(encoding)
    messages = list(encoder.batches(batch, lambda _: b"t"))
    assert all(message.ByteSize() <= MESSAGE_BYTES_MAX for message in messages)
    first, second = bodies_of(messages, batch.schema)
    assert first.endswith("… [cut: 1000000 bytes]")
    assert second == "small"
    assert encoder.cut_count == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_rows_are_no_message(encoding: pb.RowEncoding.ValueType) -> None:
    batch = pa.record_batch({"body": pa.array([], pa.string())})
    assert list(RowEncoder(encoding).batches(batch, lambda _: b"")) == []
