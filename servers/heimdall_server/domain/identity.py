"""Who is calling: the SPIFFE-style name in a certificate, and what that caller may do.

A name is `spiffe://<trust domain>/<kind>/<name>`. The trust domain says whose certificate authority vouches for
it; the kind is `client`, `server` or `instance` in certificates that Heimdall mints, and anything in those of
another issuer. How a certificate is checked and where the roles come from isn't this module's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from heimdall_server.domain.errors import InvalidArgumentError

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_URI_BYTES_MAX: Final = 2048
_SCHEME: Final = "spiffe://"


def check_trust_domain(text: str) -> str:
    """Return the name of a trust domain as it is, if it is one.

    Raises:
        InvalidArgumentError: Not 1 to 255 of `a-z 0-9 . _ -`.
    """
    if not _TRUST_DOMAIN.fullmatch(text):
        field_name = "trust_domain"
        raise InvalidArgumentError(field_name, "must be 1 to 255 of a-z, 0-9, '.', '_' and '-'")
    return text


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """The name that a certificate carries."""

    trust_domain: str
    kind: str
    """First segment of the path."""
    name: str
    """The rest of the path; may have several segments."""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a URI.

        Raises:
            InvalidArgumentError: Not a SPIFFE URI with at least two segments, or one that breaks the rules of
                the SPIFFE identifier: a port, a query, an empty, `.` or `..` segment, more than 2,048 bytes.
        """
        where = "uri"
        rest = uri.removeprefix(_SCHEME)
        if rest == uri or len(uri.encode()) > _URI_BYTES_MAX:
            raise InvalidArgumentError(where, "must be spiffe://<trust domain>/<kind>/<name>, at most 2,048 bytes")
        trust_domain, *segments = rest.split("/")
        check_trust_domain(trust_domain)
        if len(segments) < 2:
            raise InvalidArgumentError(where, "must have a kind and a name behind its trust domain")
        for segment in segments:
            if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
                raise InvalidArgumentError(where, "its segments must be of A-Z, a-z, 0-9, '.', '_' and '-'")
        return cls(trust_domain, segments[0], "/".join(segments[1:]))

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}/{self.kind}/{self.name}"


def permission_matches(pattern: str, permission: str) -> bool:
    """Whether a granted pattern covers a permission.

    Args:
        pattern: A permission, `*` for all, or a prefix and `.*`: `query.*` covers `query.search` and
            `ingest.dead_letters.*` covers `ingest.dead_letters.read`.
        permission: `<service>.<verb>`.
    """
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return permission.startswith(pattern[:-1])
    return pattern == permission


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose certificate was accepted, with what it may do."""

    uri: str
    trust_domain: str
    kind: str
    name: str
    fingerprint: str
    """SHA-256 of the certificate (DER), lower-case hex."""
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = field(default=frozenset(), repr=False)
    """Patterns, see `permission_matches`."""

    @classmethod
    def of(cls, identity: SpiffeId, *, fingerprint: str) -> Self:
        """A principal without roles."""
        return cls(str(identity), identity.trust_domain, identity.kind, identity.name, fingerprint)

    def may(self, permission: str) -> bool:
        """Whether one of its roles grants the permission."""
        return any(permission_matches(pattern, permission) for pattern in self.permissions)
