"""Which gates a text's *shape* passes: the text with every digit made a zero. Logs are written from templates, so few shapes are new.

What gates ask is nearly always whether there is a digit, not which. So a gate, of whose pattern the digits are made zeros likewise,
passes every shape of a text that passes the gate itself: digits are folded in both, and whatever matched before matches still. A gate
that names certain digits may let a shape pass and not the text: those are `particular`, and asked once more.

What was asked of a shape is remembered in memory, within bounds, and never shown; it is forgotten with the first texts that come
a minute after the first was learnt.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.protect.columns import Flags, Indices, string_bytes, text_bytes

_ZERO: Final = np.uint8(ord("0"))
_TEN: Final = np.uint8(10)
_PIECE: Final = re.compile(r"\\.|\{[0-9,]+\}|\[\^?\]?(?:\\.|[^\]\\])*\]|[0-9]", re.ASCII | re.DOTALL)
"""What of a pattern is looked at as one: an escape, a count, a class, a digit."""
_RANGE: Final = re.compile(r"\\.|.-.|.", re.ASCII | re.DOTALL)
_SHAPES_MAX: Final = 50_000
_SHAPES_LENGTH_MAX: Final = 16 << 20
"""Characters of all that are remembered."""
_SHAPE_LENGTH_MAX: Final = 1024
"""Longer ones are asked about each time; columns whose texts have more bytes on average aren't asked by shape."""
_AGE_S_MAX: Final = 60.0
"""Shapes hold what isn't digits, be it a name: none is used for longer."""
_ANSWERS_MAX: Final = 4096
_SAMPLE: Final = 512
_SAMPLE_NEW_MAX: Final = 0.75
"""Of a sample's texts, those whose shape is neither known nor another's; where there are more of them, remembering costs more than asking."""
_FEW: Final = 4096
"""Of so many texts no sample is taken."""

Ask = Callable[[pl.Series], Mapping[str, Flags]]
"""Says by gate which shapes pass it, for gates that any passes."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Which gates each text passes, as far as is known."""

    book: _Book
    codes: Indices
    """By text, the row of the book's table; negative: not known."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def known(self) -> Flags:
        """Of which texts they are known."""
        return self.codes >= 0

    def by_gate(self) -> dict[str, Flags]:
        """By gate which texts pass it, where known; gates that none passes aren't in it."""
        table, known = self.book.table, self.known
        seen = np.bincount(self.codes[known], minlength=len(table)).astype(np.bool_)
        passed = np.flatnonzero(table[seen].any(axis=0)).tolist()
        return {self.book.gates[column]: table[:, column][self.codes] & known for column in passed}

    def any(self) -> Flags:
        """Which texts pass any gate, where known."""
        flags: Flags = (self.codes > 0) & self.known
        return flags

    def take(self, indices: Indices) -> Answers:
        """Those of some texts."""
        return Answers(self.book, self.codes[indices])

    @classmethod
    def joined(cls, parts: Sequence[tuple[Answers | None, int]]) -> Answers | None:
        """Those of several columns, each with its number of texts; None stands for a column of which nothing is known."""
        book = next((one.book for one, _ in parts if one is not None), None)
        if book is None:
            return None
        same = [(one, count) if one is not None and one.book is book else (None, count) for one, count in parts]
        codes = [np.full(count, -1) if one is None else one.codes for one, count in same]
        return cls(book, np.concatenate(codes))


class _Book:
    """The sets of gates that shapes were seen to pass, one a row; the first is empty. It only grows, so that a row keeps its meaning."""

    def __init__(self, gates: Iterable[str]) -> None:
        self.gates: Final = tuple(gates)
        self.columns: Final = {gate: column for column, gate in enumerate(self.gates)}
        self.table: Flags = np.zeros((1, len(self.columns)), np.bool_)
        self._rows: dict[bytes, int] = {self.table[0].tobytes(): 0}

    def codes(self, passed: Flags) -> Indices:
        """The rows of sets, new ones added; negative where there is no room for one. Under a lock.

        Args:
            passed: By shape and gate; shape (shapes, gates).
        """
        distinct, first, inverse = np.unique(_as_words(passed), return_index=True, return_inverse=True)
        added = []
        codes = np.empty(len(distinct), np.int64)
        for index, at in enumerate(first.tolist()):
            key = passed[at].tobytes()
            code = self._rows.get(key, -1)
            if code < 0 and len(self._rows) < _ANSWERS_MAX:
                code = self._rows[key] = len(self._rows)
                added.append(passed[at])
            codes[index] = code
        if added:
            self.table = np.vstack((self.table, added))
        return codes[inverse.reshape(-1)]


def _as_words(flags: Flags) -> npt.NDArray[np.void]:
    packed = np.ascontiguousarray(np.packbits(flags, axis=1))
    return packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)


class Shapes:
    """What shapes pass. Thread-safe."""

    def __init__(self, gates: Iterable[str], ask: Ask, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing.

        Args:
            gates: That are asked about.
            ask: Asks the gates, their digits made zeros, about shapes.
            now_s: Says when to forget.
        """
        self._book = _Book(gates)
        self._ask = ask
        self._now_s = now_s
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._length = 0
        """Characters of the known ones, about: two threads may learn the same."""
        self._begun_s = now_s()

    def answers(self, texts: pa.StringArray) -> Answers:
        """Say which gates texts pass, by their shapes.

        Args:
            texts: Without nulls.
        """
        encoded = zeroed(texts).dictionary_encode()
        codes = self._codes(encoded.dictionary)
        return Answers(self._book, codes[encoded.indices.to_numpy()])

    def suit(self, texts: pa.StringArray) -> bool:
        """Whether it pays to ask by shape: enough of these texts seem to have shapes that are known, or those of others."""
        count = len(texts)
        if not count or text_bytes(texts) > count * _SHAPE_LENGTH_MAX:
            return False
        if count <= _FEW:
            return True
        distinct = zeroed(texts.slice(0, _SAMPLE)).unique().to_pylist()
        known = self._known
        return sum(text not in known for text in distinct) <= _SAMPLE_NEW_MAX * _SAMPLE

    def _codes(self, shapes: pa.StringArray) -> Indices:
        known = self._remembered()
        texts = shapes.to_pylist()
        codes = np.array([known.get(text, -1) for text in texts], np.int64)
        new = np.flatnonzero(codes < 0)
        if len(new):
            asked = self._ask(pl.Series("", shapes.take(pa.array(new)), pl.String))
            passed = np.zeros((len(new), len(self._book.columns)), np.bool_)
            for gate, flags in asked.items():
                passed[:, self._book.columns[gate]] = flags
            with self._lock:
                codes[new] = self._book.codes(passed)
                for index, code in zip(new.tolist(), codes[new].tolist(), strict=True):
                    if code >= 0 and len(texts[index]) <= _SHAPE_LENGTH_MAX:
                        known[texts[index]] = code
                        self._length += len(texts[index])
        return codes

    def _remembered(self) -> dict[str, int]:
        """What is known; it begins anew when it is full or old."""
        with self._lock:
            full = len(self._known) >= _SHAPES_MAX or self._length >= _SHAPES_LENGTH_MAX
            if full or self._now_s() - self._begun_s >= _AGE_S_MAX:
                self._known, self._length, self._begun_s = {}, 0, self._now_s()
            return self._known


def zeroed(texts: pa.StringArray) -> pa.StringArray:
    """Texts with zeros for all ASCII digits.

    Args:
        texts: Without nulls.
    """
    offsets, data = string_bytes(texts)
    begin = int(offsets[0])
    inner = data[begin:]
    digits = inner - _ZERO
    digits *= digits < _TEN
    starts = offsets - np.int32(begin) if begin else offsets
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(starts), pa.py_buffer(inner - digits))


def zeroed_pattern(pattern: str) -> str:
    """A regex that matches the shape of whatever a regex matches: the same one where it names no certain digits.

    Raises:
        ValueError: The pattern has what can't be folded: a class that leaves out certain digits.
    """

    def folded(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] == "[":
            return _class(piece)
        return "0" if piece.isdigit() else piece

    return _PIECE.sub(folded, pattern)


def _class(piece: str) -> str:
    inner, negated = piece[1:-1], piece[1] == "^"
    named = [one for one in _RANGE.findall(inner.removeprefix("^")) if any(end.isdigit() for end in (one[0], one[-1]))]
    if all(one == "0-9" for one in named):
        return piece
    if negated:
        message = f"{piece} leaves out certain digits: name all of them, or none"
        raise ValueError(message)
    kept = "".join(
        one for one in _RANGE.findall(inner) if one not in named or not (one[0].isdigit() and one[-1].isdigit())
    )
    return f"[0{kept}]"
