"""The lines of a `_bulk` request: which are documents and where they go; and the answer, an item for each action.

Actions and documents are told apart by columns, not line by line: only a request with a `delete`, the one action
without a document, is walked through. The index that an action names becomes the document's `_index`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.decoding import RowError
from heimdall_server.edge.http.messages import RefusedError

ITEMS_MAX: Final = 1 << 17
"""Actions of one request: a few bytes can be one, in columns each takes 300, and in the answer 60."""
SPREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes that the documents may become with their indexes' names."""
_INDEX_BYTES_MAX: Final = 255
_ACTION: Final = r'^\s*\{\s*"(index|create|update|delete)"\s*:\s*(?:\{.*\}|null)\s*\}\s*$'
_ACTION_BYTES: Final = re.compile(_ACTION.encode())
_INDEX: Final = r'"_index"\s*:\s*"([^"\\]*)"'
_STORED: Final = ("create", "index")
_NEWLINE: Final = 10

_Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """A request, taken apart."""

    documents: bytes
    """A line each; only those of `index` and `create`."""
    kinds: Sequence[tuple[str, str]]
    """(action, index) that occur."""
    kind_of: _Index
    """Shape (item,). Which of them."""
    item_of: _Index
    """Shape (document,). Which item a document belongs to."""


def split(body: bytes, index: str) -> Split:
    """Take a request apart.

    Args:
        body: Of `_bulk`.
        index: Where the documents go whose action names none; empty: nowhere in particular.

    Raises:
        RefusedError: A line isn't what must stand there; nothing of the request is meant to be kept.

    Cost: 0.8 µs an item, most of it without the GIL.
    """
    lines = _lines(body)
    if not len(lines):
        nothing = "request body is required"
        raise RefusedError(400, nothing)
    action_at = _action_lines(lines)
    if len(action_at) > ITEMS_MAX:
        many = f"more than {ITEMS_MAX} actions in one request; send smaller ones"
        raise RefusedError(413, many)
    # Most requests say the same before every document, so only what differs is looked into.
    actions = lines.take(pa.array(action_at)).dictionary_encode()
    texts = _texts(actions.dictionary)
    named = pl.DataFrame({"operation": texts.str.extract(_ACTION), "index": texts.str.extract(_INDEX).fill_null(index)})
    ranked = named.with_columns(pl.struct("operation", "index").rank("dense").cast(pl.Int64).alias("kind") - 1)
    kinds = ranked.unique("kind").sort("kind").select("operation", "index").rows()
    kind_of = ranked["kind"].to_numpy()[actions.indices.to_numpy()]
    if any(len(name.encode()) > _INDEX_BYTES_MAX for _, name in kinds):
        long = f"an index name is longer than {_INDEX_BYTES_MAX} bytes"
        raise RefusedError(400, long)
    stored = np.array([operation in _STORED for operation, _ in kinds], np.bool_)
    item_of = np.flatnonzero(stored[kind_of])
    documents = lines.take(pa.array(action_at[item_of] + 1))
    return Split(_with_index(documents, kinds, kind_of[item_of]), kinds, kind_of, item_of)


def answer(request: Split, errors: Sequence[RowError], *, brief: bool = False) -> bytes:
    """What the request is answered.

    Args:
        request: As it was split.
        errors: Of documents; `row` is the document's number.
        brief: The client asked for statuses and errors only.
    """
    good = [_item(operation, "" if brief else index, 201, "") for operation, index in request.kinds]
    refused = {kind for kind, (operation, _) in enumerate(request.kinds) if operation not in _STORED}
    for kind in refused:
        operation, index = request.kinds[kind]
        good[kind] = _item(operation, index, 400, f"{operation} isn't supported: records don't change")
    items = np.array(good, object)[request.kind_of].tolist()
    for error in errors:
        item = int(request.item_of[error.row])
        operation, index = request.kinds[int(request.kind_of[item])]
        items[item] = _item(operation, index, 400, error.reason)
    failed = "true" if errors or refused else "false"
    return f'{{"took":1,"errors":{failed},"items":[{",".join(items)}]}}'.encode()


def _item(operation: str, index: str, status: int, reason: str) -> str:
    value: dict[str, object] = {"_index": index, "_id": ""} if index else {}
    value["status"] = status
    if reason:
        value["error"] = {"type": "document_parsing_exception", "reason": reason}
    return json.dumps({operation: value}, separators=(",", ":"))


def _lines(body: bytes) -> pa.BinaryArray:
    """Lines that hold something, each with its newline."""
    data = body if body.endswith(b"\n") else body + b"\n"
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    offsets = np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32)
    lines = pa.BinaryArray.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    # «\n» and «\r\n» hold nothing; a line of spaces is taken for a broken action.
    lengths = np.diff(offsets)
    blank = (lengths == 1) | ((lengths == 2) & pc.equal(lines, b"\r\n").to_numpy(zero_copy_only=False))
    return lines.filter(pa.array(~blank)) if blank.any() else lines


def _texts(lines: pa.BinaryArray) -> pl.Series:
    try:
        return pl.Series(lines.cast(pa.string()))
    except pa.ArrowInvalid:
        damaged = "an action line isn't UTF-8"
        raise RefusedError(400, damaged) from None


def _action_lines(lines: pa.BinaryArray) -> _Index:
    """The numbers of the action lines."""
    at = np.arange(0, len(lines), 2)
    operations = _texts(lines.take(pa.array(at)).dictionary_encode().dictionary).str.extract(_ACTION)
    if operations.null_count() or (operations == "delete").any():
        return _walked(lines)
    if len(lines) % 2:
        raise _malformed(len(lines), "its document is missing")
    return at


def _walked(lines: pa.BinaryArray) -> _Index:
    """The same for a request in which some action has no document."""
    texts = lines.to_pylist()
    at: list[int] = []
    line = 0
    while line < len(texts) and len(at) <= ITEMS_MAX:
        action = _ACTION_BYTES.match(texts[line])
        if action is None:
            raise _malformed(line + 1, "expected index, create, update or delete with an object")
        at.append(line)
        line += 1 if action[1] == b"delete" else 2
    if line > len(texts):
        raise _malformed(len(texts), "its document is missing")
    return np.array(at, np.int64)


def _malformed(line: int, problem: str) -> RefusedError:
    return RefusedError(400, f"Malformed action/metadata line [{line}]: {problem}")


def _with_index(documents: pa.BinaryArray, kinds: Sequence[tuple[str, str]], kind_of: _Index) -> bytes:
    """Documents with the name of their index as first member; what isn't an object stays as it is."""
    if not len(documents):
        return b""
    names = [f'{{"_index":{json.dumps(name)},'.encode() if name else b"{" for _, name in kinds]
    sizes = np.array([len(name) for name in names], np.int64)
    if int(sizes[kind_of].sum()) + documents.nbytes > SPREAD_BYTES_MAX:
        large = "the documents are too many for so long an index name; send smaller requests"
        raise RefusedError(413, large)
    heads = pa.array(names, pa.binary()).take(pa.array(kind_of))
    objects = pc.starts_with(documents, b"{")
    empty = pc.match_substring_regex(documents, rb"^\{\s*\}")
    if pc.any(empty).as_py():
        bare = pa.array([name.removesuffix(b",") for name in names], pa.binary()).take(pa.array(kind_of))
        heads = pc.if_else(empty, bare, heads)
    rest = pc.binary_replace_slice(documents, 0, 1, b"")
    joined = pc.if_else(objects, pc.binary_join_element_wise(heads, rest, b""), documents)
    return bytes(joined.buffers()[2])[: int(np.frombuffer(joined.buffers()[1], np.int32)[len(joined)])]
