from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode import ndjson
from heimdall_server.decode.arrow import complete_length, decode
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.domain.records import MAP_STRING, RECORD_SCHEMA, TimeFlag
from tests.support.decoding import CONTEXT, attributes, check, context, ns, rows

FORMAT = Format(FormatKind.ARROW)
LINES = b"""{"time":"2024-03-01T12:00:00Z","level":"warn","msg":"a","service":"api","n":1,"s":"x","b":true,"trace_id":"0af7651916cd43dd8448eb211c80319c"}
{"msg":"b","n":2.5,"deep":{"er":[1]}}
{"severity":17}
"""


def payload(*batches: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def own(**changes: Any) -> pa.RecordBatch:
    return ndjson.decode(LINES, Format(FormatKind.NDJSON), context(**changes)).batch


def read(*batches: pa.RecordBatch, **options: Any) -> Decoded:
    decoded = decode(payload(*batches), FORMAT, CONTEXT, **options)
    check(decoded)
    return decoded


def column(values: Any, type_: pa.DataType | None = None) -> Any:
    """What a foreign column of one or more rows becomes."""
    array = values if isinstance(values, pa.Array) else pa.array(values, type_)
    return [record.get("c") for record in attributes(read(pa.record_batch({"c": array})).batch)]


def replaced(batch: pa.RecordBatch, **columns: Any) -> pa.RecordBatch:
    for name, values in columns.items():
        field = RECORD_SCHEMA.field(name)
        batch = batch.set_column(
            RECORD_SCHEMA.get_field_index(name), pa.field(name, field.type), pa.array(values, field.type)
        )
    return batch


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_our_own_schema_passes_unchanged(compression: str | None) -> None:
    batch = own()
    decoded = decode(payload(batch, batch, compression=compression), FORMAT, CONTEXT)
    assert rows(check(decoded)) == rows(batch) * 2


def test_a_payload_says_nothing_about_where_it_came_from() -> None:
    claims: dict[str, list[Any]] = {name: ["forged"] * 3 for name in ("source", "dataset", "dump", "tlp", "principal")}
    claims |= {"policy_version": [9] * 3, "record_number": [100] * 3}
    told = {"dump": "mine", "first_record_number": 5, "tlp": "red", "principal": "spiffe://test/client/ann"}
    decoded = decode(payload(replaced(own(), **claims)), FORMAT, context(**told))
    batch = check(decoded)
    assert set(batch["principal"].to_pylist()) == {"spiffe://test/client/ann"}
    assert set(batch["source"].to_pylist()) == {CONTEXT.source}
    assert set(batch["dataset"].to_pylist()) == {CONTEXT.dataset}
    assert set(batch["dump"].to_pylist()) == {"mine"}
    assert set(batch["tlp"].to_pylist()) == {"red"}
    assert batch["policy_version"].to_pylist() == [0] * 3
    assert batch["record_number"].to_pylist() == [5, 6, 7]


def test_record_numbers_go_on_from_batch_to_batch() -> None:
    decoded = decode(payload(own(), own()), FORMAT, context(dump="d", first_record_number=1))
    assert decoded.batch["record_number"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_own_records_keep_the_guard_and_their_flags() -> None:
    late = CONTEXT.observed_time_ns + 2 * 86_400 * 10**9
    batch = replaced(
        own(),
        time=[late, ns(dt.datetime(2024, 3, 1, tzinfo=dt.UTC)), 0],
        time_flags=[0, int(TimeFlag.INFERRED_YEAR), 200],
    )
    found = read(batch).batch
    assert found["time"].cast(pa.int64()).to_pylist()[0] == CONTEXT.observed_time_ns
    assert found["time_flags"].to_pylist() == [TimeFlag.OUT_OF_RANGE, TimeFlag.INFERRED_YEAR, 200 & 15]
    assert "time.original" in attributes(found)[0]


def test_own_records_with_nulls_or_repeated_keys_are_put_right() -> None:
    batch = replaced(own(), body=["a", None, "c"], severity=[9, None, 77])
    pairs = pa.array([[("k", "1"), ("k", "2")], None, []], MAP_STRING)
    batch = batch.set_column(RECORD_SCHEMA.get_field_index("attributes"), pa.field("attributes", MAP_STRING), pairs)
    found = read(batch).batch
    assert found["body"].to_pylist() == ["a", "", "c"]
    assert found["severity"].to_pylist() == [9, 0, 0]
    assert found["severity_text"].to_pylist() == ["warn", "", "77"]
    assert [record.get("k") for record in attributes(found)] == ["2", None, None]


def test_own_overflow_is_kept() -> None:
    found = read(replaced(own(), overflow=['{"x":1}', "no object", ""])).batch
    assert found["overflow"].to_pylist() == ['{"x":1}', '{"overflow": "no object"}', ""]


def test_own_records_over_the_limits_are_cut_into_overflow() -> None:
    wide = pa.array([[(f"k{number}", "v") for number in range(200)], [], []], MAP_STRING)
    batch = own().set_column(RECORD_SCHEMA.get_field_index("resource"), pa.field("resource", MAP_STRING), wide)
    found = read(batch).batch
    assert len(found["resource"].to_pylist()[0]) == 128
    assert found["overflow"].to_pylist()[0].startswith('{"resource.k128":"v"')


def test_a_foreign_schema_is_mapped_as_json_would_be() -> None:
    table = {
        "@timestamp": pa.array([dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC), None], pa.timestamp("ms", "UTC")),
        "level": pa.array(["warn", None]).dictionary_encode(), "message": pa.array(["a", "b"], pa.large_string()), "service": pa.array([{"name": "api", "v": 2}, None]),
        "trace_id": pa.array([bytes(range(16)), b"odd"], pa.binary()),
    }  # fmt: skip
    found = read(pa.record_batch(table)).batch
    assert found["time"].cast(pa.int64()).to_pylist() == [
        ns(dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)),
        CONTEXT.observed_time_ns,
    ]
    assert found["severity"].to_pylist() == [13, 0]
    assert found["body"].to_pylist() == ["a", "b"]
    assert found["service"].to_pylist() == ["api", ""]
    assert found["trace_id"].to_pylist() == [bytes(range(16)), bytes(16)]
    assert attributes(found) == [{"service.v": 2.0}, {"trace_id": b"odd".hex()}]


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        ([1, None, 2**60], pa.int64(), [1.0, None, str(2**60)]),
        ([2**64 - 1, 3], pa.uint64(), [str(2**64 - 1), 3.0]),
        ([1.5, None], pa.float32(), [1.5, None]),
        ([1.5], pa.float16(), [1.5]),
        ([True, None, False], pa.bool_(), [True, None, False]),
        (["x", "y" * 20, None], pa.string_view(), ["x", "y" * 20, None]),
        (["x"], pa.large_string(), ["x"]),
        ([decimal.Decimal("1.50")], pa.decimal128(10, 2), [1.5]),
        ([decimal.Decimal("12345678901234567890.12")], pa.decimal128(30, 2), ["12345678901234567890.12"]),
        ([dt.datetime(2024, 3, 1, 12)], pa.timestamp("us"), ["2024-03-01 12:00:00.000000"]),  # noqa: DTZ001 - a type without zone
        ([dt.date(2024, 3, 1)], pa.date32(), ["2024-03-01"]),
        ([dt.time(1, 2, 3)], pa.time32("s"), ["01:02:03"]),
        ([1500], pa.duration("ms"), [1.5]),
        ([b"text", None, b"\xff\x00"], pa.binary(), ["text", None, "ff00"]),
        ([b"ab"], pa.binary(2), ["ab"]),
        ([b"ab"], pa.binary_view(), ["ab"]),
        ([[1, None], [], None], pa.list_(pa.int64()), ["[1,null]", "[]", None]),
        ([[{"a": "\u00e9"}]], pa.list_(pa.struct([("a", pa.string())])), ['[{"a":"\u00e9"}]']),
        ([[1, 2]], pa.list_(pa.int64(), 2), ["[1,2]"]),
        ([None], pa.null(), [None]),
    ],
)  # fmt: skip
def test_every_type_lands_in_the_map_it_belongs_to(values: list[Any], type_: pa.DataType, expected: list[Any]) -> None:
    assert column(values, type_) == expected


def test_encodings_of_a_column_do_not_matter() -> None:
    plain = pa.array(["a", "b", None, "a"])
    assert column(plain.dictionary_encode()) == ["a", "b", None, "a"]
    assert column(pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", "b"]))) == ["a", "a", "b"]
    union = pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([5]), pa.array(["x"])]
    )
    assert column(union) == ["5", '"x"']


def test_structs_become_dotted_names_and_maps_likewise() -> None:
    nested = pa.array([{"a": {"b": 1, "c": None}}, None, {"a": None}])
    labels = pa.array([[("k", "v"), ("n", None), ("k", "w")], None, []], pa.map_(pa.string(), pa.string()))
    counts = pa.array([[("big", 2**60), ("small", 3)], [], []], pa.map_(pa.string(), pa.int64()))
    lists = pa.array([[("l", [1])], [], []], pa.map_(pa.string(), pa.list_(pa.int64())))
    odd = pa.array([[(1, "x")], None, []], pa.map_(pa.int64(), pa.string()))
    batch = pa.record_batch({"s": nested, "labels": labels, "counts": counts, "lists": lists, "odd": odd})
    first, second, third = attributes(read(batch).batch)
    assert first == {
        "s.a.b": 1.0, "labels.k": "w", "counts.big": str(2**60), "counts.small": 3.0, "lists.l": "[1]", "odd": '[[1, "x"]]',
    }  # fmt: skip
    assert second == {}
    assert third == {"odd": "[]"}


def test_maps_under_our_names_are_the_attributes() -> None:
    kind = pa.map_(pa.string(), pa.string())
    batch = pa.record_batch({"attributes": pa.array([[("a", "1")]], kind), "resource": pa.array([[("r", "2")]], kind)})
    found = read(batch).batch
    assert attributes(found) == [{"a": "1"}]
    assert attributes(found, "resource") == [{"r": "2"}]


def test_of_two_columns_with_one_name_the_last_value_counts() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array(["x", None])], ["c", "c"])
    assert attributes(read(batch).batch) == [{"c": "x"}, {"c": 2.0}]


def test_slices_are_read_as_they_are() -> None:
    batch = own()
    assert rows(read(batch.slice(1, 2)).batch) == rows(batch)[1:]


def test_several_streams_in_one_payload_are_read_in_order() -> None:
    chunk = payload(pa.record_batch({"msg": ["a"]})) + payload(pa.record_batch({"body": ["b"], "x": [1]}))
    decoded = decode(chunk, FORMAT, CONTEXT)
    assert decoded.batch["body"].to_pylist() == ["a", "b"]


def test_an_empty_payload_and_an_empty_stream_have_no_records() -> None:
    assert decode(b"", FORMAT, CONTEXT).record_count == 0
    assert read(pa.record_batch({"a": pa.array([], pa.string())})).record_count == 0
    assert complete_length(b"any", final=False) == 3


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_payload_is_measured_before_it_is_decompressed(compression: str) -> None:
    bomb = payload(pa.record_batch({"a": pa.array(np.zeros(4_000_000))}), compression=compression)
    assert len(bomb) < 1_000_000
    with pytest.raises(RecordTooLargeError, match="32000000 bytes"):
        decode(bomb, FORMAT, CONTEXT, size_bytes_max=1 << 20)


def test_rows_that_need_no_bytes_are_bounded_too() -> None:
    with pytest.raises(RecordTooLargeError):
        decode(payload(pa.record_batch({"a": pa.nulls(5_000_000)})), FORMAT, CONTEXT)


@pytest.mark.parametrize("kind", ["dictionary", "view", "runs"])
def test_what_expands_in_memory_is_bounded(kind: str) -> None:
    large = "x" * 1_000_000
    if kind == "dictionary":
        array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array([large]))
    elif kind == "view":
        one = pa.array([large], pa.string_view())
        view = np.tile(np.frombuffer(one.buffers()[1], np.uint8), 1000)
        array = pa.Array.from_buffers(pa.string_view(), 1000, [None, pa.py_buffer(view.tobytes()), one.buffers()[2]])
    else:
        array = pa.RunEndEncodedArray.from_arrays([1000], pa.array([large]))
    with pytest.raises(RecordTooLargeError):
        read(pa.record_batch({"a": array}))


def test_damage_is_a_format_error() -> None:
    good = payload(own())
    for chunk in (b"garbage", b"\xff" * 64, good[:40], good[:-100], b"\0" * 16 + good, good + b"rest"):
        with pytest.raises(FormatError, match="not Arrow IPC stream"):
            decode(chunk, FORMAT, CONTEXT)


def test_text_that_is_not_utf8_is_a_format_error() -> None:
    array = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(FormatError, match="isn't valid"):
        decode(payload(pa.record_batch({"a": array})), FORMAT, CONTEXT)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([None, "lz4", "zstd"]))
def test_any_damage_is_refused_or_decoded_but_never_anything_else(data: st.DataObject, compression: str | None) -> None:
    chunk = bytearray(payload(own(), compression=compression))
    for _ in range(data.draw(st.integers(1, 4))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    del chunk[data.draw(st.integers(0, len(chunk))) :]
    try:
        decoded = decode(bytes(chunk), FORMAT, CONTEXT)
    except (FormatError, RecordTooLargeError):
        return
    check(decoded)


@pytest.mark.parametrize("later", [("principal",), ("principal", "tokens")])
def test_a_batch_of_an_older_version_of_the_schema_is_one_of_ours(later: tuple[str, ...]) -> None:
    batch = own()
    older = batch.select([name for name in batch.schema.names if name not in later])
    assert read(older).batch.equals(read(batch).batch)


def test_nobody_brings_tokens_along() -> None:
    batch = own()
    assert read(replaced(batch, tokens=["0abc"] * batch.num_rows)).batch.column("tokens").to_pylist() == [""] * 3
