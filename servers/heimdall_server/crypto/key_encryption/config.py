"""Settings of the key-encryption key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from heimdall_server.domain.errors import ConfigurationError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class KekConfig:
    """Where the key is that wraps all the others."""

    kind: Literal["file", "env", "aws_kms", "vault_transit"] = "file"
    """`file`: a key file; `env`: a text from the environment; `aws_kms`: AWS Key Management Service; `vault_transit`: HashiCorp Vault."""
    file: Path | None = None
    """`file`: the key file; default: `keys/root.key` beside the data, made at the first start and never again."""
    value: SecretStr | None = None
    """`env`: the key itself, for secret stores that give variables; `heimdall-key-1:` and base64."""
    deadline_s: float = 10.0
    """`aws_kms`, `vault_transit`: for one call with all its tries, in seconds."""
    open_s: float = 60.0
    """For opening the whole keyring at the start, in seconds: a call for each key, eight at a time."""
    aws_key_id: str = ""
    """`aws_kms`: key id, key ARN, alias name or alias ARN of a symmetric key. Credentials come as AWS's SDKs find them."""
    aws_region: str = ""
    """`aws_kms`: region; empty: as AWS's SDKs find it."""
    aws_endpoint_url: str = ""
    """`aws_kms`: another address of the service, for example of a VPC endpoint; empty: AWS's own."""
    vault_address: str = ""
    """`vault_transit`: for example `https://vault.example.com:8200`; plain HTTP to this machine only."""
    vault_mount: str = "transit"
    """`vault_transit`: path at which the engine is mounted."""
    vault_key: str = ""
    """`vault_transit`: name of the key, of a type with associated data: `aes256-gcm96` (Vault's default) or `chacha20-poly1305`."""
    vault_key_derived: bool = False
    """`vault_transit`: whether the key was made with `derived=true`, so that Vault wants a context with each call."""
    vault_token_file: Path | None = None
    """`vault_transit`: file with the token, read anew for each call, so that Vault's agent may renew it."""
    vault_namespace: str = ""
    """`vault_transit`: namespace, of Vault Enterprise."""
    vault_ca_file: Path | None = None
    """`vault_transit`: PEM bundle that the server's certificate is checked against; none: the system's."""

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ConfigurationError: Something that the kind needs is missing; all problems at once.
        """
        problems = [f"{name}: kind {self.kind!r} needs it" for name in self._missing()]
        problems += [f"{name}: must be more than 0" for name in ("deadline_s", "open_s") if getattr(self, name) <= 0]
        for name in ("vault_address", "aws_endpoint_url"):
            problem = _address_problem(getattr(self, name))
            if problem:
                problems.append(f"{name}: {problem}")
        if problems:
            raise ConfigurationError(tuple(problems))

    def _missing(self) -> list[str]:
        needed = {"env": ("value",), "aws_kms": ("aws_key_id",), "vault_transit": ("vault_address", "vault_key")}
        missing = [name for name in needed.get(self.kind, ()) if not getattr(self, name)]
        if self.kind == "vault_transit" and self.vault_token_file is None:
            missing.append("vault_token_file")
        return missing


def _address_problem(address: str) -> str:
    if not address:
        return ""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        return "must be https://HOST[:PORT]"
    if parts.username is not None:
        return "may hold no name or password"
    if parts.scheme == "http" and host not in _LOOPBACK:
        return "plain HTTP would show keys to the network; use https"
    return ""
