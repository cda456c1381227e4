from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.decode import ndjson
from heimdall_server.decode.json_document import complete_length, decode, resolve_options
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from tests.support.decoding import CONTEXT, attributes, check, context, rows

RECORDS = [{"a": 1, "b": '}]{["\\', "c": {"d": 2}}, {"a": 2}, {"a": 3, "l": [1, {"z": []}], "t": "one  two\t\n"}]
FOUND = [{"a": 1.0, "b": '}]{["\\', "c.d": 2.0}, {"a": 2.0}, {"a": 3.0, "l": '[1,{"z":[]}]', "t": "one  two\t\n"}]


def resolved(text: str | bytes) -> Format:
    return Format(FormatKind.JSON, resolve_options(text.encode() if isinstance(text, str) else text))


def read(text: str | bytes) -> Decoded:
    chunk = text.encode() if isinstance(text, str) else text
    decoded = decode(chunk, resolved(chunk), CONTEXT)
    check(decoded)
    return decoded


def fed(chunk: bytes, size: int) -> tuple[list[dict[str, Any]], list[tuple[str, bytes]]]:
    """Decode piece by piece, as a stream of `size` bytes at a time would be."""
    format_ = resolved(chunk)
    records: list[dict[str, Any]] = []
    errors: list[tuple[str, bytes]] = []
    buffer, at_start = b"", True
    for end in range(size, len(chunk) + size, size):
        buffer += chunk[end - size : end]
        length = complete_length(buffer, format_, at_start=at_start, final=end >= len(chunk))
        if length:
            decoded = decode(buffer[:length], format_, CONTEXT)
            records += rows(decoded.batch)
            errors += [(error.reason, error.raw) for error in decoded.errors]
            buffer, at_start = buffer[length:], False
    assert not buffer
    return records, errors


DOCUMENTS = {
    "array": RECORDS,
    "wrapped": {"total": 3, "records": RECORDS, "next": None},
    "wrapped in capitals": {"Records": RECORDS},
    "wrapped twice": {"took": 5, "hits": {"total": {"value": 3}, "hits": RECORDS}},
    "beside other lists": {"data": {"x": [[1], [{"y": 1}]]}, "meta": [{"a": 9}], "items": RECORDS, "more": [{"a": 9}]},
}


@pytest.mark.parametrize("indent", [None, 2, 0])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_records_are_found_however_the_document_is_laid_out(name: str, indent: int | None) -> None:
    separators = (",", ":") if indent is None else None
    decoded = read(json.dumps(DOCUMENTS[name], indent=indent, separators=separators))
    assert attributes(decoded.batch) == FOUND
    assert not decoded.errors


def test_objects_one_after_another_are_records() -> None:
    assert attributes(read("".join(json.dumps(record, indent=1) for record in RECORDS)).batch) == FOUND
    assert attributes(read("\n".join(json.dumps(record, separators=(",", ":")) for record in RECORDS)).batch) == FOUND


def test_a_single_object_is_one_record() -> None:
    decoded = read(json.dumps({"msg": "x", "items": [{"a": 1}], "code": 5}, indent=2))
    assert decoded.batch["body"].to_pylist() == ["x"]
    assert attributes(decoded.batch) == [{"items": '[{"a":1}]', "code": 5.0}]


@pytest.mark.parametrize(
    ("text", "depth", "wrapper"),
    [
        ("[{}]", "1", ""), ("  [1]", "1", ""), ('{"a":1}', "0", ""), ('{"records":[', "2", "records"), ('{"data":{"items":[{', "3", "data.items"),
        ('{"tags":[{"a":1}],"msg":"x"}', "0", ""), ('{"records":[1,2]}', "0", ""), ('{"level":"x","data":[{"a":1}]}', "0", ""), ("", "0", ""), ("garbage", "0", ""),
        ('{"x":"\\"data\\":[{","y":1}', "0", ""),
    ],
)  # fmt: skip
def test_options_say_where_the_records_are(text: str, depth: str, wrapper: str) -> None:
    assert resolve_options(text.encode()) == {"depth": depth, "wrapper": wrapper}


@pytest.mark.parametrize("text", ["", "  \n", "[]", "[ ]", '{"records":[]}', "[\n]\n"])
def test_an_empty_document_has_no_records(text: str) -> None:
    assert read(text).record_count == 0


def test_elements_that_are_no_objects_are_row_errors() -> None:
    chunk = b'[1, {"a":1}, "x", [2], {"a":2,}, {"a":3}, null]'
    decoded = read(chunk)
    assert attributes(decoded.batch) == [{"a": 1.0}, {"a": 3.0}]
    assert [(error.row, error.raw) for error in decoded.errors] == [
        (0, b"1"),
        (2, b'"x"'),
        (3, b"[2]"),
        (4, b'{"a":2,}'),
        (6, b"null"),
    ]
    assert all(chunk[error.offset :].startswith(error.raw) for error in decoded.errors)


def test_an_unfinished_document_keeps_what_is_whole() -> None:
    decoded = read(b'[{"a":1},{"a":"x')
    assert attributes(decoded.batch) == [{"a": 1.0}]
    assert [error.raw for error in decoded.errors] == [b'{"a":"x']


@pytest.mark.parametrize(
    "chunk", [b'[{"a":1}],{"b":2}', b'[{"a":1}] rest', b'{"a":1} rest', b'rest {"a":1}', b'rest [{"a":1}]']
)
def test_what_stands_outside_is_told(chunk: bytes) -> None:
    decoded = decode(chunk, Format(FormatKind.JSON, {"depth": "1" if b"[" in chunk else "0", "wrapper": ""}), CONTEXT)
    assert attributes(decoded.batch) == [{"a": 1.0}]
    assert len(decoded.errors) == 1


def test_a_newline_inside_a_string_is_refused_and_white_space_never_joins_values() -> None:
    decoded = read(b'[{"a":"x\ny"},\n{"a":1\n2},\n{"a":\n3}]')
    assert attributes(decoded.batch) == [{"a": 3.0}]
    assert [error.raw for error in decoded.errors] == [b'{"a":"x\ny"}', b'{"a":1\n2}']


def test_a_piece_ends_behind_a_record() -> None:
    chunk = b'{"records": [ {"a":1} , {"a":2} ], "n": 1}'
    format_ = resolved(chunk)
    assert complete_length(chunk[:20], format_, at_start=True, final=False) == 0
    first = complete_length(chunk[:30], format_, at_start=True, final=False)
    assert chunk[:first].endswith(b'{"a":1} ')
    rest = chunk[first:]
    second = complete_length(rest, format_, at_start=False, final=False)
    assert rest[:second] == b', {"a":2}'
    assert complete_length(rest[second:], format_, at_start=False, final=False) == 0
    assert complete_length(rest[second:], format_, at_start=False, final=True) == len(rest) - second
    assert decode(rest[second:], format_, CONTEXT).record_count == 0


def test_bad_rows_keep_their_record_numbers() -> None:
    decoded = decode(
        b'[{"a":1},2,{"a":3}]', Format(FormatKind.JSON, {"depth": "1"}), context(dump="d", first_record_number=4)
    )
    assert decoded.batch["record_number"].to_pylist() == [4, 6]


def test_a_document_and_its_lines_decode_alike() -> None:
    records = [
        {"time": 1709294400 + number, "level": "info", "n": number, "o": {"x": [number]}} for number in range(300)
    ]
    lines = "\n".join(json.dumps(record) for record in records).encode()
    expected = rows(ndjson.decode(lines, Format(FormatKind.NDJSON), CONTEXT).batch)
    assert rows(read(json.dumps(records)).batch) == expected


JUNK = st.sampled_from(["1", '"x]"', "[{}]", "null", '{"a":', "tru", "{}}", '"', "\\"])
TEXTS = st.recursive(
    st.one_of(st.integers(), st.text(max_size=5), st.sampled_from(["}", "]", '"', "\\", ","])), lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)), max_leaves=5
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), TEXTS, max_size=3), max_size=5),
    st.sampled_from(["array", "wrapped", "deep", "sequence"]),
    st.sampled_from([None, 0, 1]),
    st.integers(1, 40),
)
def test_any_split_of_a_document_decodes_to_the_same_records(
    records: list[dict[str, Any]], shape: str, indent: int | None, size: int
) -> None:
    if shape == "sequence":
        text = "\n".join(json.dumps(record, indent=indent) for record in records)
    else:
        document = {
            "array": records,
            "wrapped": {"n": 1, "logs": records, "z": [records]},
            "deep": {"data": {"items": records}},
        }[shape]
        text = json.dumps(document, indent=indent)
    chunk = text.encode()
    whole = decode(chunk, resolved(chunk), CONTEXT)
    check(whole)
    assert not whole.errors
    assert len(records) == whole.record_count
    found, errors = fed(chunk, size)
    assert found == rows(whole.batch)
    assert not errors


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["0", "1", "2"]))
def test_bytes_that_are_no_document_never_raise(chunk: bytes, depth: str) -> None:
    format_ = Format(FormatKind.JSON, {"depth": depth, "wrapper": "records" if depth == "2" else ""})
    resolve_options(chunk)
    for at_start in (True, False):
        assert 0 <= complete_length(chunk, format_, at_start=at_start, final=False) <= len(chunk)
    check(decode(chunk, format_, CONTEXT))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(JUNK, st.sampled_from(['{"a":1}', '{"b":"x"}'])), max_size=6))
def test_junk_in_a_list_never_raises(elements: list[str]) -> None:
    check(decode(("[" + ",".join(elements) + "]").encode(), Format(FormatKind.JSON, {"depth": "1"}), CONTEXT))
