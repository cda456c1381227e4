from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import dispatch
from heimdall_server.decode.oversize import refuse_oversized
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format, FormatKind, RowError
from heimdall_server.domain.records import ATTRIBUTE_VALUE_BYTES_MAX, RECORD_BYTES_MAX, RECORD_SCHEMA

CONTEXT = DecodeContext(source="s", dataset="logs", observed_time_ns=1_790_000_000_000_000_000)


def _arrow(**columns: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _decode(payload: bytes) -> Decoded:
    return dispatch.decode(payload, Format(FormatKind.ARROW), CONTEXT, at_start=True)


def test_a_body_over_the_limit_is_an_error_and_its_neighbours_stay() -> None:
    decoded = _decode(_arrow(body=["a", "x" * (RECORD_BYTES_MAX + 1), "b"]))
    assert decoded.batch.column("body").to_pylist() == ["a", "b"]
    (error,) = decoded.errors
    assert (error.row, error.offset, error.raw) == (1, 1, b"")
    assert str(RECORD_BYTES_MAX) in error.reason
    assert decoded.batch.schema == RECORD_SCHEMA


def test_a_body_of_just_the_limit_is_kept() -> None:
    decoded = _decode(_arrow(body=["x" * RECORD_BYTES_MAX]))
    assert decoded.batch.num_rows == 1
    assert not decoded.errors


def test_attributes_count_too() -> None:
    value = "v" * ATTRIBUTE_VALUE_BYTES_MAX
    keys = [f"k{number}" for number in range(40)]
    decoded = _decode(_arrow(body=["large", "small"], **{key: [value, None] for key in keys}))
    assert decoded.batch.column("body").to_pylist() == ["small"]
    assert [error.row for error in decoded.errors] == [0]


def test_rows_are_counted_with_the_bad_ones_before_them() -> None:
    row = _decode(_arrow(body=["a"])).batch
    at = RECORD_SCHEMA.get_field_index("body")
    large = row.set_column(at, RECORD_SCHEMA.field(at), pa.array(["x" * (RECORD_BYTES_MAX + 1)]))
    before = Decoded(pa.concat_batches([row, large, row]), [RowError(1, 1, "bad")])
    after = refuse_oversized(before)
    assert after.batch.column("body").to_pylist() == ["a", "a"]
    assert [error.row for error in after.errors] == [1, 2]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_small_batches_pass_as_they_are(count: int) -> None:
    decoded = _decode(_arrow(body=pa.array(["ok"] * count, pa.string())))
    assert refuse_oversized(decoded) is decoded
