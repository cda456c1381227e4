"""Names for values that only the holder of a key can make: the words of tokens, and keyed hashes.

word = epoch's character ‖ base32(HMAC-SHA256(index key, domain ‖ epoch ‖ len(class) ‖ class ‖ value)[:16]), lower-case. The class is
length-prefixed, so no class and value run together with another's. Both states of HMAC (RFC 2104: the hash after the inner and
after the outer padded key) are prepared once for a class, so that a value costs two compressions and no set-up.

Sources: RFC 2104, RFC 4648 section 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.domain.personal import BASE32, EPOCHS, MAC_BYTES, WORD_LENGTH

_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(0x36 for _ in range(_BLOCK_BYTES))
_OUTER: Final = bytes(0x5C for _ in range(_BLOCK_BYTES))
_WORD_DOMAIN: Final = b"heimdall/v1/word\0"
_DIGEST_DOMAIN: Final = b"heimdall/v1/digest\0"
_BASE32: Final = np.frombuffer(BASE32.encode(), np.uint8)
_LETTERS: Final = WORD_LENGTH - 1
_CLASSES_MAX: Final = 4096
"""Classes whose state is kept; a sender can't name classes, so this is never reached."""


class _KeyedHash:
    """HMAC-SHA256 with the states behind the key and a prefix prepared."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, prefix: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(_xor(block, _INNER) + prefix)
        self._outer = hashlib.sha256(_xor(block, _OUTER))

    def digests(self, values: Iterable[str]) -> list[bytes]:
        """The MACs of values, 32 bytes each."""
        inner_copy, outer_copy = self._inner.copy, self._outer.copy
        macs: list[bytes] = []
        append = macs.append
        for value in values:
            inner, outer = inner_copy(), outer_copy()
            inner.update(value.encode())
            outer.update(inner.digest())
            append(outer.digest())
        return macs


class BlindIndex:
    """Makes words under one index key. Thread-safe."""

    def __init__(self, key: bytes, epoch: int) -> None:
        """Make an index.

        Args:
            key: 32 bytes.
            epoch: Index into `EPOCHS`.
        """
        self._key = key
        self._epoch = EPOCHS[epoch]
        self._states: dict[str, _KeyedHash] = {}

    def words(self, data_class: str, values: Sequence[str]) -> list[str]:
        """The words of canonical values, in order."""
        if not values:
            return []
        state = self._states.get(data_class)
        if state is None:
            prefix = _WORD_DOMAIN + self._epoch.encode() + _prefixed(data_class)
            state = _remember(self._states, data_class, _KeyedHash(self._key, prefix))
        return _spell(self._epoch, state.digests(values))


class KeyedDigests:
    """Keyed hashes of values: 32 hexadecimal digits. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """Make it.

        Args:
            key: 32 bytes.
        """
        self._key = key
        self._states: dict[str, _KeyedHash] = {}

    def digests(self, data_class: str, values: Sequence[str]) -> list[str]:
        """The hashes of canonical values, in order."""
        state = self._states.get(data_class)
        if state is None:
            state = _remember(self._states, data_class, _KeyedHash(self._key, _DIGEST_DOMAIN + _prefixed(data_class)))
        return [mac[:MAC_BYTES].hex() for mac in state.digests(values)]


def _remember(states: dict[str, _KeyedHash], data_class: str, state: _KeyedHash) -> _KeyedHash:
    if len(states) >= _CLASSES_MAX:
        states.clear()
    states[data_class] = state
    return state


def _prefixed(data_class: str) -> bytes:
    encoded = data_class.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _spell(epoch: str, macs: Sequence[bytes]) -> list[str]:
    """Words of MACs: 16 bytes are three groups of five (eight letters each) and a byte (two letters)."""
    count = len(macs)
    octets: npt.NDArray[np.uint8] = np.frombuffer(b"".join(macs), np.uint8).reshape(count, -1)[:, :MAC_BYTES]
    wide = np.zeros((count, 4, 8), np.uint8)
    for group in range(3):
        wide[:, group, 3:] = octets[:, 5 * group : 5 * group + 5]
    wide[:, 3, 3] = octets[:, 15]
    bits = wide.view(">u8").reshape(count, 4).astype(np.uint64)
    shifts = np.arange(35, -1, -5, dtype=np.uint64)
    letters = ((bits[:, :, None] >> shifts) & np.uint64(31)).reshape(count, 32)[:, :_LETTERS].astype(np.uint8)
    rows = np.empty((count, WORD_LENGTH), np.uint8)
    rows[:, 0] = ord(epoch)
    rows[:, 1:] = _BASE32[letters]
    text = rows.tobytes().decode("ascii")
    return [text[at : at + WORD_LENGTH] for at in range(0, count * WORD_LENGTH, WORD_LENGTH)]
