"""What a record of a dump says, as 64 bits, by columns: the same record gives the same number in every version and on every machine.

It tells records of one dump with one number apart, no more: whoever wants to can make two records that agree.
"""

from __future__ import annotations

import functools
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.domain.records import TimeFlag
from heimdall_server.protect.columns import FlatMap, string_bytes

_CHUNK_ROWS: Final = 1_024
_CHUNK_BYTES: Final = 1 << 20
"""Hashed at a time: each byte of them is a number of 8 bytes meanwhile."""
_KEPT_POWERS: Final = 1 << 18
_BASE: Final = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64."""
_INVERSE: Final = pow(_BASE, -1, 2**64)
_MIX: Final = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33))
"""Source: the finaliser of MurmurHash3 (Austin Appleby, public domain)."""
_MAPS: Final = ("attributes", "attributes_number", "attributes_bool", "resource")
_Bounds: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def record_hashes(records: pa.RecordBatch) -> Hashes:
    """Hash what records say: their body, their attributes, and their time where they tell it themselves.

    The columns of a dump are all among its attributes, also those that are a host or a service; where such a thing isn't a column, a default
    may have made it, which says nothing of the record.

    Args:
        records: Of `RECORD_SCHEMA`.

    Returns:
        One a record, never 0. About a µs each.
    """
    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES * records.num_rows // max(1, records.nbytes)))
    parts = [_of_chunk(records.slice(begin, rows)) for begin in range(0, records.num_rows, rows)]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def text_hashes(texts: pa.StringArray) -> Hashes:
    """Hash texts, each for itself. 0.1 µs each, and as much for 10 bytes."""
    found = np.zeros(len(texts), np.uint64)
    for begin in range(0, len(texts), _CHUNK_ROWS):
        some = texts.slice(begin, _CHUNK_ROWS)
        found[begin : begin + len(some)] = _mixed(_texts(some, np.arange(len(some) + 1)))
    return found


def _of_chunk(records: pa.RecordBatch) -> Hashes:
    count = records.num_rows
    missing = records.column("time_flags").to_numpy() & int(TimeFlag.MISSING)
    times = records.column("time").cast(pa.int64()).to_numpy()
    found = _mixed(np.where(missing, 0, times).astype(np.uint64))
    found = _mixed(found ^ _texts(records.column("body"), np.arange(count + 1)))
    for name in _MAPS:
        entries = FlatMap.of(records.column(name))
        bounds = entries.offsets.astype(np.int64)
        found = _mixed(found ^ _names(entries.keys, bounds))
        if pa.types.is_string(entries.items.type):
            said = _texts(entries.items, bounds)
        elif pa.types.is_boolean(entries.items.type):
            said = _sums(np.asarray(entries.items.to_numpy(zero_copy_only=False), np.uint64) + np.uint64(1), bounds)
        else:
            said = _sums(np.asarray(entries.items.to_numpy(), np.float64).view(np.uint64), bounds)
        found = _mixed(found ^ said)
    overflow = records.column("overflow")
    more = np.asarray(pc.not_equal(overflow, "").to_numpy(zero_copy_only=False))
    if more.any():
        found = np.where(more, _mixed(found ^ _texts(overflow, np.arange(count + 1))), found)
    return np.where(found == 0, np.uint64(1), found)


def _texts(strings: pa.StringArray, bounds: _Bounds) -> Hashes:
    """Of the texts between each two bounds, as they follow each other."""
    if not len(strings):
        return np.zeros(len(bounds) - 1, np.uint64)
    ends, octets = string_bytes(strings)
    places = (ends - ends[0]).astype(np.int64)
    said = _sums(octets[ends[0] : ends[-1]].astype(np.uint64) + np.uint64(1), places[bounds])
    return _mixed(said) ^ _sums(np.diff(places).astype(np.uint64) + np.uint64(1), bounds)


def _names(keys: pa.StringArray, bounds: _Bounds) -> Hashes:
    """The same where the same few texts come again and again."""
    encoded = keys.dictionary_encode()
    hashes = _texts(encoded.dictionary, np.arange(len(encoded.dictionary) + 1))
    return _sums(hashes[encoded.indices.to_numpy()], bounds)


def _sums(words: Hashes, bounds: _Bounds) -> Hashes:
    """Polynomials whose coefficients are the words between each two bounds, at one place, modulo 2^64."""
    weighted = words * _powers(_BASE, len(words))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted, dtype=np.uint64)])
    # Each is divided by the power that its first word was multiplied by.
    starts = bounds[:-1]
    inverses = _powers(_INVERSE, len(words) + 1)
    found: Hashes = (sums[bounds[1:]] - sums[starts]) * inverses[starts]
    return found


def _powers(base: int, count: int) -> Hashes:
    if count > _KEPT_POWERS:
        return _made_powers(base, count)  # of a chunk with long texts
    return _kept_powers(base)[:count]


@functools.lru_cache(maxsize=2)
def _kept_powers(base: int) -> Hashes:
    return _made_powers(base, _KEPT_POWERS)


def _made_powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mixed(words: Hashes) -> Hashes:
    first, second, shift = _MIX
    words = (words ^ (words >> shift)) * first
    words = (words ^ (words >> shift)) * second
    return words ^ (words >> shift)
