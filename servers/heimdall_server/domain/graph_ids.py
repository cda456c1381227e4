"""Ids of the graph's facts: 128 bits that follow from what a thing is, so that every instance derives them alike.

An entity's come from its canonical id (`canonical/identity.py`), which is keyed where it is personal; all others are hashes of their parts,
each kind in a domain of its own. A field's value is named by its entity where it has one: its text may be a token, and tokens change
with the epoch of the index key.

Source: RFC 7693 (BLAKE2b with a digest of 16 bytes and a person).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.graph import ID_BYTES, EdgeKind
from heimdall_server.domain.personal import BASE32

_ID: Final = pa.binary(ID_BYTES)
_DIGEST_CHARACTERS: Final = 32
_DIGITS: Final = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(BASE32.encode(), np.uint8)] = np.arange(32, dtype=np.uint8)


def entity_ids(identities: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """Ids of entities: the first 128 of the 160 bits of their canonical ids.

    The bits are a hash or a MAC over type and value, so they alone tell entities apart.

    Args:
        identities: As `canonical.identity` makes them; no nulls.

    Returns:
        As many ids. Vectorised: 0.1 µs each.

    Raises:
        ValueError: One isn't such an id.
    """
    count = len(identities)
    if not count:
        return pa.array([], _ID)
    offsets = np.frombuffer(identities.buffers()[1], np.int32)[identities.offset : identities.offset + count + 1]
    octets = np.frombuffer(identities.buffers()[2] or b"", np.uint8)
    if identities.null_count or np.diff(offsets).min() < _DIGEST_CHARACTERS:
        raise ValueError("entity ids end with 32 characters of base32")
    places = offsets[1:, None] - _DIGEST_CHARACTERS + np.arange(_DIGEST_CHARACTERS)
    digits = _DIGITS[octets[places]]
    if digits.max() > 31:
        raise ValueError("entity ids end with 32 characters of base32")
    # Eight digits of five bits are five octets.
    groups = digits.reshape(count, 4, 8).astype(np.uint64)
    shifts = np.arange(35, -1, -5, dtype=np.uint64)
    words = (groups << shifts).sum(axis=2, dtype=np.uint64)
    parts = (words[:, :, None] >> np.arange(32, -1, -8, dtype=np.uint64)).astype(np.uint8)
    return packed(np.ascontiguousarray(parts.reshape(count, 20)[:, :ID_BYTES]))


def dump_id(name: str) -> bytes:
    """Of a dump, by the operator's name for it."""
    return _digest(b"heimdall dump v1", name.encode("utf-8", "surrogatepass"))


def field_id(dump: bytes, name: str) -> bytes:
    """Of a field, by its dump's id and its name."""
    return _digest(b"heimdall field 1", dump, name.encode("utf-8", "surrogatepass"))


def field_value_ids(field: bytes, identities: Iterable[bytes]) -> pa.FixedSizeBinaryArray:
    """Of a field's values.

    Args:
        field: The field's id.
        identities: What each value is: its entity's id, or its text where it is no entity.

    Returns:
        As many ids. A µs each: ask for distinct values.
    """
    begin = hashlib.blake2b(field, digest_size=ID_BYTES, person=b"heimdall value 1")
    found = []
    for identity in identities:
        state = begin.copy()
        state.update(identity)
        found.append(state.digest())
    return pa.array(found, _ID)


def sighting_id(entity: bytes, source: str, day: int) -> bytes:
    """Of a sighting: entity, source and day.

    Args:
        entity: Its id.
        source: The source of logs, or the dump's name.
        day: Days since 1970, UTC.
    """
    return _digest(b"heimdall sight 1", entity, day.to_bytes(4, "big", signed=True), source.encode())


def edge_id(kind: EdgeKind, start: bytes, end: bytes, relation: str = "") -> bytes:
    """Of an edge: its kind, its ends and its relation."""
    return _digest(b"heimdall edge v1", start, end, kind.encode(), b"\0", relation.encode("utf-8", "surrogatepass"))


def packed(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> pa.FixedSizeBinaryArray:
    """A column of ids from their octets, shape (row, 16), C-contiguous; not copied."""
    return pa.FixedSizeBinaryArray.from_buffers(_ID, len(rows), [None, pa.py_buffer(rows)])


def octets(ids: pa.FixedSizeBinaryArray) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The octets of a column of ids, shape (row, 16); not copied. No nulls."""
    count = len(ids)
    data = np.frombuffer(ids.buffers()[1] or b"", np.uint8)
    return data[ids.offset * ID_BYTES : (ids.offset + count) * ID_BYTES].reshape(count, ID_BYTES)


def _digest(person: bytes, *parts: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=ID_BYTES, person=person)
    for part in parts:  # at most one of them has no fixed length, and it comes last
        state.update(part)
    return state.digest()
