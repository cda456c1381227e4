from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.decode import json_flat, json_lines
from heimdall_server.decode.json_layouts import LAYOUTS_MAX, Layouts, layout_of
from heimdall_server.decode.mapping import target_of
from heimdall_server.decode.ndjson import complete_length, decode
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.records import RECORD_BYTES_MAX
from tests.support import json_reference
from tests.support.decoding import CONTEXT, attributes, check, context, ns, rows

FORMAT = Format(FormatKind.NDJSON)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_layouts", Layouts())


def read(text: str | bytes) -> Decoded:
    decoded = decode(text.encode() if isinstance(text, str) else text, FORMAT, CONTEXT)
    check(decoded)
    return decoded


def fields(text: str | bytes) -> dict[str, Any]:
    decoded = read(text)
    assert not decoded.errors
    (record,) = attributes(decoded.batch)
    return record


def test_core_fields_come_from_the_names_that_people_use() -> None:
    line = {
        "@timestamp": "2024-03-01T12:00:00Z", "lvl": "Warning", "message": "hello", "app": "api", "hostname": "h1",
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331",
    }  # fmt: skip
    (record,) = read(json.dumps(line)).batch.to_pylist()
    assert record["time"] == dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
    assert (record["severity"], record["severity_text"]) == (13, "Warning")
    assert (record["body"], record["service"], record["host"]) == ("hello", "api", "h1")
    assert record["trace_id"].hex() == line["traceId"]
    assert record["span_id"].hex() == line["spanId"]
    assert not record["attributes"]


def test_the_first_of_several_names_wins_and_the_others_stay_attributes() -> None:
    text = '{"ts":1,"time":"2024-03-01","message":"second","msg":"first"}\n{"ts":1709294400,"message":"alone"}'
    batch = read(text).batch
    assert batch["body"].to_pylist() == ["first", "alone"]
    assert attributes(batch) == [{"ts": 1.0, "message": "second"}, {}]
    assert batch["time"].cast(pa.int64()).to_pylist()[1] == 1709294400 * 10**9


def test_defaults_come_from_the_context() -> None:
    decoded = decode(
        b'{"a":1}\n{"service":"own"}\n',
        FORMAT,
        context(service="api", host="h", dump="d", first_record_number=7, tlp="amber"),
    )
    batch = check(decoded)
    assert batch["service"].to_pylist() == ["api", "own"]
    assert batch["record_number"].to_pylist() == [7, 8]
    assert set(batch["tlp"].to_pylist()) == {"amber"}
    assert set(batch["source"].to_pylist()) == {CONTEXT.source}


def test_each_value_goes_to_the_map_of_its_type() -> None:
    batch = read('{"k":1}\n{"k":"1"}\n{"k":true}\n{"k":null}\n{"k":[1, {"a":null}]}\n{"k":{}}\n').batch
    assert attributes(batch) == [{"k": 1.0}, {"k": "1"}, {"k": True}, {}, {"k": '[1, {"a":null}]'}, {"k": "{}"}]


def test_nested_objects_become_dotted_names() -> None:
    text = '{"http":{"status":200,"request":{"method":"GET","headers":{"x":["y"]}}},"http.path":"/"}'
    assert fields(text) == {
        "http.status": 200.0,
        "http.request.method": "GET",
        "http.request.headers.x": '["y"]',
        "http.path": "/",
    }


def test_nested_service_and_host_names_are_core_fields() -> None:
    (record,) = read('{"service":{"name":"api","version":"1"},"host":{"name":"h1"}}').batch.to_pylist()
    assert (record["service"], record["host"]) == ("api", "h1")
    assert record["attributes"] == [("service.version", "1")]


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("1.5", "1.5"),
        ("7", "7"),
        ("true", "true"),
        ('{"a": [1]}', '{"a": [1]}'),
        ("[1,2]", "[1,2]"),
        ("null", ""),
        ("{}", "{}"),
    ],
)
def test_a_body_that_is_no_text_is_json_text(value: str, body: str) -> None:
    decoded = read(f'{{"msg":{value}}}')
    assert decoded.batch["body"].to_pylist() == [body]
    assert attributes(decoded.batch) == [{}]


def test_the_last_of_a_repeated_key_counts() -> None:
    assert fields('{"a":1,"b":2,"a":"x"}') == {"a": "x", "b": 2.0}
    assert fields('{"a":{"b":1},"a.b":2}') == {"a.b": 2.0}
    assert fields('{"a":1,"\\u0061":2}') == {"a": 2.0}
    assert fields('{"a":1,"a":null}') == {}


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("9007199254740992", 2.0**53), ("9007199254740993", "9007199254740993"), ("-9007199254740993", "-9007199254740993"),
        ("1e400", "1e400"), ("-1E400", "-1E400"), ("1e-400", 0.0), ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e20", 1e20), ("-0", 0.0), ("0.1", 0.1), ("-1.5E+3", -1500.0),
    ],
)  # fmt: skip
def test_numbers_keep_all_their_digits(number: str, kept: float | str) -> None:
    assert fields(f'{{"n":{number}}}') == {"n": kept}


def test_escapes_are_undone() -> None:
    assert fields(r'{"a\"b":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000"}') == {'a"b': '"\\/\b\f\n\r\té😀\0'}
    assert fields(r'{"a":"\\","b":"\\\"","c":"C:\\new"}') == {"a": "\\", "b": '\\"', "c": "C:\\new"}


def test_marks_inside_strings_mean_nothing() -> None:
    assert fields('{"a":"}{][,:","b":"{\\"c\\":1}"}') == {"a": "}{][,:", "b": '{"c":1}'}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"12", "not a JSON object but a number"),
        (b'"x"', "not a JSON object but a string"),
        (b"[1]", "not a JSON object but an array"),
        (b"null", "not a JSON object but null"),
        (b"plain words", "not JSON at character 1"),
        (b'{"a":1', "not JSON at character 7"),
        (b'{"a":1}}', "extra data"),
        (b'{"a":1}{"b":2}', "extra data"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a" 1}', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":.5}', "not JSON"),
        (b'{"a":+1}', "not JSON"),
        (b'{"a":NaN}', "NaN isn't a JSON number"),
        (b'{"a":-Infinity}', "-Infinity isn't a JSON number"),
        (b'{"a":True}', "not JSON"),
        (b'{"a":[1,}', "not JSON"),
        (b'{"a":[1}', "not JSON"),
        (b'{"a":{]}', "not JSON"),
        (b'{"a":["x":1]}', "not JSON"),
        (b"{a:1}", "not JSON"),
        (b'{"a":"x}', "not JSON"),
        (b'{"a":"x\\"}', "not JSON"),
        (b'{"a":"x"}\\', "not JSON"),
        (b'{"a":"\\x"}', "not JSON"),
        (b'{"a":"\\u12"}', "not JSON"),
        (b'{"a":"\\ud800"}', "half of a surrogate pair"),
        (b'{"a":"\\udc00\\ud800"}', "half of a surrogate pair"),
        (b'{"a":"x\x00y"}', "not JSON"),
        (b'{"a":"x\ty"}', "not JSON"),
        (b'\x00{"a":1}', "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64 levels"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 64 levels"),
        (b"[" * 100_000, "nested deeper than 64 levels"),
    ],
)  # fmt: skip
def test_a_malformed_line_costs_only_itself(line: bytes, reason: str) -> None:
    decoded = read(b'{"before":1}\n' + line + b'\n\n{"after":"x"}\n')
    assert attributes(decoded.batch) == [{"before": 1.0}, {"after": "x"}]
    (error,) = decoded.errors
    assert (error.row, error.offset, error.raw) == (1, 13, line)
    assert reason in error.reason
    assert decoded.record_count == 3


def test_a_reason_holds_nothing_of_the_record() -> None:
    decoded = read(b'{"password": "hunter2", hunter2}\n{"hunter2": hunter2}\n"hunter2"\n')
    assert len(decoded.errors) == 3
    assert not any("hunter2" in error.reason for error in decoded.errors)


def test_of_very_many_malformed_lines_the_first_are_explained_and_all_are_kept() -> None:
    decoded = read(b"nope\n" * 1500 + b'{"a":1}\n')
    assert len(decoded.errors) == 1500
    assert {error.raw for error in decoded.errors} == {b"nope"}
    assert [error.row for error in decoded.errors] == list(range(1500))
    assert decoded.errors[-1].reason == "malformed, as the 1000 records refused before it"


def test_a_record_over_the_limit_is_refused_with_its_size() -> None:
    decoded = read(b'{"a":"' + b"x" * RECORD_BYTES_MAX + b'"}\n{"b":1}\n')
    (error,) = decoded.errors
    assert f"{RECORD_BYTES_MAX + 8} bytes" in error.reason
    assert len(error.raw) == RECORD_BYTES_MAX
    assert attributes(decoded.batch) == [{"b": 1.0}]


def test_sixty_four_levels_are_fine() -> None:
    assert list(fields('{"a":' * 64 + "1" + "}" * 64)) == [".".join("a" * 64)]


def test_blank_lines_and_line_ends_of_windows_are_no_records() -> None:
    decoded = read(b'\r\n  \n{"a":1}\r\n\t\n\n{"a":2}')
    assert attributes(decoded.batch) == [{"a": 1.0}, {"a": 2.0}]
    assert not decoded.errors


def test_a_byte_order_mark_is_skipped() -> None:
    assert fields(b'\xef\xbb\xbf{"a":1}\n') == {"a": 1.0}


@pytest.mark.parametrize("chunk", [b"", b"\n", b"  \r\n\n"])
def test_nothing_is_no_record(chunk: bytes) -> None:
    assert read(chunk).record_count == 0


def test_bad_rows_keep_their_record_numbers() -> None:
    decoded = decode(b'{"a":1}\nbad\n\n{"a":2}\n', FORMAT, context(dump="d", first_record_number=10))
    assert decoded.batch["record_number"].to_pylist() == [10, 12]
    assert [error.row for error in decoded.errors] == [1]


def test_a_record_of_ten_thousand_keys_loses_none() -> None:
    record = {f"k{number}": number for number in range(10_000)}
    (row,) = read(json.dumps(record)).batch.to_pylist()
    assert len(row["attributes_number"]) == 128
    assert dict(row["attributes_number"]) | json.loads(row["overflow"]) == record


def test_an_object_whose_members_could_be_no_attributes_is_kept_whole() -> None:
    deep = {"x": {"y": 1, "z": {}}, "l": [1]}
    record = {"k" * 256: deep, "a": {"b" * 254: deep, "c": 1}, "end": True}
    (row,) = read(json.dumps(record, separators=(",", ":"))).batch.to_pylist()
    assert row["attributes_number"] == [("a.c", 1.0)]
    assert row["attributes_bool"] == [("end", True)]
    assert {key: json.loads(value) for key, value in row["attributes"]} == {"k" * 256: deep, "a." + "b" * 254: deep}


def test_long_names_over_many_members_do_not_multiply() -> None:
    record = {"k" * 10_000: {f"m{number}": number for number in range(50_000)}}
    (row,) = read(json.dumps(record)).batch.to_pylist()
    assert len(row["overflow"]) < 3 * len(json.dumps(record))


def test_long_keys_and_values_go_to_overflow() -> None:
    record = {"k" * 257: 'a"b', "v": "é" * 20_000, "fine": "k" * 256, "b" * 300: True}
    (row,) = read(json.dumps(record)).batch.to_pylist()
    assert row["attributes"] == [("fine", "k" * 256)]
    assert json.loads(row["overflow"]) == {key: value for key, value in record.items() if key != "fine"}


def test_a_time_that_cannot_be_used_is_kept() -> None:
    batch = read('{"time":"soon"}\n{"ts":99999999999999}\n{"time":true}\n{"time":"9999-01-01T00:00:00Z"}').batch
    assert [record["time.original"] for record in attributes(batch)] == [
        "soon",
        "99999999999999",
        "true",
        "9999-01-01T00:00:00Z",
    ]
    assert set(batch["time"].cast(pa.int64()).to_pylist()) == {CONTEXT.observed_time_ns}


@pytest.mark.parametrize(
    ("fields_", "severity", "text"),
    [
        ({"level": 30}, 9, "30"), ({"level": 10}, 1, "10"), ({"severity": 10}, 10, ""), ({"severity": 17}, 17, ""),
        ({"level": "error"}, 17, "error"), ({"level": " INFO2 "}, 10, " INFO2 "), ({"level": "50"}, 17, "50"), ({"level": "odd"}, 0, "odd"),
        ({"severity": 9, "severity_text": "Fyi"}, 9, "Fyi"), ({"level": 99}, 0, "99"), ({"level": True}, 0, "true"), ({"severity": 0}, 0, ""),
        ({"severity_text": "fatal"}, 21, "fatal"), ({"level": ""}, 0, ""),
    ],
)  # fmt: skip
def test_levels_become_severities(fields_: dict[str, Any], severity: int, text: str) -> None:
    (record,) = read(json.dumps(fields_)).batch.to_pylist()
    assert (record["severity"], record["severity_text"]) == (severity, text)
    assert not record["attributes"]


def test_ids_that_are_none_stay_as_attributes() -> None:
    text = '{"trace_id":"xyz","span_id":7}\n{"trace_id":"0AF7651916CD43DD8448EB211C80319C","span_id":"zz"}'
    batch = read(text).batch
    assert attributes(batch) == [{"trace_id": "xyz", "span_id": "7"}, {"span_id": "zz"}]
    assert batch["trace_id"].to_pylist()[1].hex() == "0af7651916cd43dd8448eb211c80319c"


def dense(count: int, **extra: Any) -> bytes:
    lines = [
        {
            "time": ns(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)) + number,
            "msg": f"m{number}",
            "n": number,
            "f": number / 4,
            "b": number % 2 == 0,
        }
        | extra
        for number in range(count)
    ]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()


@pytest.mark.parametrize(
    "odd",
    [
        b'{"new":1}', b'{"n":"text"}', b'{"n":1.5}', b'{"f":9007199254740993}', b'{"f":NaN}', b'{"f":1e400}', b'{"n":1,"n":2}', b"", b"[1]",
        b'{"msg":"a"}{"msg":"b"}', b'{"msg":"\xff"}', b'{"msg":"x\x00"}', b' {"msg":"x"} ', b'{"n":9223372036854775808}', b'{"n":9007199254740993}',
        b'{"msg":"\\ud800"}', b'{"msg":{"a":1}}', b'{"msg":\n"x"}', b'{"msg":"\\n"}', b"{}", b'{"n":-0}', b'{"f":12345678901234567890}',
    ],
)  # fmt: skip
def test_a_remembered_layout_changes_nothing_but_the_speed(odd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = dense(100) + odd + b"\n" + dense(50)
    expected = read(chunk)
    monkeypatch.setattr(json_lines, "_layouts", Layouts())
    read(dense(200))
    assert json_lines._layouts.recall((CONTEXT.dataset, CONTEXT.source))
    found = read(chunk)
    assert rows(found.batch) == rows(expected.batch)
    assert found.errors == expected.errors
    again = read(chunk)
    assert rows(again.batch) == rows(expected.batch)


def test_layouts_are_forgotten_beyond_their_bound_and_paused_after_failures() -> None:
    layouts = Layouts(sources_max=2)
    layout = layout_of(b'{"a":"some text"}')
    assert layout is not None
    for name in "abc":
        layouts.learn(("logs", name), [layout], used=(), failed=False)
    assert layouts.recall(("logs", "a")) == []
    assert layouts.recall(("logs", "c")) == [layout]
    layouts.learn(("logs", "c"), (), used=(), failed=True)
    assert layouts.recall(("logs", "c")) is None
    assert layouts.recall(("logs", "c")) == [layout]
    others = [layout_of(b'{"some key %d":1}' % number) for number in range(LAYOUTS_MAX)]
    layouts.learn(("logs", "c"), [other for other in others if other], used=(), failed=False)
    assert layout not in (layouts.recall(("logs", "c")) or [layout])


@pytest.mark.parametrize(
    "line",
    [b'{"a":{"b":1},"c":"ddd"}', b'{"a":[1],"bbbbbb":"c"}', b'{"a":"1","a":"some text"}', b'{"\\u0061":"some text"}', b"{}", b'{"a":1}'],
)  # fmt: skip
def test_what_is_nested_repeated_escaped_or_tiny_has_no_layout(line: bytes) -> None:
    assert layout_of(line) is None


def test_each_statement_of_a_source_gets_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [f'{{"msg": "user {number} came", "n": {number}}}' for number in range(300)]
    second = [f'{{"msg": "took {number} \\n ms", "path": "/\\u00e9", "ok": true}}\r' for number in range(300)]
    chunk = "\n".join(line for pair in zip(first, second, strict=True) for line in pair)
    expected = read(chunk)
    assert len(json_lines._layouts.recall((CONTEXT.dataset, CONTEXT.source)) or ()) == 2
    monkeypatch.setattr(json_lines, "_scan", None)
    assert rows(read(chunk).batch) == rows(expected.batch)


NAMES = st.one_of(st.sampled_from(["a", "b", "a.b", "c d", "", "é", 'q"', "\\", "a\n"]), st.text(max_size=6))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12), st.sampled_from(["}", '"', "\\", ",", ":", "\\u0000", "\x00\x1f"])
)  # fmt: skip
LAYOUTS = (
    ("a", "msg", "level"), ("a", "msg", "other"), ("msg", "a", "b.c", "time"), ("host",), ("", "é", "message", "msg"), ("aaaaaaaaaaa", "b"),
)  # fmt: skip


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A line of one of few layouts, and perhaps the same line damaged."""
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    names = draw(st.sampled_from(LAYOUTS))
    kinds = draw(
        st.sampled_from([SCALARS, st.text(), st.integers(0, 999), st.sampled_from([0, 0.5, 10**15, 2**53, -1])])
    )
    record = {name: draw(kinds) for name in names}
    good = json.dumps(record, separators=(comma, colon), ensure_ascii=draw(st.booleans())).encode(
        errors="surrogatepass"
    )
    good += draw(st.sampled_from([b"", b"\r", b" "]))
    if draw(st.integers(0, 2)):
        return good, good
    at = draw(st.integers(0, len(good)))
    damage = draw(
        st.sampled_from(
            [
                b'"',
                b"\\",
                b"{",
                b"}",
                b"[",
                b",",
                b":",
                b"0",
                b"1",
                b".",
                b"/",
                b" ",
                b"\r",
                b"\t",
                b"e",
                b"n",
                b"\xff",
                b"",
            ]
        )
    )
    return good, good[:at] + damage + good[at + draw(st.integers(0, 2)) :]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(written(), min_size=1, max_size=12))
def test_lines_read_by_layout_are_what_their_tokens_say(pairs: list[tuple[bytes, bytes]]) -> None:
    chunk = b"\n".join(damaged for _, damaged in pairs).removeprefix(b"\xef\xbb\xbf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_layouts", Layouts())
        expected = decode(chunk, FORMAT, CONTEXT)
        layouts = Layouts()
        known = [layout for layout in (layout_of(good) for good, _ in pairs) if layout is not None]
        layouts.learn((CONTEXT.dataset, CONTEXT.source), known, used=(), failed=False)
        patch.setattr(json_lines, "_layouts", layouts)
        patch.setattr(json_flat, "_GROUP_MIN", 1)
        patch.setattr(json_flat, "_BLOCK_BYTES", 100)
        found = decode(chunk, FORMAT, CONTEXT)
    check(found)
    assert found.errors == expected.errors
    assert rows(found.batch) == rows(expected.batch)


TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
RECORDS = st.dictionaries(NAMES.filter(lambda name: target_of(name) is None), TREES, max_size=6)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    ascii_, indent = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "  :  ")]))
    text = json.dumps(draw(RECORDS), ensure_ascii=ascii_, separators=indent).encode(errors="surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        damage = draw(
            st.one_of(
                st.binary(max_size=2),
                st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"1", b" ", b"\r", b"e", b"."]),
            )
        )
        text = text[:at] + damage + text[at + draw(st.integers(0, 2)) :]
    return text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines(), max_size=6))
def test_decoding_agrees_with_a_plain_reading(records: list[bytes]) -> None:
    chunk = b"\n".join(records)
    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
    decoded = decode(chunk, FORMAT, CONTEXT)
    batch = check(decoded)
    expected, bad, offset = [], [], 0
    for line in chunk.split(b"\n"):
        if line.strip(b" \t\r"):
            try:
                expected.append(json_reference.read(line))
            except json_reference.BadRecordError:
                bad.append((offset, line))
        offset += len(line) + 1
    assert [(error.offset, error.raw) for error in decoded.errors] == bad
    found = attributes(batch)
    core = {"severity_text", "flags"}
    for record, fields_ in zip(found, expected, strict=True):
        wanted = {path: value for path, value in fields_.items() if target_of(path) is None}
        assert {
            path: value
            for path, value in record.items()
            if path not in core and path != "time.original" and target_of(path) is None
        } == {path: _told(record.get(path), value) for path, value in wanted.items()}


def _told(found: Any, expected: Any) -> Any:
    if isinstance(expected, tuple) and isinstance(found, str):
        assert json.loads(found) == expected[1]
        return found
    return expected


@settings(max_examples=100, deadline=None)
@given(st.lists(lines(), max_size=5), st.data())
def test_any_split_of_a_stream_decodes_to_the_same_records(records: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(records).removeprefix(b"\xef\xbb\xbf")
    whole = decode(stream, FORMAT, CONTEXT)
    cut = data.draw(st.integers(0, len(stream)))
    length = complete_length(stream[:cut], final=False)
    parts = [decode(part, FORMAT, CONTEXT) for part in (stream[:length], stream[length:])]
    assert [row for part in parts for row in rows(part.batch)] == rows(whole.batch)
    assert [error.raw for part in parts for error in part.errors] == [error.raw for error in whole.errors]
    assert complete_length(stream, final=True) == len(stream)
