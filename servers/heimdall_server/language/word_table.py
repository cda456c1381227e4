"""The words of a text column, found once for everyone who asks: where each begins and ends, and which rows hold which.

A word is what the expression tree calls one: a maximal run of ASCII letters, digits and non-ASCII bytes, lower case.
Because the table knows whole words, a lookup is exact; no pattern is run over the text afterwards. The first eight
bytes of a word, as a number, are its key: words of up to seven bytes are told by it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.language.lookup import Mask, Rows

_Keys = npt.NDArray[np.uint64]
_KEY_BYTES: Final = 8
_KEY_MASKS: Final = np.array([(1 << (8 * length)) - 1 for length in range(_KEY_BYTES + 1)], np.uint64)
_NOTHING: Final = np.empty(0, np.int64)


def _word_bytes() -> Mask:
    table = np.zeros(256, np.bool_)
    table[0x80:] = True
    table[list(b"0123456789abcdefghijklmnopqrstuvwxyz")] = True
    return table


_IS_WORD: Final = _word_bytes()


class WordLookup:
    """Words to look for, in the form in which a table is asked. Immutable; thread-safe."""

    def __init__(self, words: Collection[str]) -> None:
        self._by_key: dict[int, list[bytes]] = {}
        for word in sorted(set(words)):
            raw = word.encode()
            self._by_key.setdefault(int.from_bytes(raw[:_KEY_BYTES], "little"), []).append(raw)
        self.keys: _Keys = np.array(sorted(self._by_key), np.uint64)

    def words_of(self, place: int) -> list[bytes]:
        """The words that have the key at a place of `keys`."""
        return self._by_key[int(self.keys[place])]


class WordTable:
    """The words of one text column. Not thread-safe; make one per batch."""

    def __init__(self, lowered: pa.Array, lookup: WordLookup) -> None:
        """Cut the texts and look all the words up.

        Args:
            lowered: Texts with ASCII letters lowered, no nulls.
            lookup: The words that will be asked for.
        """
        offsets = np.frombuffer(lowered.buffers()[1], np.int32)[lowered.offset : lowered.offset + len(lowered) + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        # Room behind the text, so that eight bytes can be read from any place in it.
        self._bytes = np.zeros(last - first + _KEY_BYTES, np.uint8)
        data = lowered.buffers()[2]
        if data is not None and last > first:
            self._bytes[: last - first] = np.frombuffer(data, np.uint8)[first:last]
        offsets = offsets - first
        self._starts, ends = _bounds(self._bytes[: last - first], offsets)
        self._lengths = ends - self._starts
        self._rows = np.searchsorted(offsets, self._starts, side="right") - 1
        self._found = self._look_up(lookup)
        self._rows_found: dict[tuple[str, ...], Rows] = {}

    def rows(self, words: Sequence[str]) -> Rows:
        """The rows, ascending, that hold a word, or several words one behind the other.

        Args:
            words: Each of them in the lookup.
        """
        key = tuple(words)
        found = self._rows_found.get(key)
        if found is None:
            found = self._rows_found[key] = self._phrase_rows(key)
        return found

    def _phrase_rows(self, words: tuple[str, ...]) -> Rows:
        places = self._found.get(words[0].encode(), _NOTHING)
        for step, word in enumerate(words[1:], 1):
            if not len(places):
                break
            behind = places + step
            is_there = np.isin(behind, self._found.get(word.encode(), _NOTHING), assume_unique=True)
            places = places[is_there]
            places = places[self._rows[places + step] == self._rows[places]]
        rows = self._rows[places]
        if len(rows) > 1:
            rows = rows[np.concatenate(([True], rows[1:] != rows[:-1]))]
        return rows

    def _look_up(self, lookup: WordLookup) -> dict[bytes, Rows]:
        """Every word that is there, and its places in the table, ascending."""
        wanted = lookup.keys
        if not len(wanted) or not len(self._starts):
            return {}
        # Any place of the text is read as eight bytes, without a copy of it.
        windows: _Keys = np.ndarray((len(self._bytes) - _KEY_BYTES + 1,), "<u8", self._bytes, strides=(1,))
        keys = windows[self._starts] & _KEY_MASKS[np.minimum(self._lengths, _KEY_BYTES)]
        near = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
        places = np.flatnonzero(wanted[near] == keys)
        if not len(places):
            return {}
        near = near[places]
        order = np.argsort(near, kind="stable")
        near, places = near[order], places[order]
        found: dict[bytes, Rows] = {}
        starts = np.flatnonzero(np.concatenate(([True], near[1:] != near[:-1])))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(near)], strict=True):
            for word in lookup.words_of(int(near[start])):
                exact = self._exactly(word, places[start:end])
                if len(exact):
                    found[word] = exact
        return found

    def _exactly(self, word: bytes, places: Rows) -> Rows:
        """Those of the places, whose first eight bytes fit, where the whole word stands."""
        if len(word) < _KEY_BYTES:
            return places
        places = places[self._lengths[places] == len(word)]
        for index in range(_KEY_BYTES, len(word)):
            if not len(places):
                break
            places = places[self._bytes[self._starts[places] + index] == word[index]]
        return places


def _bounds(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]) -> tuple[Rows, Rows]:
    """Where words begin and end; none reaches over the end of its row."""
    is_word = _IS_WORD[text]
    inner = offsets[1:-1]
    inner = inner[(inner > 0) & (inner < len(text))]
    goes_on = np.zeros(len(text) + 1, np.bool_)
    goes_on[1:-1] = is_word[:-1] & is_word[1:]
    goes_on[inner] = False
    starts = np.flatnonzero(is_word & ~goes_on[:-1])
    ends = np.flatnonzero(is_word & ~goes_on[1:]) + 1
    return starts, ends
