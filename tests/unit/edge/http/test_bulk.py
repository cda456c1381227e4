"""Taking a `_bulk` request apart: the same as reading it line by line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.decoding import RowError
from heimdall_server.edge.http import bulk
from heimdall_server.edge.http.messages import RefusedError

DOCUMENTS = st.one_of(
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=5)), max_size=3).map(json.dumps),
    st.sampled_from(["{}", "{ }", "[1]", "7", "broken", ' {"spaced": 1}', '{"index":{}}', '{"delete":{}}']),
)
INDEXES = st.sampled_from([None, "a", "logs-2026.11.24", "ü"])
ITEMS = st.lists(st.tuples(st.sampled_from(["index", "create", "update", "delete"]), INDEXES, DOCUMENTS), max_size=12)


def body_of(items: Any, newline: str) -> bytes:
    lines = []
    for operation, index, document in items:
        meta = {"_id": None, **({"_index": index} if index else {})}
        lines.append(json.dumps({operation: meta}, ensure_ascii=False))
        if operation != "delete":
            lines.append(document)
    return "".join(line + newline for line in lines).encode()


def with_index(document: str, index: str) -> str:
    if not index or not document.startswith("{"):
        return document
    rest = document[1:]
    comma = "" if rest.strip() == "}" else ","
    return f'{{"_index":{json.dumps(index)}{comma}{rest}'


@given(ITEMS, st.sampled_from(["\n", "\r\n", "\n\n"]), st.sampled_from(["", "path"]))
@settings(max_examples=80, deadline=None)
def test_it_is_what_a_walk_over_the_lines_finds(items: Any, newline: str, default: str) -> None:
    body = body_of(items, newline)
    if not items:
        with pytest.raises(RefusedError):
            bulk.split(body, default)
        return
    found = bulk.split(body, default)
    expected = [
        (number, with_index(document, index or default))
        for number, (operation, index, document) in enumerate(items)
        if operation in ("index", "create")
    ]
    lines = [line.rstrip("\r") for line in found.documents.decode().split("\n")][:-1]
    assert list(zip(found.item_of.tolist(), lines, strict=True)) == expected
    assert [found.kinds[kind] for kind in found.kind_of] == [(op, index or default) for op, index, _ in items]
    answer = json.loads(bulk.answer(found, []))
    assert [(next(iter(item)), next(iter(item.values()))["status"]) for item in answer["items"]] == [
        (operation, 201 if operation in ("index", "create") else 400) for operation, _, _ in items
    ]
    assert answer["errors"] is any(operation in ("update", "delete") for operation, _, _ in items)


def test_errors_are_told_of_the_item_that_the_document_belongs_to() -> None:
    items = [("delete", "a", ""), ("index", "a", "{}"), ("create", "b", "bad")]
    found = bulk.split(body_of(items, "\n"), "")
    answer = json.loads(bulk.answer(found, [RowError(1, 1, "why")]))
    statuses = [next(iter(item.values()))["status"] for item in answer["items"]]
    assert statuses == [400, 201, 400]
    assert answer["items"][2]["create"]["error"]["reason"] == "why"


def test_too_many_items_and_too_long_names_are_refused() -> None:
    with pytest.raises(RefusedError, match="actions"):
        bulk.split(b'{"index":{}}\n{}\n' * (bulk.ITEMS_MAX + 1), "")
    with pytest.raises(RefusedError, match="index name"):
        bulk.split(b'{"index":{}}\n{}\n', "x" * 256)


def test_names_that_make_documents_explode_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SPREAD_BYTES_MAX", 1000)
    with pytest.raises(RefusedError, match="index name"):
        bulk.split(b'{"index":{}}\n{}\n' * 10, "x" * 200)


def test_an_action_line_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(RefusedError):
        bulk.split(b'{"index":{"_index":"\xff"}}\n{}\n', "")
