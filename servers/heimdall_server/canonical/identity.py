"""Which entity a canonical value is: an id that every instance derives alike.

An id is the type, a hyphen, one character for the version and kind of derivation, and 160 bits in lower-case base32 (RFC 4648): of
SHA-256 over type and value, or, for personal values, of a MAC under the identity key. Without that key nobody can tell whether an
id is a given person's, as anyone could who hashed guesses. Message and MAC each have a domain of their own, and type and value can't run
into each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.personal import BASE32

PERSONAL_TYPES: Final = frozenset({"email", "phone", "iban", "card"})
"""Types that always name people; values of other types (an IP address) may, and then have a keyed id too."""
ID_BYTES: Final = 20
MAC_BYTES_MIN: Final = ID_BYTES
_ALPHABET: Final = np.frombuffer(BASE32.encode(), np.uint8)
_DIGITS: Final = 32
"""Of 160 bits."""

_OPEN: Final = ("1", b"heimdall entity v1\0")
_KEYED: Final = ("k", b"heimdall personal entity v1\0")


def entity_ids(type_name: str, values: pa.StringArray) -> pa.StringArray:
    """Ids of entities that aren't personal.

    Args:
        type_name: Of the values: a name of the catalogue of types.
        values: Canonical.

    Returns:
        As many ids; null where a value is.

    Raises:
        ValueError: Values of the type are personal: their ids need the identity key.
    """
    if type_name in PERSONAL_TYPES:
        raise ValueError(f"{type_name} is a personal type: its ids are made with the identity key")
    return _ids(type_name, values, _OPEN, lambda message: hashlib.sha256(message).digest())


def personal_entity_ids(type_name: str, values: pa.StringArray, mac: Callable[[bytes], bytes]) -> pa.StringArray:
    """Ids of personal entities.

    Args:
        type_name: Of the values: a type, or a class of personal data.
        values: Canonical, or in their personal form.
        mac: A MAC under the identity key, of at least `MAC_BYTES_MIN` bytes. Called once a distinct value.

    Returns:
        As many ids; null where a value is.

    Raises:
        ValueError: The MAC is too short.
    """
    return _ids(type_name, values, _KEYED, mac)


def message_of(type_name: str, value: str, domain: bytes) -> bytes:
    """What is hashed: no other domain, type or value gives the same bytes."""
    name = type_name.encode()
    return domain + len(name).to_bytes(2, "big") + name + value.encode("utf-8", "surrogatepass")


def _ids(
    type_name: str, values: pa.StringArray, derivation: tuple[str, bytes], digest: Callable[[bytes], bytes]
) -> pa.StringArray:
    version, domain = derivation
    encoded = values.dictionary_encode()
    head = message_of(type_name, "", domain)
    digests = [digest(head + value.encode("utf-8", "surrogatepass")) for value in encoded.dictionary.to_pylist()]
    shortest = min(map(len, digests), default=MAC_BYTES_MIN)
    if shortest < MAC_BYTES_MIN:
        raise ValueError(f"the MAC has {shortest} bytes; it needs {MAC_BYTES_MIN}")
    return _named(f"{type_name}-{version}", digests).take(encoded.indices)


def _named(prefix: str, digests: Sequence[bytes]) -> pa.StringArray:
    """Prefix and base32 of each digest's first 160 bits, all at once."""
    octets = np.frombuffer(b"".join(one[:ID_BYTES] for one in digests), np.uint8).reshape(len(digests), ID_BYTES)
    # Five octets are eight digits of five bits.
    words = octets.reshape(-1, 4, 5).astype(np.uint64) @ (np.uint64(1) << np.arange(32, -1, -8, dtype=np.uint64))
    digits = (words[:, :, None] >> np.arange(35, -1, -5, dtype=np.uint64)) & np.uint64(31)
    written = _ALPHABET[digits].reshape(len(digits), _DIGITS)
    head = np.frombuffer(prefix.encode(), np.uint8)
    rows = np.concatenate([np.broadcast_to(head, (len(digests), len(head))), written], axis=1)
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * (len(head) + _DIGITS)
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows)))
