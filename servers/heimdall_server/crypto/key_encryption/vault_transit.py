"""A key-encryption key in HashiCorp Vault's transit engine: it never leaves Vault, which sees the keys it wraps.

Uses `POST /v1/<mount>/encrypt/<key>` and `…/decrypt/<key>`. The context is the cipher's associated data; for a key made with
`derived=true` it is Vault's key-derivation context, too. Vault names the key's version in front of what it wrapped (`vault:v3:…`):
after a rotation in Vault old wraps still open, and `rewrap` moves all to the newest version.

Tries again, with exponential waits and full jitter, where a connection breaks and on 412 (a standby that is behind), 429 and 5xx (sealed, no leader).
Source: https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import random
import re
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from heimdall_server.crypto.envelope import KEY_BYTES
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError, StoreError

_STORE: Final = "vault transit"
_TRIES_MAX: Final = 5
_WAIT_FIRST_S: Final = 0.1
_WAIT_MAX_S: Final = 2.0
_CONNECTIONS_MAX: Final = 8
_ANSWER_BYTES_MAX: Final = 64 << 10
_TOKEN_BYTES_MAX: Final = 8 << 10
_OK: Final = 200
_BAD_REQUEST: Final = 400
_AGAIN: Final = frozenset({412, 429, 500, 502, 503, 504})
_VERSION: Final = re.compile(r"vault:v([0-9]{1,9}):")
_HINTS: Final = {
    403: "permission denied; check the token and its policy",
    404: "nothing there; check the mount and the name of the key",
}


class VaultTransitKeyEncryption:
    """Implements `KeyEncryption`. One session for the object's life, made at its first use; for one event loop."""

    def __init__(self, config: KekConfig) -> None:
        """Take the settings.

        Args:
            config: Of kind `vault_transit`.

        Raises:
            ConfigurationError: The bundle of certificates can't be used.
        """
        if config.vault_token_file is None:
            raise ConfigurationError(("vault_token_file: kind 'vault_transit' needs it",))
        self._base = config.vault_address.rstrip("/")
        self._name = f"{config.vault_mount.strip('/')}/{config.vault_key}"
        self._mount, self._key = quote(config.vault_mount.strip("/")), quote(config.vault_key, safe="")
        self._derived = config.vault_key_derived
        self._token_file = config.vault_token_file
        self._namespace = config.vault_namespace
        self._deadline_s = config.deadline_s
        self._tls = _tls(config.vault_ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._version = ""

    @property
    def key_id(self) -> str:
        """`vault-transit:`, mount and name; after a wrap also the version that made it."""
        return f"vault-transit:{self._name}{self._version}"

    async def wrap(self, plain: bytes, *, context: bytes) -> bytes:
        """Encrypt a key.

        Raises:
            StoreError: Vault can't be reached in time, or refuses.
        """
        data = await self._call("encrypt", {"plaintext": base64.b64encode(plain).decode()}, context)
        found = _VERSION.match(wrapped := str(data.get("ciphertext", "")))
        if found is None:
            raise StoreError(_STORE, f"encrypt with {self._name}: an answer without a ciphertext")
        self._version = f":v{found[1]}"
        return wrapped.encode()

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Decrypt a key.

        Raises:
            KeyMismatchError: Another key wrapped it, or it was changed.
            StoreError: Vault can't be reached in time, or refuses.
        """
        ciphertext = wrapped.decode("ascii", errors="replace")
        if _VERSION.match(ciphertext) is None:
            raise KeyMismatchError("of another KEK", self.key_id)
        data = await self._call("decrypt", {"ciphertext": ciphertext}, context)
        try:
            plain = base64.b64decode(str(data.get("plaintext", "")), validate=True)
        except binascii.Error:
            plain = b""
        if len(plain) != KEY_BYTES:
            raise KeyMismatchError("of another KEK", self.key_id)
        return plain

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, operation: str, body: dict[str, str], context: bytes) -> dict[str, Any]:
        encoded = base64.b64encode(context).decode()
        body["associated_data"] = encoded
        if self._derived:
            body["context"] = encoded
        what = f"{operation} with {self._name}"
        problem = "not tried"
        try:
            async with asyncio.timeout(self._deadline_s):
                for attempt in range(_TRIES_MAX):
                    if attempt:
                        wait_s = min(_WAIT_MAX_S, _WAIT_FIRST_S * 2**attempt)
                        await asyncio.sleep(random.uniform(0, wait_s))  # noqa: S311 - spreads callers, guards nothing
                    try:
                        status, answer = await self._post(operation, body)
                    except aiohttp.ClientError as error:
                        problem = type(error).__name__
                        continue
                    if status == _OK:
                        return answer
                    if operation == "decrypt" and status == _BAD_REQUEST:
                        raise KeyMismatchError("of another KEK", self.key_id)
                    problem = f"status {status}, {_HINTS.get(status, 'see the log of Vault')}"
                    if status not in _AGAIN:
                        break
        except TimeoutError:
            problem = f"no answer within {self._deadline_s:g} s; before that: {problem}"
        raise StoreError(_STORE, f"{what}: {problem}")

    async def _post(self, operation: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        headers = {"X-Vault-Token": await asyncio.to_thread(_read_token, self._token_file), "X-Vault-Request": "true"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        url = f"{self._base}/v1/{self._mount}/{operation}/{self._key}"
        # A redirect would carry the token to whoever is named in it; a standby of Vault forwards by itself.
        async with self._opened().post(url, json=body, headers=headers, allow_redirects=False) as response:
            content = await response.content.read(_ANSWER_BYTES_MAX)
            if response.status != _OK:
                return response.status, {}
            try:
                data = json.loads(content)["data"]
            except (ValueError, KeyError, TypeError):
                data = None
            return response.status, data if isinstance(data, dict) else {}

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_CONNECTIONS_MAX, ssl=self._tls)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(self._deadline_s))
        return self._session


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError) as error:
        raise ConfigurationError((f"vault_ca_file: {ca_file}: not a PEM bundle that can be read",)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(_TOKEN_BYTES_MAX).decode("ascii").strip()
    except OSError as error:
        raise StoreError(_STORE, f"token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or any(not character.isprintable() for character in token):
        raise StoreError(_STORE, f"token file {path}: holds no token")
    return token
