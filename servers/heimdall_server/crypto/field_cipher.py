"""Encrypts single values where they stand (`FieldCipher`): AES-256-GCM, bound to class, field and record.

text = base64url(version (1) ‖ salt (16) ‖ row (4) ‖ counter (4) ‖ ciphertext ‖ tag (16)), integers big-endian, without `=`.

**Keys and nonces.** The key never encrypts. Each call draws a random salt of 128 bits and encrypts under HKDF-SHA256(key, salt), with
a counter from 0 as the nonce, so that no nonce repeats under a sub-key; two calls share a sub-key only where two salts are equal: at
most n²/2^129 among n calls. A call has at most 2^32 values.

**Record.** Salt and row together name the record: nobody else has them, they are authenticated with the value, and so is the field.
So no value can stand in for one of another class or field, and of two values it can be told whether they came in one record.

**Lengths** are hidden as those of sealed values are (`sealing.pad`).

Sources: NIST SP 800-38D, RFC 5869, RFC 4648 section 5.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from heimdall_server.crypto.envelope import KEY_BYTES, TAG_BYTES
from heimdall_server.crypto.sealing import pad, unpad
from heimdall_server.domain.errors import IntegrityError

VERSION: Final = 1
SALT_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">B{SALT_BYTES}sII")
_NONCE: Final = struct.Struct(">QI")
_INFO: Final = b"heimdall/v1/field"
_MANY: Final = 2**32 - 1
"""Row of a value that stands for several records."""


class AesGcmFieldCipher:
    """See the module. Thread-safe; about three microseconds a value."""

    def __init__(self, key: bytes) -> None:
        """Take a key.

        Args:
            key: 32 bytes, for nothing else.
        """
        if len(key) != KEY_BYTES:
            msg = f"a key has {KEY_BYTES} bytes"
            raise ValueError(msg)
        self._key = key

    def encrypt(self, data_class: str, values: Sequence[str], fields: Sequence[str], rows: Sequence[int]) -> list[str]:
        """See the port; a row of -1 stands for several records."""
        salt = os.urandom(SALT_BYTES)
        cipher = self._cipher(salt)
        texts: list[str] = []
        for counter, (value, field, row) in enumerate(zip(values, fields, rows, strict=True)):
            head = _HEAD.pack(VERSION, salt, row if row >= 0 else _MANY, counter)
            sealed = cipher.encrypt(_NONCE.pack(0, counter), pad(value.encode()), _bound(head, data_class, field))
            texts.append(_text(head + sealed))
        return texts

    def decrypt(self, data_class: str, text: str, field: str) -> str:
        """See the port."""
        place = f"an encrypted value of class {data_class}"
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise IntegrityError(place) from error
        if len(raw) < _HEAD.size + TAG_BYTES or raw[0] != VERSION or _text(raw) != text:
            raise IntegrityError(place)
        head = raw[: _HEAD.size]
        _, salt, _, counter = _HEAD.unpack(head)
        try:
            padded = self._cipher(salt).decrypt(
                _NONCE.pack(0, counter), raw[_HEAD.size :], _bound(head, data_class, field)
            )
            return unpad(padded).decode()
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(place) from error

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, _INFO).derive(self._key))


def _bound(head: bytes, data_class: str, field: str) -> bytes:
    name = data_class.encode()
    return head + len(name).to_bytes(2, "big") + name + field.encode()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
