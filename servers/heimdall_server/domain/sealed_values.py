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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.personal import CLASS_PATTERN, WORD_LENGTH, WORD_PATTERN, SealedValue, TokenName

SIDECAR: Final = "vault"
"""Under which name they ride in a frame."""
VERSION: Final = 1
_PLACE: Final = "sealed values"
_HEAD: Final = struct.Struct("<BI")
_RUN: Final = struct.Struct("<II")
_CHECKSUM: Final = struct.Struct("<I")
_CLASS: Final = re.compile(CLASS_PATTERN, re.ASCII)
_WORDS: Final = re.compile(rf"(?:{WORD_PATTERN})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class SealedRun:
    """Sealed values of one class and generation, as columns: an object for each would cost more than sealing it."""

    data_class: str
    generation: int
    words: Sequence[str]
    sealed: Sequence[bytes]
    """As many, in order, none empty."""


def encode(values: Sequence[SealedValue]) -> bytes:
    """Values as bytes, in order. About half a microsecond a value.

    Raises:
        ValueError: A class, a word or a generation isn't what it must be; names none of them.
    """
    runs = []
    for (data_class, generation), group in itertools.groupby(values, lambda one: (one.name.data_class, one.generation)):
        run = list(group)
        runs.append(SealedRun(data_class, generation, [one.name.word for one in run], [one.sealed for one in run]))
    return encode_runs(runs)


def encode_runs(runs: Sequence[SealedRun]) -> bytes:
    """Runs as bytes, in order; none is empty.

    Raises:
        ValueError: As `encode`.
    """
    parts = [_HEAD.pack(VERSION, len(runs))]
    for run in runs:
        words, count = "".join(run.words), len(run.words)
        if not _CLASS.fullmatch(run.data_class) or len(words) != WORD_LENGTH * count or not _WORDS.fullmatch(words):
            msg = "a token's class or word isn't one"
            raise ValueError(msg)
        if not 0 < run.generation < 2**32:
            msg = "a generation is from 1 to 2**32 - 1"
            raise ValueError(msg)
        name = run.data_class.encode()
        parts += (bytes((len(name),)), name, _RUN.pack(run.generation, count), words.encode())
        parts.append(np.fromiter(map(len, run.sealed), "<u4", count).tobytes())
        parts += run.sealed
    data = b"".join(parts)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode(data: bytes) -> list[SealedValue]:
    """Values from bytes, in order. About a microsecond a value.

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
        values = [one for run in _runs(data, end) for one in run]
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise CorruptionError(_PLACE, "they aren't what this program writes") from error
    return values


def _runs(data: bytes, end: int) -> Iterator[list[SealedValue]]:
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
        words = data[words_begin:lengths_begin].decode("ascii")
        if not _CLASS.fullmatch(data_class) or not _WORDS.fullmatch(words) or not generation or not count:
            msg = "a token's class or word isn't one"
            raise ValueError(msg)
        lengths = np.frombuffer(data, "<u4", count, lengths_begin)
        ends = (sealed_begin + np.cumsum(lengths, dtype=np.int64)).tolist()
        at = ends[-1]
        if at > end:
            msg = "it ends within a value"
            raise ValueError(msg)
        begins = [sealed_begin, *ends[:-1]]
        yield [
            SealedValue(TokenName(data_class, words[i * WORD_LENGTH : (i + 1) * WORD_LENGTH]), generation, data[a:b])
            for i, (a, b) in enumerate(zip(begins, ends, strict=True))
        ]
    if at != end:
        msg = "something follows the last run"
        raise ValueError(msg)


def joined(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> dict[str, bytes]:
    """The sidecars of two pieces of one frame as those of the frame: sealed values of both, in order."""
    both = {**first, **second}
    if SIDECAR in first and SIDECAR in second:
        both[SIDECAR] = encode([*decode(first[SIDECAR]), *decode(second[SIDECAR])])
    return both
