"""Certificates for tests, a server with real mutual TLS, and clients of it. Its fixtures are known everywhere.

Importing it sets what gRPC must find in the environment before its first use of TLS.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from heimdall_server.rpc import early

os.environ[early.CIPHER_SUITES_VARIABLE] = early.CIPHER_SUITES

import grpc

from heimdall_server.crypto.certificate_files import key_path, write_atomically
from heimdall_server.crypto.certificates import (
    KeyPair,
    LeafNames,
    mint_authority,
    mint_leaf,
    parse_ips,
)
from heimdall_server.domain.identity import SpiffeId
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles

TRUST_DOMAIN = "test.heimdall"


@dataclass
class Pki:
    """One authority and what it signed, in a folder."""

    folder: Path
    trust_domain: str = TRUST_DOMAIN
    authority: KeyPair = field(init=False)

    def __post_init__(self) -> None:
        self.authority = mint_authority(self.trust_domain)
        write_atomically(self.ca_file, self.authority.certificate_pem)

    @property
    def ca_file(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def leaf(self, name: str, *, kind: str = "client", days: float = 1, age_days: float = 0) -> KeyPair:
        """A client's key and certificate."""
        now = dt.datetime.now(dt.UTC) - dt.timedelta(days=age_days)
        names = LeafNames(SpiffeId(self.trust_domain, kind, name))
        return mint_leaf(self.authority, names, now=now, lifetime_days=days)

    def server_leaf(self, name: str = "server", *, days: float = 1) -> KeyPair:
        """A server's key and certificate."""
        names = LeafNames(SpiffeId(self.trust_domain, "server", name), ("localhost",), parse_ips(("127.0.0.1", "::1")))
        return mint_leaf(self.authority, names, lifetime_days=days)

    def write(self, name: str, pair: KeyPair) -> Path:
        """Write a pair as `<name>.pem` and `<name>-key.pem`; returns the first."""
        path = self.folder / f"{name}.pem"
        write_atomically(key_path(path), pair.key_pem, mode=0o600)
        write_atomically(path, pair.certificate_pem)
        return path

    def tls_config(self, *, folder: str = "server", **trust: Path) -> TlsConfig:
        """The configuration of a server with a certificate of its own."""
        path = self.write(folder, self.server_leaf())
        return TlsConfig(path, key_path(path), {self.trust_domain: self.ca_file, **trust})

    def tls_files(self) -> TlsFiles:
        """Its files, read."""
        return TlsFiles(self.tls_config())

    def credentials(self, pair: KeyPair | None) -> grpc.ChannelCredentials:
        """What a client connects with."""
        if pair is None:
            return grpc.ssl_channel_credentials(self.authority.certificate_pem)
        return grpc.ssl_channel_credentials(self.authority.certificate_pem, pair.key_pem, pair.certificate_pem)

    @asynccontextmanager
    async def channel(self, address: str, pair: KeyPair | None, **options: int) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a server of this authority; `options` are channel arguments with `__` for a dot."""
        arguments = [(f"grpc.{key.replace('__', '.')}", value) for key, value in options.items()]
        # Else a second channel of the process would share the connection of the first, and its certificate.
        arguments.append(("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.secure_channel(address, self.credentials(pair), options=arguments) as channel:
            yield channel


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The authority of the trust domain `test.heimdall`, with server files `server.pem`."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def make_pki(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pki]:
    """Makes authorities of other trust domains."""
    return lambda trust_domain: Pki(tmp_path_factory.mktemp("pki"), trust_domain)
