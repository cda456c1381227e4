"""Loki's entries as lines of JSON: labels in their textual form, what names service and host, both encodings alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall.stored.v1 import loki_shadow_pb2
from heimdall_server.edge.http import loki_entries
from heimdall_server.edge.http.messages import RefusedError

NAMES = st.from_regex(r"\A[a-z_][a-z0-9_]{0,5}\Z")
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
LABELS = st.dictionaries(NAMES, TEXTS, max_size=3)
ENTRIES = st.lists(st.tuples(st.integers(1, 2**62), TEXTS, LABELS), max_size=4)
STREAMS = st.lists(st.tuples(LABELS, ENTRIES), max_size=3)


def members(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads("{" + text.removesuffix(",") + "}")
    return value


@given(STREAMS)
@settings(max_examples=60, deadline=None)
def test_both_encodings_give_the_same_lines(streams: Any) -> None:
    push = loki_shadow_pb2.LokiPush()
    for labels, entries in streams:
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        stream = push.streams.add(labels=f"{{{text}}}")
        for time_ns, line, own in entries:
            entry = stream.entries.add(line=line.encode())
            entry.timestamp.seconds, entry.timestamp.nanos = divmod(time_ns, 1_000_000_000)
            for name, value in own.items():
                entry.structured_metadata.add(name=name, value=value)
    document = {
        "streams": [
            {"stream": labels, "values": [[str(time_ns), line, own] for time_ns, line, own in entries]}
            for labels, entries in streams
        ]
    }
    by_protobuf = loki_entries.to_documents(loki_entries.of_protobuf(push.SerializeToString()))
    by_json = loki_entries.to_documents(loki_entries.of_json(json.dumps(document).encode()))
    assert by_protobuf == by_json
    lines = by_json.decode().split("\n")[:-1]
    flat = [(time_ns, line, {**labels, **own}) for labels, entries in streams for time_ns, line, own in entries]
    assert len(lines) == len(flat)
    for text, (time_ns, line, labels) in zip(lines, flat, strict=True):
        found = json.loads(text)
        assert (found["time"], found["msg"]) == (str(time_ns), line)
        for name, value in labels.items():
            assert found["label." + name if name in ("time", "msg") else name] == value


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ('{app="shop"}', {"app": "shop"}),
        ('{job="varlogs",instance="web-1:9080"}', {"service": "varlogs", "host": "web-1:9080"}),
        ('{service_name="a", app="b"}', {"app": "b"}),
        ('{container="c", detected_level="warn"}', {"service": "c", "level": "warn"}),
        ('{a="x\\"y\\\\z\\n", b=`raw "q"`}', {"a": 'x"y\\z\n', "b": 'raw "q"'}),
        ('{a = "1" , b="{c=\\"2\\"}"}', {"a": "1", "b": '{c="2"}'}),
        ("{}", {}),
        ("", {}),
    ],
)
def test_labels_are_read_and_told_as_the_decoder_knows_them(labels: str, expected: dict[str, str]) -> None:
    found = members(loki_entries.labels_of(labels))
    assert {name: found.get(name) for name in expected} == expected
    if 'app="b"' in labels:
        assert "service" not in found


def test_too_many_entries_and_labels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"streams": [{"stream": {"a": "x" * 100}, "values": [["1", ""]] * 20}]}).encode()
    monkeypatch.setattr(loki_entries, "ENTRIES_MAX", 10)
    with pytest.raises(RefusedError, match="entries"):
        loki_entries.to_documents(loki_entries.of_json(body))
    monkeypatch.setattr(loki_entries, "ENTRIES_MAX", 100)
    monkeypatch.setattr(loki_entries, "SPREAD_BYTES_MAX", 500)
    with pytest.raises(RefusedError, match="labels"):
        loki_entries.to_documents(loki_entries.of_json(body))
