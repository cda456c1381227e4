"""AES-256-GCM in two steps: a root key wraps data keys, a data key seals what is stored.

Each thing that is written by one process in one go (a journal segment) has its own random data key, which
lies beside it, wrapped. So a counter is a safe nonce, and overwriting the wrapped key destroys the data even
where its blocks linger on a disk. Where keys live and how they are minted is `key_file`'s matter.

Sources: NIST SP 800-38D (nonces: deterministic construction, section 8.2.1), SP 800-108 for derivation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
WRAPPED_KEY_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES
SEAL_BYTES_MAX: Final = 2**31 - 1 - TAG_BYTES
"""Most that one call of the library takes."""


class UnsealError(ValueError):
    """Sealed bytes that were changed, moved, or belong to another key; callers name the place."""


@dataclass(frozen=True, slots=True)
class RootKey:
    """The key-encryption key. Everything else is wrapped under it or derived from it."""

    secret: bytes = field(repr=False)
    """32 random bytes."""

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            msg = f"a root key has {KEY_BYTES} bytes"
            raise ValueError(msg)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the key and tell nothing about it."""
        return self.derive("fingerprint")[:8].hex()

    def derive(self, purpose: str) -> bytes:
        """An independent key of 32 bytes for a purpose, for example the MAC of resume tokens.

        Args:
            purpose: What the key is for; the same purpose gives the same key.
        """
        return HKDFExpand(SHA256(), KEY_BYTES, b"heimdall/v1/" + purpose.encode()).derive(self.secret)

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
        """Encrypt a data key.

        Args:
            data_key: 32 bytes.
            context: What the key belongs to; unwrapping needs the same.

        Returns:
            60 bytes: a random nonce, the sealed key, the tag.
        """
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.derive("wrap")).encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Decrypt a data key.

        Raises:
            UnsealError: Not what `wrap` made under this key and context.
        """
        try:
            return AESGCM(self.derive("wrap")).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            msg = "the wrapped data key was changed or belongs to another key"
            raise UnsealError(msg) from error


class DataCipher:
    """Seals and opens blobs under one data key.

    Thread-safe. Large calls release the GIL and run at 8 GB/s into memory that was used before, about a tenth
    of that into fresh pages. Never seal two things under the same (lane, counter): the nonce is made of them.
    """

    def __init__(self, data_key: bytes) -> None:
        self._aead = AESGCM(data_key)

    @staticmethod
    def new_key() -> bytes:
        """A random data key."""
        return os.urandom(KEY_BYTES)

    def seal_into(self, plain: memoryview | bytes, out: memoryview, *, lane: int, counter: int, context: bytes) -> None:
        """Encrypt into a buffer.

        Args:
            plain: At most `SEAL_BYTES_MAX` bytes.
            out: Exactly `len(plain) + TAG_BYTES` bytes.
            lane: Which of the blobs that share the counter; 0 to 2^32 - 1.
            counter: 0 to 2^64 - 1; with `lane`, used once for a data key.
            context: Authenticated, not stored; opening needs the same.
        """
        self._aead.encrypt_into(_nonce(lane, counter), plain, context, out)

    def open_into(self, sealed: memoryview, out: memoryview, *, lane: int, counter: int, context: bytes) -> None:
        """Decrypt into a buffer.

        Args:
            sealed: What `seal_into` made.
            out: Exactly `len(sealed) - TAG_BYTES` bytes.
            lane: As sealed.
            counter: As sealed.
            context: As sealed.

        Raises:
            UnsealError: A bit differs; `out` then holds nothing of use.
        """
        try:
            self._aead.decrypt_into(_nonce(lane, counter), sealed, context, out)
        except (InvalidTag, ValueError) as error:
            msg = "the content doesn't match its authentication tag"
            raise UnsealError(msg) from error


def _nonce(lane: int, counter: int) -> bytes:
    return lane.to_bytes(4, "little") + counter.to_bytes(8, "little")
