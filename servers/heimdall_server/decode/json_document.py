"""JSON documents: an array of objects, a list inside wrapping objects, or objects one after another, however laid out.

A document is cut into its records by nesting depth, so that it can be read piece by piece: a piece ends behind a record,
and a piece in the middle of a list starts with the comma before the next one. Each record becomes one line, and lines
are what `json_lines` decodes. Members of wrapping objects beside the list are no records and are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.decode.fallback import row_errors
from heimdall_server.decode.json_lines import decode_lines, explain
from heimdall_server.decode.json_tokens import Bytes, Index, Mask, candidates
from heimdall_server.decode.mapping import target_of
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format

_WRAPPER_NAMES: Final = (
    "data docs documents entries events hits items list log_events logevents logs messages objects records results "
    "rows values"
)
WRAPPERS: Final = frozenset(_WRAPPER_NAMES.split())
"""Names of the member that holds the records, lower case. An object without such a member is a record."""
_DEPTH_MAX: Final = 4
_LOOK_BYTES: Final = 64 * 1024
_PIECE: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*(:?)|[\[\]{}]', re.DOTALL)
_KEY_BEFORE: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*\Z', re.DOTALL)
_KEY_BYTES: Final = 600


@dataclass(frozen=True, slots=True)
class _Elements:
    """The records of a piece: where each starts and ends, and the position behind the last whole one."""

    starts: Index
    ends: Index
    whole_end: int


def resolve_options(first_bytes: bytes) -> dict[str, str]:
    """Find out where a document's records are.

    Args:
        first_bytes: The source's beginning; 64 KiB are plenty.

    Returns:
        `depth`: levels open around each record; `wrapper`: dotted name of the member that holds the list, or "".
    """
    stack: list[str] = []
    key = ""
    for piece in _PIECE.finditer(first_bytes, 0, _LOOK_BYTES):
        token = piece[0][:1]
        if token == b'"':
            name = piece[1].decode(errors="replace")
            if piece[2] and len(stack) == 1 and target_of(name) is not None:
                break
            key = name if piece[2] else key
        elif token == b"[":
            holder = [*stack[1:], key] if stack else []
            if not holder or (len(holder) < _DEPTH_MAX and _wraps(holder, first_bytes[piece.end() : _LOOK_BYTES])):
                return {"depth": str(len(holder) + 1), "wrapper": ".".join(holder)}
            stack.append("[")
        elif token == b"{":
            stack.append(key)
        elif stack:
            stack.pop()
            if not stack:
                break
    return {"depth": "0", "wrapper": ""}


def complete_length(buffer: bytes, format: Format, *, at_start: bool, final: bool) -> int:  # noqa: A002 - as all decoders
    """How many bytes at the start of a buffer are whole records (and what stands before and between them).

    Args:
        buffer: The source's next bytes.
        format: Resolved, of kind JSON.
        at_start: The buffer is the source's beginning, not what follows a record.
        final: No more bytes follow.
    """
    if final:
        return len(buffer)
    return _elements(buffer, format, at_start=at_start).whole_end


def decode(chunk: bytes, format: Format, context: DecodeContext) -> Decoded:  # noqa: A002 - as all decoders
    """Decode a piece of a document.

    Args:
        chunk: What `complete_length` allowed.
        format: Resolved, of kind JSON.
        context: What the source says about its records.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    head = chunk.lstrip(b" \t\r\n")[:1]
    elements = _elements(chunk, format, at_start=head not in (b",", b"]"))
    decoded = decode_lines(_as_lines(chunk, elements), context)
    if not decoded.errors:
        return decoded
    # Lines were laid out anew: what is told of a bad record is told of its text in the chunk.
    rows = np.array([error.row for error in decoded.errors], np.int64)
    return Decoded(decoded.batch, row_errors(chunk, rows, elements.starts[rows], elements.ends[rows], explain))


def _wraps(holder: list[str], behind: bytes) -> bool:
    listed = behind.lstrip()[:1] in (b"{", b"]", b"")
    return listed and all(name.lower() in WRAPPERS for name in holder)


def _elements(buffer: bytes, format_: Format, *, at_start: bool) -> _Elements:
    """Find the records of a piece, an unfinished last one included."""
    depth = int(format_.options.get("depth", "0"))
    text = np.frombuffer(buffer, np.uint8)
    position, code, levels = _structure(text, 0 if at_start else depth)
    if depth == 0:
        return _top_level(text, position, levels)
    wrapper = format_.options.get("wrapper", "").rpartition(".")[2].encode()
    before = np.concatenate([np.full(1, 0 if at_start else depth), levels[:-1]])
    opens = (levels == depth) & (before == depth - 1)
    closes = (levels == depth - 1) & (before == depth)
    inside = _in_list(buffer, position, code, opens, closes, wrapper, open_at_first=not at_start)
    comma = inside & (code == ord(",")) & (levels == depth)
    begins = position[comma | (opens & inside)] + 1
    finishes = position[comma | (closes & inside)]
    if not at_start:
        # The piece goes on behind a record: what comes before the first comma is no element.
        begins = np.concatenate([np.zeros(1, np.int64), begins])
    if len(finishes) < len(begins):
        finishes = np.append(finishes, len(text))
    if depth == 1:
        begins, finishes = _with_outside(
            begins,
            finishes,
            position[opens & (code == ord("["))],
            position[closes & (code == ord("]"))],
            len(text),
            at_start=at_start,
        )
    starts, ends = _trimmed(text, begins, finishes)
    record_ends = position[inside & (levels == depth) & (before == depth + 1)] + 1
    whole_end = max([0, *record_ends[-1:].tolist(), *position[comma][-1:].tolist()])
    return _Elements(starts, ends, whole_end)


def _structure(text: Bytes, first_level: int) -> tuple[Index, Bytes, npt.NDArray[np.int64]]:
    """Brackets and commas outside strings: position, byte, and the level behind each."""
    position, code = candidates(text)
    is_quote = code == ord('"')
    odd = np.cumsum(is_quote, dtype=np.uint8) & 1
    kept = (odd == 0) & ~is_quote & (code != ord("\n")) & (code != ord(":"))
    position, code = position[kept], code[kept]
    folded = code | 0x20
    levels = first_level + np.cumsum((folded == 0x7B).astype(np.int64) - (folded == 0x7D))
    return position, code, levels


def _top_level(text: Bytes, position: Index, levels: npt.NDArray[np.int64]) -> _Elements:
    """Objects one after another; what stands between them is an element of its own, and refused later."""
    before = np.concatenate([np.zeros(1, np.int64), levels[:-1]])
    starts = position[(before == 0) & (levels == 1)]
    ends = position[(before == 1) & (levels == 0)] + 1
    whole_end = int(ends[-1]) if len(ends) else 0
    if len(ends) < len(starts):
        ends = np.append(ends, len(text))
    cuts = np.unique(np.concatenate([np.zeros(1, np.int64), starts, ends, np.full(1, len(text))]))
    return _Elements(*_trimmed(text, cuts[:-1], cuts[1:]), whole_end)


def _with_outside(
    begins: Index, finishes: Index, opens: Index, closes: Index, size: int, *, at_start: bool
) -> tuple[Index, Index]:
    """Add what stands outside an unwrapped list: it isn't empty only if it is an error, and that is to be told."""
    outside_from = np.concatenate([np.zeros(int(at_start), np.int64), closes + 1])
    outside_to = np.append(opens, size)[: len(outside_from)]
    if len(outside_to) < len(outside_from):
        outside_from = outside_from[: len(outside_to)]
    begins, finishes = np.concatenate([begins, outside_from]), np.concatenate([finishes, outside_to])
    order = np.argsort(begins, kind="stable")
    return begins[order], finishes[order]


def _in_list(
    buffer: bytes, position: Index, code: Bytes, opens: Mask, closes: Mask, wrapper: bytes, *, open_at_first: bool
) -> Mask:
    """Which tokens are in the list that holds the records, its brackets included."""
    opener = np.flatnonzero(opens)
    listed = code[opener] == ord("[")
    if wrapper:
        for number in np.flatnonzero(listed):
            at = int(position[opener[number]])
            key = _KEY_BEFORE.search(buffer[max(0, at - _KEY_BYTES) : at])
            listed[number] = key is not None and key[1] == wrapper
    holder = np.searchsorted(opener, np.arange(len(position)), side="right")
    closed_before: Index = np.cumsum(closes) - closes
    flags = np.concatenate([np.full(1, open_at_first), listed])
    opened = holder + open_at_first
    out: Mask = flags[holder] & (opened > closed_before)
    return out


def _trimmed(text: Bytes, starts: Index, ends: Index) -> tuple[Index, Index]:
    """Take white space off both ends of each element, and leave out empty ones."""
    inked = np.flatnonzero(~((text == 32) | ((text >= 9) & (text <= 13))))
    first, last = np.searchsorted(inked, starts), np.searchsorted(inked, ends)
    real = first < last
    return inked[first[real]], inked[last[real] - 1] + 1


def _as_lines(chunk: bytes, elements: _Elements) -> bytes:
    """Each element as a line of its own."""
    text = np.frombuffer(chunk, np.uint8).copy()
    broken = text == ord("\n")
    # White space outside strings either way; inside one, neither is allowed.
    text[broken] = ord("\r")
    step = np.zeros(len(text) + 1, np.int8)
    np.add.at(step, elements.starts, 1)
    np.add.at(step, elements.ends, -1)
    kept = np.cumsum(step[:-1], dtype=np.int32) > 0
    if (broken & kept).any():
        kept &= ~_layout_space(text)
    lengths = np.cumsum(kept, dtype=np.int64)
    ends = lengths[elements.ends - 1] if len(text) else elements.ends
    return np.insert(text[kept], ends, ord("\n")).tobytes()


def _layout_space(text: Bytes) -> Mask:
    """White space outside strings beside a bracket, comma or colon, or beside more white space: it means nothing."""
    position, byte = candidates(text)
    flips = np.zeros(len(text), np.int8)
    flips[position[byte == ord('"')]] = 1
    space = (text == ord(" ")) | (text == ord("\r")) | (text == ord("\t"))
    space &= np.cumsum(flips, dtype=np.int32) & 1 == 0
    folded = text | 0x20
    mark = (folded == 0x7B) | (folded == 0x7D) | (text == ord(",")) | (text == ord(":"))
    out: Mask = space.copy()
    # The first of a run stays if it parts two things that aren't marks: "1 2" mustn't become "12".
    first = np.flatnonzero(space & ~np.concatenate([np.zeros(1, np.bool_), space[:-1]]))
    inked = np.flatnonzero(~space)
    behind = np.searchsorted(inked, first)
    parting = first[(behind > 0) & (behind < len(inked))]
    behind = np.searchsorted(inked, parting)
    out[parting[~mark[inked[behind - 1]] & ~mark[inked[behind]]]] = False
    return out
