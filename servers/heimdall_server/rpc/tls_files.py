"""The files of the server's TLS: read, checked and read again when they change. A bad new file keeps the old one.

Free of gRPC: what is served by another stack (the ASGI edge) takes its certificates from here, too.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from heimdall_server.crypto.certificate_files import read_certificates, read_key
from heimdall_server.crypto.certificates import leaf_names
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError
from heimdall_server.domain.identity import SpiffeId, check_trust_domain

_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 1.0
"""Files are looked at no more often than this."""
_OTHERS_MAY: Final = 0o027
"""Bits that a key's mode must not have. The group may read: container platforms mount secrets that way."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Where the certificates are."""

    certificate_file: Path
    """The server's leaf, followed by intermediates if it has any. ECDSA; PEM."""
    key_file: Path
    """Its key; unencrypted PEM, not readable by others."""
    trust: Mapping[str, Path] = field(default_factory=dict)
    """Trust domain → PEM bundle of the authorities that vouch for it. The server's own domain must be among them."""
    denied_serials_file: Path | None = None
    """Serial numbers of certificates taken back: hexadecimal, one a line, `#` begins a comment."""

    def files(self) -> tuple[Path, ...]:
        """All of them."""
        denied = () if self.denied_serials_file is None else (self.denied_serials_file,)
        return (self.certificate_file, self.key_file, *self.trust.values(), *denied)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files said, checked."""

    version: int
    """Grows with each reload."""
    identity: SpiffeId
    certificate: x509.Certificate
    certificate_pem: bytes
    key_pem: bytes
    bundles: Mapping[str, tuple[x509.Certificate, ...]]
    """Trust domain → its authorities."""
    roots_pem: bytes
    """All authorities, for the handshake."""
    denied_serials: frozenset[int]

    def own_roots_pem(self) -> bytes:
        """The authorities of the server's own trust domain."""
        return _pem(self.bundles[self.identity.trust_domain])


class TlsFiles:
    """The current material. Thread-safe: gRPC asks from its own threads."""

    def __init__(self, config: TlsConfig, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """Read the files.

        Raises:
            ConfigurationError: They can't be used; all problems.
        """
        self._config = config
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._seen = _signature(config)
        self._current = load(config, version=1)
        self._looked_s = monotonic_s()

    @property
    def current(self) -> TlsMaterial:
        """What is in force, after a look at the files if the last one is a second ago.

        Cost: a lock; at most once a second a `stat` of each file, and what a reload takes (about 2 ms).
        """
        with self._lock:
            now = self._monotonic_s()
            if now - self._looked_s >= _POLL_S:
                self._looked_s = now
                self._reload()
            return self._current

    def refresh(self) -> TlsMaterial:
        """As `current`, with a look at the files in any case."""
        with self._lock:
            self._looked_s = self._monotonic_s()
            self._reload()
            return self._current

    def _reload(self) -> None:
        signature = _signature(self._config)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._current = load(self._config, version=self._current.version + 1)
        except ConfigurationError as error:
            _LOG.error("new certificates refused, the old ones stay in force", extra={"problems": list(error.problems)})
            return
        _LOG.info(
            "certificates reloaded",
            extra={
                "identity": str(self._current.identity),
                "expires": self._current.certificate.not_valid_after_utc.isoformat(),
            },
        )


def load(config: TlsConfig, *, version: int = 1, now: dt.datetime | None = None) -> TlsMaterial:
    """Read and check the files.

    Args:
        config: Where they are.
        version: To give to what is read.
        now: UTC; none: the clock's.

    Raises:
        ConfigurationError: A file is missing or damaged, the leaf isn't ECDSA, isn't valid now, has no SPIFFE-style
            name, isn't for servers, isn't vouched for by its own trust domain's bundle, or its key isn't the file's.
    """
    problems: list[str] = []
    bundles: dict[str, tuple[x509.Certificate, ...]] = {}
    for trust_domain, path in config.trust.items():
        try:
            bundles[check_trust_domain(trust_domain)] = tuple(read_certificates(path))
        except ConfigurationError as error:
            problems.extend(error.problems)
        except InvalidArgumentError as error:
            problems.append(f"{trust_domain!r}: {error}")
    denied: frozenset[int] = frozenset()
    try:
        denied = read_denied_serials(config.denied_serials_file)
    except ConfigurationError as error:
        problems.extend(error.problems)
    try:
        chain = read_certificates(config.certificate_file)
        key = read_key(config.key_file)
        identity = _check_leaf(config, chain, key, bundles, now or dt.datetime.now(dt.UTC))
    except ConfigurationError as error:
        raise ConfigurationError((*problems, *error.problems)) from error
    if problems:
        raise ConfigurationError(tuple(problems))
    return TlsMaterial(
        version=version,
        identity=identity,
        certificate=chain[0],
        certificate_pem=_pem(chain),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        bundles=bundles,
        roots_pem=b"".join(_pem(bundle) for bundle in bundles.values()),
        denied_serials=denied,
    )


def read_denied_serials(path: Path | None) -> frozenset[int]:
    """Read a deny list; no path: an empty one.

    Raises:
        ConfigurationError: Unreadable, or a line isn't a hexadecimal number.
    """
    if path is None:
        return frozenset()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path}: can't be read as text"
        raise ConfigurationError((problem,)) from error
    serials = set()
    problems = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip().replace(":", "")
        try:
            if text:
                serials.add(int(text, 16))
        except ValueError:
            problems.append(f"{path}:{number}: not a serial number in hexadecimal")
    if problems:
        raise ConfigurationError(tuple(problems))
    return frozenset(serials)


def _check_leaf(
    config: TlsConfig,
    chain: list[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    bundles: Mapping[str, tuple[x509.Certificate, ...]],
    now: dt.datetime,
) -> SpiffeId:
    leaf = chain[0]
    where = config.certificate_file
    problems = []
    if not isinstance(leaf.public_key(), ec.EllipticCurvePublicKey):
        problems.append(f"{where}: not an ECDSA certificate; other kinds would let TLS 1.2 in")
    elif leaf.public_key() != key.public_key():
        problems.append(f"{config.key_file}: not the key of {where}")
    if config.key_file.stat().st_mode & _OTHERS_MAY:
        problems.append(f"{config.key_file}: open to others than its owner; chmod 600 it")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        problems.append(f"{where}: not valid now; 'heimdall certs renew' renews it")
    if not allows(leaf, ExtendedKeyUsageOID.SERVER_AUTH):
        problems.append(f"{where}: not a server's certificate; 'heimdall certs issue --kind server' makes one")
    try:
        identity = leaf_names(leaf).identity
    except InvalidArgumentError as error:
        raise ConfigurationError((*problems, f"{where}: {error}")) from error
    authorities = bundles.get(identity.trust_domain, ())
    if not authorities:
        problems.append(f"trust: no bundle for {identity.trust_domain}, the trust domain of {where}")
    elif not any(issued_by(leaf, authority) for authority in (*chain[1:], *authorities)):
        problems.append(f"{where}: not signed by an authority of {identity.trust_domain}")
    if problems:
        raise ConfigurationError(tuple(problems))
    return identity


def issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed the leaf, and may sign at all. Validity in time isn't looked at."""
    try:
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
        if not (constraints.ca and usage.key_cert_sign):
            return False
        leaf.verify_directly_issued_by(authority)
    except (x509.ExtensionNotFound, InvalidSignature, TypeError, ValueError):
        return False
    return True


def allows(leaf: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    """Whether a leaf names an extended key usage."""
    try:
        return usage in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False


def _signature(config: TlsConfig) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stat(path) for path in config.files())


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _pem(certificates: tuple[x509.Certificate, ...] | list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
