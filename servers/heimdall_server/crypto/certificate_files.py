"""Certificates in a folder: written whole or not at all, keys readable by their owner only, renewed in time.

The layout of a folder:

* `ca.pem`, `ca-key.pem`: the authority. Only what mints reads the key.
* `server.pem`, `server-key.pem`, `client.pem`, `client-key.pem`: this machine's own leaves.
* `issued/<name>/`: `<name>.pem`, `<name>-key.pem`, `ca.pem`, `client.toml`: a folder to hand over.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from heimdall_server.crypto.certificates import (
    LEAF_DAYS,
    KeyPair,
    LeafNames,
    leaf_names,
    mint_authority,
    mint_leaf,
    remaining_share,
)
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError

RENEW_BELOW_SHARE: Final = 1 / 3
_DIRECTORY_MODE: Final = 0o700
_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644
_AUTHORITY: Final = "ca"
_ISSUED: Final = "issued"


def key_path(certificate: Path) -> Path:
    """Where the key of a certificate lies: `server.pem` → `server-key.pem`."""
    return certificate.with_name(f"{certificate.stem}-key.pem")


def write_atomically(path: Path, content: bytes, *, mode: int = _CERTIFICATE_MODE) -> None:
    """Write a file so that a reader sees the old one or the new one, and never a wider mode than asked."""
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_directory(path: Path) -> None:
    """Make a folder, and those above it, that only its owner can enter. One that exists stays as it is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read a PEM file of one or more certificates.

    Raises:
        ConfigurationError: Missing, unreadable, or not certificates.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        problem = f"{path}: {error.strerror}; 'heimdall certs init' makes certificates"
        raise ConfigurationError((problem,)) from error
    except ValueError as error:
        problem = f"{path}: not a PEM certificate"
        raise ConfigurationError((problem,)) from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read an ECDSA key.

    Raises:
        ConfigurationError: Missing, unreadable, not an unencrypted PEM key, or not ECDSA.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        problem = f"{path}: {error.strerror}"
        raise ConfigurationError((problem,)) from error
    except (ValueError, TypeError) as error:
        problem = f"{path}: not an unencrypted PEM key"
        raise ConfigurationError((problem,)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        problem = f"{path}: not an ECDSA key; other kinds would let TLS 1.2 in"
        raise ConfigurationError((problem,))
    return key


@dataclass(frozen=True, slots=True)
class CertificateFolder:
    """A folder of certificates."""

    path: Path

    @property
    def authority_path(self) -> Path:
        """The authority's certificate."""
        return self.path / f"{_AUTHORITY}.pem"

    def authority(self) -> KeyPair:
        """The authority, with its key.

        Raises:
            ConfigurationError: Missing or damaged.
        """
        return KeyPair(read_key(key_path(self.authority_path)), read_certificates(self.authority_path)[0])

    def ensure_authority(self, trust_domain: str) -> tuple[KeyPair, bool]:
        """The authority, minted if there is none.

        Returns:
            The authority, and whether it is new. One that exists keeps its own trust domain.

        Raises:
            ConfigurationError: Half of it is there: no second one is made over it.
        """
        if self.authority_path.exists() or key_path(self.authority_path).exists():
            return self.authority(), False
        authority = mint_authority(trust_domain)
        self._write(self.authority_path, authority)
        return authority, True

    def ensure_leaf(self, path: Path, authority: KeyPair, names: LeafNames, *, days: float = LEAF_DAYS) -> bool:
        """A leaf at `path`, minted if it is missing, of another authority, too old or lacks one of the names.

        Addresses that an earlier one of the same holder has are kept.

        Returns:
            Whether it was minted.
        """
        held = _held(path)
        if held is not None and held[1].identity == names.identity:
            dns = dict.fromkeys((*names.dns, *held[1].dns))
            ips = dict.fromkeys((*names.ips, *held[1].ips))
            names = LeafNames(names.identity, tuple(dns), tuple(ips))
            certificate = held[0]
            if (
                set(held[1].dns) == set(dns)
                and set(held[1].ips) == set(ips)
                and _is_signed_by(certificate, authority.certificate)
                and remaining_share(certificate) >= RENEW_BELOW_SHARE
            ):
                return False
        self.write_leaf(path, mint_leaf(authority, names, lifetime_days=days))
        return True

    def write_leaf(self, path: Path, leaf: KeyPair) -> None:
        """Write a leaf and its key."""
        self._write(path, leaf)

    def issued_path(self, name: str) -> Path:
        """Where the folder to hand over for `name` lies."""
        return self.path / _ISSUED / name

    def leaves(self) -> Iterator[Path]:
        """The leaf certificates here and in the folders to hand over, by name."""
        for path in sorted((*self.path.glob("*.pem"), *self.path.glob(f"{_ISSUED}/*/*.pem"))):
            if path.stem != _AUTHORITY and not path.stem.endswith("-key"):
                yield path

    def renew(self, *, force: bool = False) -> list[Path]:
        """Mint those leaves anew that have less than a third of their life left, with the names they have.

        Args:
            force: All of them.

        Returns:
            What was renewed.

        Raises:
            ConfigurationError: The authority or one of the leaves can't be read.
        """
        authority = self.authority()
        renewed = []
        for path in self.leaves():
            old = read_certificates(path)[0]
            if not force and remaining_share(old) >= RENEW_BELOW_SHARE:
                continue
            life = old.not_valid_after_utc - old.not_valid_before_utc
            try:
                names = leaf_names(old)
            except InvalidArgumentError as error:
                problem = f"{path}: {error}"
                raise ConfigurationError((problem,)) from error
            self.write_leaf(
                path, mint_leaf(authority, names, lifetime_days=max(1, round(life.total_seconds() / 86400)))
            )
            renewed.append(path)
        return renewed

    def _write(self, path: Path, pair: KeyPair) -> None:
        # The key first: a reader that polls the certificate then finds its key in place.
        write_atomically(key_path(path), pair.key_pem, mode=_KEY_MODE)
        write_atomically(path, pair.certificate_pem)


def _held(path: Path) -> tuple[x509.Certificate, LeafNames] | None:
    """The leaf at `path` and what it says, if it and its key can be used."""
    try:
        certificate = read_certificates(path)[0]
        if read_key(key_path(path)).public_key() != certificate.public_key():
            return None
        return certificate, leaf_names(certificate)
    except (ConfigurationError, InvalidArgumentError):
        return None


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True
