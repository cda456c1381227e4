"""The tokens file: who is let in without a certificate. Holds digests only; a token is shown once, when it is made.

TOML, a table a token:

    [tokens.fluent-bit]
    sha256 = "…"
    principal = "spiffe://heimdall.local/token/fluent-bit"

Tokens are 256 random bits, so a fast digest without salt is as good as a slow one. What the principal may do is up to
`access.grants`, as for everybody else.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from heimdall_server.domain.errors import ConfigurationError, HeimdallError
from heimdall_server.domain.identity import Principal, SpiffeId

_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 1.0
"""The file is looked at no more often than this."""
_OTHERS_MAY: Final = 0o027
"""Bits that the file's mode must not have, as for a key."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
COUNT_MAX: Final = 1_000
"""Each request with a token is compared with all of them."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as the file has it."""

    name: str
    digest: bytes
    principal: SpiffeId


def mint() -> tuple[str, str]:
    """A new token, and its digest for the file."""
    token = "hdl_" + secrets.token_urlsafe(32)
    return token, digest_of(token).hex()


def digest_of(token: str) -> bytes:
    """What the file has in a token's place."""
    return hashlib.sha256(token.encode()).digest()


def read(path: Path) -> tuple[Token, ...]:
    """Read a tokens file.

    Raises:
        ConfigurationError: It can't be read, others may, or it isn't what it should be; all problems.
    """
    try:
        others_may = path.stat().st_mode & _OTHERS_MAY
        tables = tomllib.loads(path.read_text()).get("tokens", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError((f"{path}: {error}",)) from error
    problems = [f"{path}: open to others than its owner; chmod 600 it"] if others_may else []
    if not isinstance(tables, Mapping) or len(tables) > COUNT_MAX:
        problems.append(f"{path}: must hold tables [tokens.NAME], at most {COUNT_MAX}")
        tables = {}
    found: list[Token] = []
    for name, table in tables.items():
        try:
            found.append(_token(name, table))
        except ConfigurationError as error:
            problems += [f"{path}: tokens.{name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigurationError(tuple(problems))
    return tuple(found)


def _token(name: str, table: Any) -> Token:  # noqa: ANN401 - whatever the file holds
    if not NAME.fullmatch(name):
        raise ConfigurationError(("a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first",))
    if not isinstance(table, Mapping) or set(table) != {"sha256", "principal"}:
        raise ConfigurationError(("takes `sha256` and `principal`",))
    if not _DIGEST.fullmatch(str(table["sha256"])):
        raise ConfigurationError(("sha256: must be 64 hexadecimal digits",))
    try:
        principal = SpiffeId.parse(str(table["principal"]))
    except HeimdallError as error:
        raise ConfigurationError((f"principal: {error}",)) from error
    return Token(name, bytes.fromhex(str(table["sha256"])), principal)


class TokensFile:
    """The tokens in force. A bad new file keeps the old ones. For one event loop."""

    def __init__(self, path: Path, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It can't be used.
        """
        self._path = path
        self._monotonic_s = monotonic_s
        self._seen = self._signature()
        self._tokens = read(path)
        self._looked_s = monotonic_s()

    def find(self, token: str, *, name: str | None = None) -> Principal | None:
        """Whose token it is; None: nobody's.

        The time that it takes says nothing of the tokens that there are: all are compared, whole.

        Args:
            token: As the caller sent it.
            name: The name that the caller gave, which must then be the token's.
        """
        self._look()
        digest = digest_of(token)
        found: Token | None = None
        for candidate in self._tokens:
            if hmac.compare_digest(candidate.digest, digest) and name in (None, candidate.name):
                found = candidate
        return None if found is None else Principal.of(found.principal, fingerprint=found.digest.hex())

    def _look(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._looked_s < _POLL_S:
            return
        self._looked_s = now_s
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._tokens = read(self._path)
        except ConfigurationError as error:
            _LOG.error("new tokens refused, the old ones stay in force", extra={"problems": list(error.problems)})
            return
        _LOG.info("tokens reloaded", extra={"count": len(self._tokens)})

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
