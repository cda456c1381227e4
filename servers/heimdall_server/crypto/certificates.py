"""Minting of the certificates that mutual TLS needs: one authority, and leaves with a SPIFFE-style name.

Everything is ECDSA P-256: with an RSA leaf the server could be talked down to TLS 1.2 (see `rpc/tls.py`). The
authority may sign leaves only, and its name constraint holds it to its own trust domain, so that whoever trusts
it for one domain doesn't trust it for another. Files are `certificate_files`' business.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError
from heimdall_server.domain.identity import SpiffeId, check_trust_domain

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 90
_BACKDATED: Final = dt.timedelta(minutes=5)
"""Certificates begin a little in the past: clocks of machines differ."""
_COMMON_NAME_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as unencrypted PKCS 8 PEM. Secret."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True, slots=True)
class LeafNames:
    """What a leaf says about its holder."""

    identity: SpiffeId
    dns: tuple[str, ...] = ()
    """Host names, for one that serves."""
    ips: tuple[IpAddress, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether it is a server's: it has addresses."""
        return bool(self.dns or self.ips)


def parse_ips(texts: Sequence[str]) -> tuple[IpAddress, ...]:
    """Read IP addresses.

    Raises:
        InvalidArgumentError: One isn't an address.
    """
    try:
        return tuple(ipaddress.ip_address(text) for text in texts)
    except ValueError as error:
        field = "ip"
        raise InvalidArgumentError(field, str(error)) from error


def mint_authority(
    trust_domain: str, *, now: dt.datetime | None = None, lifetime_days: float = AUTHORITY_DAYS
) -> KeyPair:
    """Make a certificate authority for one trust domain.

    Args:
        trust_domain: `a-z 0-9 . _ -`, as in `heimdall.local`.
        now: UTC; none: the clock's.
        lifetime_days: From now.

    Raises:
        InvalidArgumentError: Not a trust domain.
    """
    check_trust_domain(trust_domain)
    start = now or dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Heimdall CA {trust_domain}")
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, start, lifetime_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints([x509.UniformResourceIdentifier(trust_domain)], excluded_subtrees=None),
            critical=True,
        )
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key, certificate)


def mint_leaf(
    authority: KeyPair, names: LeafNames, *, now: dt.datetime | None = None, lifetime_days: float = LEAF_DAYS
) -> KeyPair:
    """Make a leaf: a key and the certificate that the authority signs for it.

    Every leaf may be a client; one with addresses may be a server, too (an instance is both to its peers).

    Args:
        authority: Who signs.
        names: What it says.
        now: UTC; none: the clock's.
        lifetime_days: From now, but never beyond the authority's own end.

    Raises:
        InvalidArgumentError: The identity is of another trust domain than the authority's.
        ConfigurationError: The authority isn't valid any more.
    """
    trust_domain = authority_trust_domain(authority.certificate)
    if names.identity.trust_domain != trust_domain:
        field = "trust_domain"
        raise InvalidArgumentError(field, f"must be {trust_domain}, the authority's own")
    start = now or dt.datetime.now(dt.UTC)
    if start >= authority.certificate.not_valid_after_utc:
        problem = "the certificate authority has expired; move it away and run 'heimdall certs init' for a new one"
        raise ConfigurationError((problem,))
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if names.serves:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(names.identity))]
    alternatives.extend(x509.DNSName(name) for name in names.dns)
    alternatives.extend(x509.IPAddress(address) for address in names.ips)
    end = min(start + dt.timedelta(days=lifetime_days), authority.certificate.not_valid_after_utc)
    certificate = (
        _builder(_name(names.identity.name), authority.certificate.subject, key, start, lifetime_days, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return KeyPair(key, certificate)


def authority_trust_domain(certificate: x509.Certificate) -> str:
    """The trust domain that an authority is held to.

    Raises:
        ConfigurationError: It isn't an authority of Heimdall's making: no name constraint to one trust domain.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        permitted = []
    else:
        permitted = [
            name.value
            for name in constraints.permitted_subtrees or ()
            if isinstance(name, x509.UniformResourceIdentifier)
        ]
    if len(permitted) != 1:
        problem = "the certificate authority isn't held to one trust domain; was it minted by 'heimdall certs init'?"
        raise ConfigurationError((problem,))
    return str(permitted[0])


def leaf_names(certificate: x509.Certificate) -> LeafNames:
    """What a leaf says about its holder.

    Raises:
        InvalidArgumentError: It hasn't exactly one URI, or that isn't a SPIFFE-style name.
    """
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        uris: list[str] = []
        dns: list[str] = []
        ips: list[IpAddress] = []
    else:
        uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
        dns = alternatives.get_values_for_type(x509.DNSName)
        ips = [
            address
            for address in alternatives.get_values_for_type(x509.IPAddress)
            if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
        ]
    if len(uris) != 1:
        field = "certificate"
        raise InvalidArgumentError(field, f"must name its holder by exactly one URI, not {len(uris)}")
    return LeafNames(SpiffeId.parse(uris[0]), tuple(dns), tuple(ips))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate (DER), lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def remaining_share(certificate: x509.Certificate, *, now: dt.datetime | None = None) -> float:
    """Share of its life that a certificate has left: 1 when new, 0 or less when over."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    left = certificate.not_valid_after_utc - (now or dt.datetime.now(dt.UTC))
    return left / life


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_MAX])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: dt.datetime,
    lifetime_days: float,
    end: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(end or start + dt.timedelta(days=lifetime_days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
