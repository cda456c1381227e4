"""A key-encryption key that this process holds: from a key file or the environment (`crypto.key_file`)."""

from __future__ import annotations

from heimdall_server.crypto.envelope import RootKey, UnsealError
from heimdall_server.domain.errors import KeyMismatchError


class LocalKeyEncryption:
    """Wraps keys by AES-256-GCM. Implements `KeyEncryption`.

    A key of its own is derived, so that what the same root key wraps elsewhere (older data folders use it as the journal's root)
    can never be taken for a key of the ring.
    """

    def __init__(self, key: RootKey) -> None:
        """Take a key.

        Args:
            key: As `load_key` or `parse_key` gave it.
        """
        self._key = RootKey(key.derive("key encryption"))
        self._key_id = f"local:{key.fingerprint}"

    @property
    def key_id(self) -> str:
        """`local:` and the fingerprint."""
        return self._key_id

    async def wrap(self, plain: bytes, *, context: bytes) -> bytes:
        """Encrypt a key of 32 bytes."""
        return self._key.wrap(plain, context=context)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Decrypt a key.

        Raises:
            KeyMismatchError: Another key wrapped it, or it was changed.
        """
        try:
            return self._key.unwrap(wrapped, context=context)
        except UnsealError as error:
            raise KeyMismatchError("of another KEK", self._key_id) from error

    async def close(self) -> None:
        """There is nothing to let go of."""
