"""Whatever bytes come in: a door reads them or refuses them, and never fails in another way."""

from __future__ import annotations

import contextlib
import json

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heimdall_server.decode import documents
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.edge.http import bodies, bulk, loki_entries
from heimdall_server.edge.http.messages import RefusedError
from heimdall_server.edge.http.otlp_json import to_protobuf

CONTEXT = DecodeContext(source="elastic/a", dataset="logs", observed_time_ns=1_800_000_000_000_000_000)
JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["streams", "stream", "values", "resourceLogs", "scopeLogs", "logRecords", "body", "attributes", "key",
                 "value", "stringValue", "arrayValue", "traceId", "timeUnixNano", "x"]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())  # fmt: skip
LINES = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b" ")),
        st.sampled_from(
            [b'{"index":{}}', b'{"create":{"_index":"a"}}', b'{"delete":{"_id":"1"}}', b"{}", b'{"a":"\xff"}', b""]
        ),
    ),
    max_size=8,
).map(b"\n".join)


@given(LINES)
@example(b'{"index":{}}\n\xff')
@settings(max_examples=150, deadline=None)
def test_bulk(body: bytes) -> None:
    try:
        found = bulk.split(body, "index")
    except RefusedError:
        return
    decoded = documents.decode([found.documents], CONTEXT)
    assert decoded.counts == [len(found.item_of)]
    answer = json.loads(bulk.answer(found, decoded.decoded.errors))
    assert len(answer["items"]) == len(found.kind_of)
    bad = sum(next(iter(item.values()))["status"] != 201 for item in answer["items"])
    assert bad == len(decoded.decoded.errors) + len(found.kind_of) - len(found.item_of)


@given(st.one_of(JSONS, st.binary(max_size=40)))
@settings(max_examples=200, deadline=None)
def test_otlp_json(body: bytes) -> None:
    with contextlib.suppress(RefusedError):
        to_protobuf(body)


@given(st.one_of(JSONS, st.binary(max_size=40)))
@settings(max_examples=200, deadline=None)
def test_loki_json(body: bytes) -> None:
    try:
        lines = loki_entries.to_documents(loki_entries.of_json(body))
    except RefusedError:
        return
    assert not documents.decode([lines], CONTEXT).decoded.errors


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_loki_protobuf(body: bytes) -> None:
    try:
        lines = loki_entries.to_documents(loki_entries.of_protobuf(body))
    except RefusedError:
        return
    assert not documents.decode([lines], CONTEXT).decoded.errors


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate", "zstd", "snappy"]))
@example(b"", "snappy")
@example(b"\xff\xff\xff\xff\x0f", "snappy")
@example(bytes(pa.compress(bytes(2000), codec="snappy", asbytes=True)), "snappy")
@settings(max_examples=200, deadline=None)
def test_encodings(body: bytes, encoding: str) -> None:
    with contextlib.suppress(RefusedError):
        assert len(bodies._inflate(body, encoding, 1000)) <= 1000
