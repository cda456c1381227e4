"""Checking a certificate of erasure without any server: Ed25519 over the very bytes that were signed."""

from __future__ import annotations

import json
from typing import Any


def check_certificate(kept: bytes, public_key: bytes) -> dict[str, Any]:
    """Check a certificate as `heimdall privacy certificate` writes it.

    Args:
        kept: JSON with `certificate` (a text, which was signed byte for byte) and `signature` (hexadecimal).
        public_key: 32 bytes, got another way than with the certificate.

    Returns:
        What the certificate says.

    Raises:
        ValueError: It isn't one, or the signature isn't this key's.
        MissingLibraryError: `cryptography` isn't installed.
    """
    from heimdall_client.errors import MissingLibraryError

    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        library = "cryptography"
        raise MissingLibraryError(library) from error
    try:
        value = json.loads(kept)
        document, signature = value["certificate"].encode(), bytes.fromhex(value["signature"])
        said = json.loads(document)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, document)
    except InvalidSignature as error:
        msg = "the signature isn't this key's: the certificate was changed, or another server signed it"
        raise ValueError(msg) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = "this isn't a certificate of erasure, or the key isn't 32 bytes"
        raise ValueError(msg) from error
    if not isinstance(said, dict):
        msg = "this isn't a certificate of erasure"
        raise ValueError(msg)  # noqa: TRY004 - the content is wrong, not its use
    return said
