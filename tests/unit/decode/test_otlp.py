from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    EntityRef,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from heimdall_server.decode import otlp
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import FormatError
from heimdall_server.domain.records import ATTRIBUTE_COUNT_MAX, ATTRIBUTE_VALUE_BYTES_MAX, RECORD_SCHEMA, TimeFlag
from tests.unit.decode.otlp_reference import expected_rows, rows_of

NOW = 1_700_000_000 * 10**9
CONTEXT = DecodeContext(source="otlp", dataset="logs", observed_time_ns=NOW, service="fallback", tlp="green")

KEYS = st.sampled_from(["a", "b", "service.name", "host.name", "scope.a", "otel.schema_url", "trace_id", "", "é"])
SCALARS = st.one_of(
    st.builds(AnyValue),
    st.builds(AnyValue, string_value=st.text(max_size=5) | st.sampled_from(["x" * 127, "x" * 128])),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=4)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
        st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList, values=st.lists(st.builds(KeyValue, key=KEYS, value=inner), max_size=3)
            ),
        ),
    ),
    max_leaves=5,
)
LONG = st.just(AnyValue(string_value="é" * 9000))
ATTRIBUTES = st.lists(st.builds(KeyValue, key=KEYS, value=VALUES | LONG) | st.builds(KeyValue, key=KEYS), max_size=5)
COUNTS = st.sampled_from([0, 0, 3, 2**32 - 1])
NAMES = st.sampled_from(["", "lib", "https://example.com/schema"])
TIMES = st.sampled_from([0, 1, NOW - 5, NOW + 1, NOW + 25 * 3600 * 10**9, 2**63, 2**64 - 1])
RECORDS = st.builds(
    LogRecord,
    time_unix_nano=TIMES,
    observed_time_unix_nano=TIMES,
    severity_number=st.integers(0, 24) | st.sampled_from([0, 25, -1, 2**31 - 1]),
    severity_text=st.sampled_from(["", "INFO", "warning", "odd"]),
    body=VALUES,
    attributes=ATTRIBUTES,
    dropped_attributes_count=COUNTS,
    flags=st.sampled_from([0, 1, 2**32 - 1]),
    trace_id=st.binary(min_size=16, max_size=16) | st.binary(max_size=3),
    span_id=st.binary(min_size=8, max_size=8) | st.just(b""),
    event_name=NAMES,
)
SCOPES = st.builds(
    ScopeLogs,
    scope=st.builds(
        InstrumentationScope, name=NAMES, version=NAMES, attributes=ATTRIBUTES, dropped_attributes_count=COUNTS
    ),
    log_records=st.lists(RECORDS, max_size=3),
    schema_url=NAMES,
) | st.builds(ScopeLogs, log_records=st.lists(RECORDS, max_size=2))
ENTITIES = st.builds(EntityRef, type=NAMES, id_keys=st.lists(KEYS, max_size=2))
RESOURCES = st.builds(
    ResourceLogs,
    resource=st.builds(
        Resource,
        attributes=ATTRIBUTES,
        dropped_attributes_count=COUNTS,
        entity_refs=st.lists(ENTITIES, max_size=2),
    ),
    scope_logs=st.lists(SCOPES, max_size=2),
    schema_url=NAMES,
) | st.builds(ResourceLogs, scope_logs=st.lists(SCOPES, max_size=1))
REQUESTS = st.builds(ExportLogsServiceRequest, resource_logs=st.lists(RESOURCES, max_size=2))


def request(*records: LogRecord) -> ExportLogsServiceRequest:
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=records)])])


def with_attributes(*attributes: KeyValue) -> bytes:
    return request(LogRecord(attributes=attributes)).SerializeToString()


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, max_size=4))
def test_columns_equal_the_records_read_one_by_one(requests: list[ExportLogsServiceRequest]) -> None:
    result = otlp.decode([one.SerializeToString() for one in requests], CONTEXT)
    batch = result.decoded.batch
    batch.validate(full=True)
    assert batch.schema == RECORD_SCHEMA
    assert not result.decoded.errors
    assert result.problems == [None] * len(requests)
    expected = expected_rows(requests, CONTEXT)
    assert [{key: row[key] for key in wanted} for row, wanted in zip(rows_of(batch), expected, strict=True)] == expected
    assert result.counts == [len(expected_rows([one], CONTEXT)) for one in requests]
    assert all(row["source"] == "otlp" and row["tlp"] == "green" and not row["overflow"] for row in rows_of(batch))


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), data=st.data())
def test_damaged_requests_are_refused_alone(requests: list[ExportLogsServiceRequest], data: st.DataObject) -> None:
    payloads = [one.SerializeToString() for one in requests]
    at = data.draw(st.integers(0, len(payloads) - 1))
    damaged = bytearray(payloads[at] or b"\x00")
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    payloads[at] = bytes(damaged)
    result = otlp.decode(payloads, CONTEXT)
    result.decoded.batch.validate(full=True)
    others = [one for index, one in enumerate(requests) if index != at]
    assert [problem for index, problem in enumerate(result.problems) if index != at] == [None] * len(others)
    assert sum(result.counts) == result.decoded.batch.num_rows
    if result.problems[at] is not None:
        assert [error.offset for error in result.decoded.errors] == [at]
        assert result.decoded.batch.num_rows == len(expected_rows(others, CONTEXT))


@pytest.mark.parametrize(
    "payload",
    [
        b"hello world, this is no protobuf",
        b"\xff",
        request(LogRecord(event_name="cut")).SerializeToString()[:-2],
        request(LogRecord(event_name="qqqq")).SerializeToString().replace(b"qqqq", b"\xff\xfe\xfd\xfc"),
        with_attributes(KeyValue(key="a", value=AnyValue(string_value="qqqq"))).replace(b"qqqq", b"q\xffqq"),
        with_attributes(KeyValue(key="qqqq", value=AnyValue(string_value="x"))).replace(b"qqqq", b"q\xffqq"),
        with_attributes(
            KeyValue(key="a", value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="qqqq")])))
        ).replace(b"qqqq", b"q\xffqq"),
    ],
    ids=["text", "varint", "truncated", "utf8", "utf8-value", "utf8-key", "utf8-nested"],
)
def test_refused_request_leaves_its_neighbours_alone(payload: bytes) -> None:
    good = request(LogRecord(event_name="good"), LogRecord()).SerializeToString()
    result = otlp.decode([good, payload, b"", good], CONTEXT)
    assert result.counts == [2, 0, 0, 2]
    assert result.decoded.batch.num_rows == 4
    assert isinstance(result.problems[1], FormatError)
    assert [result.problems[at] for at in (0, 2, 3)] == [None] * 3
    (error,) = result.decoded.errors
    assert (error.row, error.offset, error.raw) == (2, 1, payload)
    assert "qq" not in error.reason


def test_refused_request_takes_one_number_of_a_dump() -> None:
    good = request(LogRecord(), LogRecord()).SerializeToString()
    context = DecodeContext(source="s", dataset="dumps", observed_time_ns=NOW, dump="d", first_record_number=10)
    batch = otlp.decode([good, b"\xff", good], context).decoded.batch
    assert batch.column("record_number").to_pylist() == [10, 11, 13, 14]


def test_no_requests_make_no_records() -> None:
    result = otlp.decode([], CONTEXT)
    assert result.decoded.batch.schema == RECORD_SCHEMA
    assert (result.counts, result.decoded.batch.num_rows) == ([], 0)


def test_large_input_is_cut_into_slices_and_stays_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SLICE_BYTES_MAX", 300)
    requests = [request(*(LogRecord(event_name=f"{at}-{row}") for row in range(at % 4))) for at in range(40)]
    result = otlp.decode([one.SerializeToString() for one in requests], CONTEXT)
    assert result.counts == [at % 4 for at in range(40)]
    names = result.decoded.batch.column("event_name").to_pylist()
    assert names == [f"{at}-{row}" for at in range(40) for row in range(at % 4)]


def test_what_is_over_the_limits_is_in_the_overflow() -> None:
    many = [KeyValue(key=f"k{number}", value=AnyValue(int_value=number)) for number in range(ATTRIBUTE_COUNT_MAX + 2)]
    long = KeyValue(key="long", value=AnyValue(string_value="x" * (ATTRIBUTE_VALUE_BYTES_MAX + 1)))
    batch = otlp.decode([with_attributes(*many), with_attributes(long)], CONTEXT).decoded.batch
    first, second = rows_of(batch)
    assert len(first["attributes_number"]) == ATTRIBUTE_COUNT_MAX
    assert set(json.loads(first["overflow"])) == {"k128", "k129"}
    assert (second["attributes"], json.loads(second["overflow"])) == (
        {},
        {"long": "x" * (ATTRIBUTE_VALUE_BYTES_MAX + 1)},
    )


def test_more_keys_than_bits_of_a_word_are_told_apart() -> None:
    keys = [KeyValue(key=f"k{number}", value=AnyValue(int_value=number)) for number in range(100)]
    again = KeyValue(key="k7", value=AnyValue(string_value="last"))
    (row,) = rows_of(otlp.decode([with_attributes(*keys, again)], CONTEXT).decoded.batch)
    assert row["attributes"] == {"k7": "last"}
    assert len(row["attributes_number"]) == 99


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x0a\x82\x00hi", {"attributes": {"a": "hi"}}),
        (b"\x0a\x02no\x0a\x02hi", {"attributes": {"a": "hi"}}),
        (b"\x0a\x02no\x18\x05", {"attributes_number": {"a": 5.0}}),
        (b"\x18\x85\x00", {"attributes_number": {"a": 5.0}}),
        (b"\x10\x02", {"attributes_bool": {"a": True}}),
        (b"\xf8\x07\x01\x21" + b"\x00" * 7 + b"\x40", {"attributes_number": {"a": 2.0}}),
        (b"\xf8\x07\x01", {"attributes": {"a": ""}}),
        (b"\x0a\x00", {"attributes": {"a": ""}}),
    ],
)
def test_values_written_unusually_mean_the_same(raw: bytes, expected: dict[str, dict[str, object]]) -> None:
    def field(tag: int, content: bytes) -> bytes:
        return bytes([tag, len(content)]) + content

    pair = field(0x0A, b"a") + field(0x12, raw)
    payload = field(0x0A, field(0x12, field(0x12, field(0x32, pair))))
    assert ExportLogsServiceRequest.FromString(payload).resource_logs
    (row,) = rows_of(otlp.decode([payload], CONTEXT).decoded.batch)
    maps = {key: value for key, value in row.items() if key.startswith("attributes") and value}
    assert maps == expected


def test_record_without_any_time_is_flagged() -> None:
    observed_only = LogRecord(observed_time_unix_nano=NOW - 7)
    batch = otlp.decode([request(LogRecord(), observed_only).SerializeToString()], CONTEXT).decoded.batch
    assert batch.column("time").cast(pa.int64()).to_pylist() == [NOW, NOW - 7]
    assert batch.column("time_flags").to_pylist() == [TimeFlag.MISSING, 0]
