"""OTLP's JSON must mean what protobuf's own reader says it means, but for ids and enums, where OTLP has its own rules."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb

from heimdall_server.edge.http.messages import RefusedError
from heimdall_server.edge.http.otlp_json import to_protobuf

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.one_of(
    st.builds(lambda v: {"stringValue": v}, TEXTS),
    st.builds(lambda v: {"boolValue": v}, st.booleans()),
    st.builds(lambda v: {"intValue": str(v)}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda v: {"intValue": v}, st.integers(-(2**53), 2**53)),
    st.builds(lambda v: {"doubleValue": v}, st.floats(allow_nan=False, allow_infinity=False)),
    st.just({"doubleValue": "Infinity"}),
    st.builds(lambda v: {"bytesValue": base64.b64encode(v).decode()}, st.binary(max_size=6)),
    st.just({}),
)


def _attributes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.builds(lambda k, v: {"key": k, "value": v}, TEXTS, values), max_size=3)


VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda v: {"arrayValue": {"values": v}}, st.lists(inner, max_size=3)),
        st.builds(lambda v: {"kvlistValue": {"values": v}}, _attributes(inner)),
    ),
    max_leaves=8,
)
NANOS = st.one_of(st.integers(0, 2**63), st.integers(0, 2**63).map(str))
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "timeUnixNano": NANOS,
        "observedTimeUnixNano": NANOS,
        "severityNumber": st.integers(0, 24),
        "severityText": TEXTS,
        "body": VALUES,
        "attributes": _attributes(VALUES),
        "droppedAttributesCount": st.integers(0, 9),
        "flags": st.integers(0, 2**32 - 1),
        "traceId": st.binary(min_size=16, max_size=16).map(bytes.hex),
        "spanId": st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex().upper()),
        "eventName": TEXTS,
    },
)
REQUESTS = st.fixed_dictionaries(
    {
        "resourceLogs": st.lists(
            st.fixed_dictionaries(
                {
                    "resource": st.fixed_dictionaries({"attributes": _attributes(VALUES)}),
                    "scopeLogs": st.lists(
                        st.fixed_dictionaries(
                            {
                                "scope": st.fixed_dictionaries({"name": TEXTS}, optional={"version": TEXTS}),
                                "logRecords": st.lists(RECORDS, max_size=3),
                            },
                            optional={"schemaUrl": TEXTS},
                        ),
                        max_size=2,
                    ),
                }
            ),
            max_size=2,
        )
    }
)


def reference(document: Any) -> pb.ExportLogsServiceRequest:
    """As protobuf's reader has it, once ids are in its form."""
    document = json.loads(json.dumps(document))
    for resource_logs in document["resourceLogs"]:
        for scope_logs in resource_logs["scopeLogs"]:
            for record in scope_logs["logRecords"]:
                for name in {"traceId", "spanId"} & set(record):
                    record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
    return json_format.ParseDict(document, pb.ExportLogsServiceRequest())


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_it_reads_what_protobufs_own_reader_reads(document: Any) -> None:
    found = pb.ExportLogsServiceRequest.FromString(to_protobuf(json.dumps(document).encode()))
    assert found == reference(document)


def record_of(**fields: Any) -> Any:
    document = {"resourceLogs": [{"scopeLogs": [{"logRecords": [fields]}]}]}
    read = pb.ExportLogsServiceRequest.FromString(to_protobuf(json.dumps(document).encode()))
    return read.resource_logs[0].scope_logs[0].log_records[0]


def test_what_is_unknown_or_null_is_passed_over() -> None:
    found = record_of(timeUnixNano="5", newField={"a": [1]}, severityText=None, time_unix_nano="7")
    assert (found.time_unix_nano, found.severity_text) == (5, "")


def test_an_enums_name_and_url_safe_base64_are_taken_too() -> None:
    assert record_of(severityNumber="SEVERITY_NUMBER_WARN").severity_number == 13
    assert record_of(body={"bytesValue": "-_8"}).body.bytes_value == b"\xfb\xff"


@pytest.mark.parametrize(
    "fields",
    [
        {"timeUnixNano": "now"}, {"timeUnixNano": -1}, {"timeUnixNano": 1.5}, {"timeUnixNano": True},
        {"traceId": "xyz"}, {"traceId": 5}, {"severityText": 5}, {"severityNumber": "LOUD"}, {"body": "text"},
        {"body": {"boolValue": "yes"}}, {"body": {"intValue": str(2**63)}}, {"attributes": {"a": 1}},
        {"body": {"bytesValue": "!"}}, {"body": {"stringValue": "\ud800"}},
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_refuses_the_request_without_telling_it(fields: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        record_of(**fields)
    assert caught.value.status == 400
    assert not any(str(value) in caught.value.sentence for value in ("xyz", "LOUD", "now"))
