"""Which texts of a column hold which of many stems, told from four bytes at a time: no automaton is built anew for each call.

Of each way to write a stem five bytes in a row are chosen, seldom ones. Whatever the parity of the place where they stand, four
of them begin at an even place of the column's bytes: so every second window of four bytes is looked up, letters folded. Where
something is found, up to four more bytes of what it may be are compared. It says yes too often, never too seldom.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.protect.columns import Indices
from heimdall_server.protect.spans import Buffer
from heimdall_server.protect.stems import literals

_FOLD: Final = 0x20
"""Set in every byte: makes letters small, and leaves others apart enough."""
_WINDOW: Final = 4
_ANCHOR: Final = 5
_SLOT_BITS: Final = 20
_MULTIPLIER: Final = np.uint32(2654435761)
"""Fibonacci hashing: 2³² over the golden ratio."""
_SECOND_MULTIPLIER: Final = np.uint32(0x85EBCA6B)
"""For what passed the first."""
_SHIFT: Final = np.uint32(32 - _SLOT_BITS)
_CHUNK: Final = 1 << 17
"""Bytes looked at at once: what is in between stays in the processor's cache. A multiple of two."""
_LABEL_MIN: Final = 3
_JOINTS: Final = b" _.-"
_SIGNS: Final = b":=#>"
_BLANKS: Final = b"\"'\\ \t\r\n"
_ASCII: Final = bytes(range(128))
_BEHIND: Final = {
    "=": ((_JOINTS, b"n"), (_SIGNS, _ASCII), (_BLANKS, _BLANKS + _SIGNS)),
    "~": ((b" \t", b" \t0123456789abcdefghijklmnopqrstuvwxyz"),),
}
"""What may stand behind a short label, by the stem's end: the first two bytes."""
_LIKE_LOGS: Final = """ /api/ /v1/ account address admin agent alert api.com application asked attempt auth authentication background billing blocked
 body bytes cache call called callback card cart catalog certificate change channel checkout client closed cluster code com.example
 command commit complete completed config configuration confirmation connect connection container content context cookie count created
 credentials customer data database date debug declined default delete denied deploy device disk done download driver duration elapsed
 email encoding endpoint ERROR event example.com exception execute exit expired expires external failed failure fetch fetched field file
 finished float for format found from function gateway get group handler handshake header health hostname http https identity image
 in index info initialized input insert instance internal international invalid io.netty java.lang job key kernel latency length level
 limit line list load local location log login lookup machine manager master max memory merge message method metric metrics migration
 missing mode module monitor name namespace native network node not null number object of offset on open operation order org.apache out
 output over package page parameter parent parse partition password path payment payments pending permission person place placed plan plugin
 point policy pool port position post process processing product profile protocol provider proxy public query queue range rate read
 ready reason received recommendations reconnect record refresh refused region register registration reload remote replica request
 required reset resource response result retry role rollback route row rows run running runtime scheduled scheduler schema scope search
 security segment select send sent server service session shard signal signature signed size slow snapshot socket source space span
 start started state statement status stock storage store stream string success summary sync system table target task temp template
 text thread threshold throughput time timeout token tool topic total trace transaction transfer transport type unable unexpected
 unhandled unknown update upload upstream url user valid validation value verification version view volume wait waiting waited warning
 with worker write written zone """
"""Words that logs are full of, so that stems are looked for by something else."""
_NONE: Final = np.empty(0, np.int64)
_NO_WINDOWS: Final = np.empty(0, "<u4")

_Words = npt.NDArray[np.uint32]


def suits(stem: str) -> bool:
    """Whether a stem can be found so; others are too short."""
    return bool(_ways(stem))


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to write a stem: bytes of which each is one of some, and where the five begin that are looked for."""

    bytes: tuple[bytes, ...]
    anchor: int


class Windows:
    """Stems as windows. Immutable."""

    def __init__(self, stems: Sequence[str]) -> None:
        """Choose windows.

        Args:
            stems: Those that suit; in what is found they go by their number.
        """
        entries = {entry for number, stem in enumerate(stems) for entry in _entries(number, stem)}
        table = np.array(sorted(entries), np.int64).reshape(-1, 5)
        slots = _slots(table[:, 0].astype("<u4"))
        table = table[np.argsort(slots, kind="stable")]
        self._bounds: Final = np.searchsorted(np.sort(slots), np.arange((1 << _SLOT_BITS) + 1)).astype(np.int32)
        self._taken: Final = np.diff(self._bounds) > 0
        self._sure: Final = np.zeros(1 << _SLOT_BITS, np.bool_)
        self._sure[(table[:, 0].astype("<u4") * _SECOND_MULTIPLIER) >> _SHIFT] = True
        self._windows: Final[_Words] = table[:, 0].astype("<u4")
        self._distances: Final[Indices] = table[:, 1].copy()
        self._masks: Final[_Words] = table[:, 2].astype("<u4")
        self._expected: Final[_Words] = table[:, 3].astype("<u4")
        self._stems: Final[Indices] = table[:, 4].copy()

    def find(self, offsets: Indices | npt.NDArray[np.int32], data: Buffer) -> tuple[Indices, Indices]:
        """Say which texts hold which stems.

        Args:
            offsets: Where each text begins, ascending; shape (texts + 1,).
            data: Bytes.

        Returns:
            Texts and numbers of stems, in any order; pairs may come several times.

        Cost: less than a nanosecond a byte.
        """
        begin, end = int(offsets[0]), int(offsets[-1])
        folded = np.empty(min(_CHUNK + _WINDOW, end - begin), np.uint8)
        scratch = _Scratch(len(folded) // _WINDOW)
        places, parts = [_NONE], [_NO_WINDOWS]
        for start, shift in itertools.product(range(begin, end, _CHUNK), (0, 2)):
            # Folded anew for each shift: windows are read fast only where they are aligned in memory.
            first = start + shift
            inner = folded[: max(0, min(len(folded), end - first))]
            np.bitwise_or(data[first : first + len(inner)], np.uint8(_FOLD), out=inner)
            at, windows = self._likely(inner, scratch)
            places.append(at * _WINDOW + first)
            parts.append(windows)
        at, windows = np.concatenate(places), np.concatenate(parts)
        slots = _slots(windows)
        firsts = self._bounds[slots]
        counts = self._bounds[slots + 1] - firsts
        entries = np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        right = self._windows[entries] == np.repeat(windows, counts)
        at, entries = np.repeat(at, counts)[right], entries[right]
        near = np.clip((at + self._distances[entries])[:, None] + np.arange(_WINDOW), 0, max(end - 1, 0))
        there = (data[near] | np.uint8(_FOLD)).reshape(-1).view("<u4")
        right = there & self._masks[entries] == self._expected[entries]
        return np.searchsorted(offsets, at[right], "right") - 1, self._stems[entries[right]]

    def _likely(self, folded: Buffer, scratch: _Scratch) -> tuple[Indices, _Words]:
        """Windows that may be among those chosen: their numbers, and what they hold."""
        windows = folded[: len(folded) // _WINDOW * _WINDOW].view("<u4")
        count = len(windows)
        hashes, slots, found = scratch.hashes[:count], scratch.slots[:count], scratch.found[:count]
        np.multiply(windows, _MULTIPLIER, out=hashes)
        np.right_shift(hashes, _SHIFT, out=hashes)
        slots[:] = hashes
        self._taken.take(slots, out=found, mode="clip")
        places = np.flatnonzero(found)
        windows = windows[places]
        sure = self._sure[(windows * _SECOND_MULTIPLIER) >> _SHIFT]
        return places[sure], windows[sure]


class _Scratch:
    """Arrays that are used again for each chunk, so that they stay in the processor's cache."""

    def __init__(self, count: int) -> None:
        self.hashes = np.empty(count, np.uint32)
        self.slots = np.empty(count, np.int64)
        self.found = np.empty(count, np.bool_)


def _slots(windows: _Words) -> Indices:
    return ((windows * _MULTIPLIER) >> _SHIFT).astype(np.int64)


def _entries(number: int, stem: str) -> Iterator[tuple[int, int, int, int, int]]:
    """Windows, each with the distance of the bytes to compare, their mask, what they are, and the stem's number."""
    for way in _ways(stem):
        for start in (way.anchor, way.anchor + 1):
            distance, mask, expected = max(
                (_around(way.bytes, start, side) for side in (_WINDOW, -_WINDOW)), key=lambda one: one[1].bit_count()
            )
            for window in _spelt(way.bytes[start : start + _WINDOW]):
                yield window, distance, mask, expected, number


def _around(choices: Sequence[bytes], start: int, side: int) -> tuple[int, int, int]:
    mask = expected = 0
    for place in range(_WINDOW):
        index = start + side + place
        if 0 <= index < len(choices) and len(choices[index]) == 1:
            mask |= 0xFF << 8 * place
            expected |= (choices[index][0] | _FOLD) << 8 * place
    return side, mask, expected


def _spelt(choices: Sequence[bytes]) -> Iterator[int]:
    """Every window of some choices of bytes."""
    folded = (sorted({byte | _FOLD for byte in some}) for some in choices)
    for chosen in itertools.product(*folded):
        yield int.from_bytes(bytes(chosen), "little")


@cache
def _ways(stem: str) -> tuple[_Way, ...]:
    """Every way to write a stem; none if it doesn't suit."""
    ways: list[_Way] = []
    for literal in literals((stem,)):
        raw = tuple(bytes((byte,)) for byte in literal.encode())
        if stem[-1] in _BEHIND and len(raw) >= _LABEL_MIN:
            ways += [_Way((*raw, *behind), len(raw) - _LABEL_MIN) for behind in _BEHIND[stem[-1]]]
        elif len(raw) >= _ANCHOR and stem[-1] not in _BEHIND:
            folded = bytes(byte | _FOLD for byte in literal.encode())
            ways.append(_Way(raw, min(range(len(raw) - _ANCHOR + 1), key=lambda at: _weight(folded, at))))
        elif len(raw) == _ANCHOR - 1 and literal[-1].isalnum():
            # A label or the beginning of a key: something follows.
            ways.append(_Way((*raw, _ASCII), 0))
        else:
            return ()
    return tuple(ways)


def _weight(folded: bytes, at: int) -> int:
    """How often the windows of the five bytes that begin at a place stand in logs."""
    return sum(_frequencies()[int.from_bytes(folded[first : first + _WINDOW], "little")] for first in (at, at + 1))


@cache
def _frequencies() -> Counter[int]:
    raw = bytes(byte | _FOLD for byte in _LIKE_LOGS.replace("\n", "").encode())
    return Counter(int.from_bytes(raw[at : at + _WINDOW], "little") for at in range(len(raw)))
