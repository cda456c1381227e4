"""A key-encryption key in AWS Key Management Service: it never leaves the service, which sees the keys it wraps.

The context goes along as KMS's encryption context. AWS notes that in CloudTrail in plain: it holds the ring's id, kind, class and number.
botocore's own retries are used: exponential, with jitter, on throttling, 5xx and connections that break; a deadline stands over all.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from heimdall_server.crypto.envelope import KEY_BYTES
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.domain.errors import KeyMismatchError, StoreError

_STORE: Final = "aws kms"
_TRIES_MAX: Final = 4
_CONNECTIONS_MAX: Final = 8
_CONTEXT_NAME: Final = "heimdall"
_MISMATCH_CODES: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_HINTS: Final = {
    "NotFoundException": "no such key; check aws_key_id and aws_region",
    "AccessDeniedException": "check that it is the right key, and that the credentials may kms:Encrypt and kms:Decrypt with it",
    "DisabledException": "enable the key in KMS",
    "KMSInvalidStateException": "check the key's state in KMS; one that waits for its deletion can still be kept",
    "UnrecognizedClientException": "check the credentials",
    "NoCredentialsError": "give credentials as AWS's SDKs find them: variables, a profile, or the machine's role",
    "NoRegionError": "set aws_region",
}


class AwsKmsKeyEncryption:
    """Implements `KeyEncryption`. One client for the object's life, made at its first use; for one event loop."""

    def __init__(self, config: KekConfig) -> None:
        """Take the settings.

        Args:
            config: Of kind `aws_kms`.
        """
        self._key = config.aws_key_id
        self._deadline_s = config.deadline_s
        self._region = config.aws_region or None
        self._endpoint = config.aws_endpoint_url or None
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None  # botocore makes its methods at run time
        self._making = asyncio.Lock()

    @property
    def key_id(self) -> str:
        """`aws-kms:` and the key as configured."""
        return f"aws-kms:{self._key}"

    async def wrap(self, plain: bytes, *, context: bytes) -> bytes:
        """Encrypt a key.

        Raises:
            StoreError: The service can't be reached in time, or refuses.
        """
        answer = await self._call("encrypt", KeyId=self._key, Plaintext=plain, EncryptionContext=_context(context))
        return bytes(answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Decrypt a key.

        Raises:
            KeyMismatchError: Another key wrapped it, or it was changed.
            StoreError: The service can't be reached in time, or refuses.
        """
        # With the key's id, KMS refuses what another key of the account wrapped.
        answer = await self._call(
            "decrypt", KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=_context(context)
        )
        plain = bytes(answer["Plaintext"])
        if len(plain) != KEY_BYTES:
            raise KeyMismatchError("of another KEK", self.key_id)
        return plain

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        self._client = None
        await self._stack.aclose()

    async def _call(self, operation: str, **arguments: object) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._deadline_s):
                client = await self._made()
                answer: dict[str, Any] = await getattr(client, operation)(**arguments)
                return answer
        except ClientError as error:
            # The message names accounts and roles; the code is enough to look it up.
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in _MISMATCH_CODES:
                raise KeyMismatchError("of another KEK", self.key_id) from None
            raise StoreError(_STORE, f"{operation} with {self._key}: {_explained(code)}") from None
        except BotoCoreError as error:
            told = _explained(type(error).__name__)
            raise StoreError(_STORE, f"{operation} with {self._key}: {told}") from None
        except TimeoutError:
            raise StoreError(_STORE, f"{operation} with {self._key}: no answer within {self._deadline_s:g} s") from None

    async def _made(self) -> Any:  # noqa: ANN401 - see `_client`
        async with self._making:
            if self._client is None:
                config = AioConfig(
                    connect_timeout=self._deadline_s / 2,
                    read_timeout=self._deadline_s / 2,
                    max_pool_connections=_CONNECTIONS_MAX,
                    retries={"mode": "standard", "total_max_attempts": _TRIES_MAX},
                )
                maker = get_session().create_client(
                    "kms", region_name=self._region, endpoint_url=self._endpoint, config=config
                )
                self._client = await self._stack.enter_async_context(maker)
            return self._client


def _explained(code: str) -> str:
    return f"{code}, {_HINTS[code]}" if code in _HINTS else code


def _context(context: bytes) -> dict[str, str]:
    return {_CONTEXT_NAME: context.decode("ascii")}
