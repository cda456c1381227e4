"""Sealed values as bytes: what rides in a journal frame beside the records that name their tokens.

    version   1 byte, 1
    runs      4 bytes: how many follow. A run is consecutive values of one class and generation
    run       class length (1), class, generation (4), value count (4),
              words (27 each), sealed lengths (4 each), sealed values, end to end
    checksum  4 bytes, CRC-32 of everything before it

Integers are unsigned and little-endian. The frame is authenticated; the checksum finds our own mistakes, not an attacker's.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.personal import BASE32, CLASS_PATTERN, EPOCHS, WORD_LENGTH, SealedValue, TokenName

SIDECAR: Final = "vault"
"""Under which name they ride in a frame."""
VERSION: Final = 1
_PLACE: Final = "sealed values"
_HEAD: Final = struct.Struct("<BI")
_RUN: Final = struct.Struct("<II")
_CHECKSUM: Final = struct.Struct("<I")
_CLASS: Final = re.compile(CLASS_PATTERN, re.ASCII)
_EPOCH: Final = np.isin(np.arange(256), np.frombuffer(EPOCHS.encode(), np.uint8))
_MAC: Final = np.isin(np.arange(256), np.frombuffer(BASE32.encode(), np.uint8))
"""By byte, whether a word may hold it: first, and behind that (`WORD_PATTERN`, read from columns)."""


@dataclass(frozen=True, slots=True, eq=False)
class SealedRun:
    """Sealed values of one class and generation, as columns: an object for each would cost more than sealing it."""

    data_class: str
    generation: int
    words: bytes
    """`WORD_LENGTH` bytes each, end to end."""
    lengths: npt.NDArray[np.uint32]
    """Of each sealed value, in bytes."""
    sealed: bytes | memoryview
    """The sealed values, end to end."""

    @classmethod
    def of(cls, data_class: str, generation: int, words: Sequence[str], sealed: Sequence[bytes]) -> SealedRun:
        """From texts and bytes, as many of each."""
        lengths = np.fromiter(map(len, sealed), np.uint32, len(sealed))
        return cls(data_class, generation, "".join(words).encode(), lengths, b"".join(sealed))

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, begin: int, end: int) -> SealedRun:
        """The values from one index up to another one."""
        first, last = int(self.lengths[:begin].sum()), int(self.lengths[:end].sum())
        words = self.words[begin * WORD_LENGTH : end * WORD_LENGTH]
        return SealedRun(self.data_class, self.generation, words, self.lengths[begin:end], self.sealed[first:last])

    def values(self) -> Iterator[SealedValue]:
        """One by one; for few."""
        words, ends = self.words.decode("ascii"), np.cumsum(self.lengths, dtype=np.int64).tolist()
        for index, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            word = words[index * WORD_LENGTH : (index + 1) * WORD_LENGTH]
            yield SealedValue(TokenName(self.data_class, word), self.generation, bytes(self.sealed[begin:end]))


def runs_of(values: Iterable[SealedValue]) -> list[SealedRun]:
    """Values as runs, in order."""
    runs = []
    for (data_class, generation), group in itertools.groupby(values, lambda one: (one.name.data_class, one.generation)):
        run = list(group)
        runs.append(SealedRun.of(data_class, generation, [one.name.word for one in run], [one.sealed for one in run]))
    return runs


def encode(values: Iterable[SealedValue]) -> bytes:
    """Values as bytes, in order. About half a microsecond a value.

    Raises:
        ValueError: A class, a word or a generation isn't what it must be; names none of them.
    """
    return encode_runs(runs_of(values))


def encode_runs(runs: Sequence[SealedRun]) -> bytes:
    """Runs as bytes, in order; none is empty.

    Raises:
        ValueError: As `encode`.
    """
    parts: list[bytes | memoryview] = [_HEAD.pack(VERSION, len(runs))]
    for run in runs:
        count = len(run)
        if not _CLASS.fullmatch(run.data_class) or len(run.words) != WORD_LENGTH * count or not _are_words(run.words):
            msg = "a token's class or word isn't one"
            raise ValueError(msg)
        if not 0 < run.generation < 2**32:
            msg = "a generation is from 1 to 2**32 - 1"
            raise ValueError(msg)
        name = run.data_class.encode()
        parts += (bytes((len(name),)), name, _RUN.pack(run.generation, count), run.words)
        parts += (run.lengths.astype("<u4").tobytes(), run.sealed)
    data = b"".join(parts)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode(data: bytes) -> list[SealedValue]:
    """Values from bytes, in order. About a microsecond a value.

    Raises:
        CorruptionError: As `decode_runs`.
    """
    return [value for run in decode_runs(data) for value in run.values()]


def decode_runs(data: bytes) -> list[SealedRun]:
    """Runs from bytes, in order. Sealed bytes aren't copied: a run keeps all of `data`.

    Raises:
        CorruptionError: It isn't what `encode` makes, or a newer program made it.
    """
    if not data or data[0] != VERSION:
        version = data[0] if data else "none"
        raise CorruptionError(_PLACE, f"version {version}, this server reads version {VERSION}")
    end = len(data) - _CHECKSUM.size
    if end < _HEAD.size or _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[:end]):
        raise CorruptionError(_PLACE, "they fail their checksum")
    try:
        return list(_runs(data, end))
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise CorruptionError(_PLACE, "they aren't what this program writes") from error


def _runs(data: bytes, end: int) -> Iterator[SealedRun]:
    _, run_count = _HEAD.unpack_from(data)
    at = _HEAD.size
    for _ in range(run_count):
        class_begin = at + 1
        at = class_begin + data[at]
        data_class = data[class_begin:at].decode("ascii")
        generation, count = _RUN.unpack_from(data, at)
        words_begin = at + _RUN.size
        lengths_begin = words_begin + WORD_LENGTH * count
        sealed_begin = lengths_begin + 4 * count
        if sealed_begin > end:
            msg = "it ends within a run"
            raise ValueError(msg)
        words = data[words_begin:lengths_begin]
        if not _CLASS.fullmatch(data_class) or not _are_words(words) or not generation or not count:
            msg = "a token's class or word isn't one"
            raise ValueError(msg)
        lengths = np.frombuffer(data, "<u4", count, lengths_begin)
        at = sealed_begin + int(lengths.sum(dtype=np.int64))
        if at > end:
            msg = "it ends within a value"
            raise ValueError(msg)
        yield SealedRun(data_class, generation, words, lengths, memoryview(data)[sealed_begin:at])
    if at != end:
        msg = "something follows the last run"
        raise ValueError(msg)


def _are_words(words: bytes) -> bool:
    """Whether bytes are words of tokens, end to end."""
    octets = np.frombuffer(words, np.uint8).reshape(-1, WORD_LENGTH)
    return bool(_EPOCH[octets[:, 0]].all() and _MAC[octets[:, 1:]].all())


def joined(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> dict[str, bytes]:
    """The sidecars of two pieces of one frame as those of the frame: sealed values of both, in order."""
    both = {**first, **second}
    if SIDECAR in first and SIDECAR in second:
        both[SIDECAR] = encode_runs([*decode_runs(first[SIDECAR]), *decode_runs(second[SIDECAR])])
    return both
