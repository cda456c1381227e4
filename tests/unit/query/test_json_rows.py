"""Rows as JSON objects."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.services.query.translate.json_rows import json_rows
from tests.support.random_records import batches


def reference(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The same, value by value."""

    def plain(value: Any, kind: pa.DataType) -> Any:
        if value is None:
            return None
        if pa.types.is_map(kind):
            return {key: plain(item, kind.item_type) for key, item in value}
        if pa.types.is_fixed_size_binary(kind):
            return value.hex() if any(value) else None
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)
        return value

    rows = []
    for index in range(batch.num_rows):
        row = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_timestamp(column.type):
                ns = column[index].value
                row[name] = f"{np.datetime64(ns, 'ns')}Z" if ns is not None else None
            else:
                row[name] = plain(column[index].as_py(), column.type)
        rows.append(row)
    return rows


@settings(max_examples=60, deadline=None)
@given(batches(), st.data())
def test_rows_are_what_their_values_say(batch: pa.RecordBatch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, batch.num_rows))
    part = batch.slice(start, data.draw(st.integers(0, batch.num_rows)))
    assert [json.loads(text) for text in json_rows(part).to_pylist()] == reference(part)


@settings(deadline=None)
@given(st.lists(st.none() | st.text(), min_size=1), st.lists(st.none() | st.floats(), min_size=1))
def test_any_text_and_any_number_survive(texts: list[str | None], numbers: list[float | None]) -> None:
    count = min(len(texts), len(numbers))
    clean = [None if text is None else text.encode(errors="ignore").decode() for text in texts[:count]]
    batch = pa.record_batch({'na"me': pa.array(clean, pa.string()), "n": pa.array(numbers[:count], pa.float64())})
    rows = [json.loads(text) for text in json_rows(batch).to_pylist()]
    assert [row['na"me'] for row in rows] == clean
    for row, number in zip(rows, numbers[:count], strict=True):
        expected = number if number is None or np.isfinite(number) else str(number)
        assert row["n"] == expected


def test_types_of_aggregates_have_their_texts() -> None:
    batch = pa.record_batch(
        {
            "time": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "count": pa.array([2**64 - 1, None], pa.uint64()),
            "flag": pa.array([True, None]),
            "kind": pa.array(["a", None]).dictionary_encode(),
            "id": pa.array([b"\xab" * 4, None], pa.binary(4)),
            "map": pa.array([[("k", 1.5)], None], pa.map_(pa.string(), pa.float64())),
            "list": pa.array([[1], None], pa.list_(pa.int64())),
        }
    )
    assert [json.loads(text) for text in json_rows(batch).to_pylist()] == [
        {
            "time": "1970-01-01T00:00:00.000000001Z",
            "count": 2**64 - 1,
            "flag": True,
            "kind": "a",
            "id": "abababab",
            "map": {"k": 1.5},
            "list": [1],
        },
        dict.fromkeys(batch.schema.names),
    ]
