"""JSON in pieces: however it is cut, the same parts; what is wrong is found, and what is long is bounded."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heimdall_server.domain.errors import FormatError
from heimdall_server.services.graph.logic.interchange import json_pieces
from heimdall_server.services.graph.logic.interchange.json_pieces import JsonPieces, NoObject

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
parts = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5)
heads = st.dictionaries(st.text().filter(lambda key: key != "objects"), values, max_size=3)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def pieces_of(data: bytes, cut: int) -> list[dict[str, Any]]:
    """All parts of data that comes in pieces of a length."""
    reader = JsonPieces("objects", format_="stix")
    found = [part for start in range(0, len(data), cut) for part in reader.feed(data[start : start + cut])]
    return found + list(reader.close())


def dumped(value: Any, layout: dict[str, Any]) -> bytes:
    return json.dumps(value, **layout).encode("utf-8", "replace")


@given(objects=parts, head=heads, tail=heads, layout=layouts, cut=st.integers(1, 40))
@example(objects=[{"a": [1, 2]}], head={}, tail={"b": 1}, layout={}, cut=1)
def test_the_objects_of_a_bundle_come_one_by_one_however_it_is_cut(
    objects: list[dict[str, Any]], head: dict[str, Any], tail: dict[str, Any], layout: dict[str, Any], cut: int
) -> None:
    whole = {**head, "objects": objects, **{key: value for key, value in tail.items() if key not in head}}
    data = dumped(whole, layout)
    assert pieces_of(data, cut) == json.loads(data)["objects"]


@given(documents=parts, layout=layouts, cut=st.integers(1, 40))
def test_lists_and_documents_one_after_the_other_come_alike(
    documents: list[dict[str, Any]], layout: dict[str, Any], cut: int
) -> None:
    plain = [{key: value for key, value in one.items() if key != "objects"} for one in documents]
    expected = [json.loads(dumped(one, layout)) for one in plain]
    assert pieces_of(dumped(plain, layout), cut) == expected
    assert pieces_of(b" \n".join(dumped(one, layout) for one in plain), cut) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1", "complete"),
        ("hello", "neither"),
        ('{"objects": [{}', "complete"),
        ('{"objects": [{"a": 1} {"b": 2}]}', "comma"),
        ('{"a": 1 "b": 2}', "comma"),
        ('{"a" 1}', "colon"),
        ("{1: 2}", "quotes"),
        ('{"objects": [{"a": NaN}]}', "NaN"),
        ('{"a": tru}', "value"),
        ('{"a": 01}', "number"),
        ("{} x", "neither"),
        ('{"a": ' + "[" * 100_000, "deep"),
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_what_is_no_such_json_is_refused_with_its_place(text: str, problem: str, cut: int) -> None:
    if len(text) > 1_000 and cut < 1_000:
        cut = 1_000
    with pytest.raises(FormatError, match=problem):
        pieces_of(text.encode(), cut)


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_elements_that_are_no_objects_are_told_from_empty_ones(cut: int) -> None:
    found = pieces_of(b'{"objects": [null, {}, 12, [{"a": 1}], "x", {"b": 2}]}', cut)
    assert found == [{}, {}, {}, {}, {}, {"b": 2}]
    assert [isinstance(one, NoObject) for one in found] == [True, False, True, True, True, False]


def test_a_part_that_is_too_long_is_refused_before_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "PART_CHARACTERS_MAX", 1_000)
    reader = JsonPieces("objects", format_="stix")
    list(reader.feed(b'{"objects": [{"a": "'))
    endless = itertools.chain.from_iterable(reader.feed(b"x" * 100) for _ in range(100))
    with pytest.raises(FormatError, match="longer"):
        list(endless)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        pieces_of(b'{"a": "\xff"}', 3)
    assert pieces_of("\ufeff{}".encode(), 1) == [{}]
