"""URLs: the syntax-based and scheme-based normalisation of RFC 3986 §6.2.2 and §6.2.3.

The scheme and host in lower case, the host as in `domain` or `addresses`, dot segments resolved, percent-encoding only where it must
be and in upper case, characters beyond ASCII as UTF-8 (RFC 3987 §3.1), no port that the scheme has anyway, no password (RFC 3986
§3.2.1 and §7.5: it is deprecated and a secret). Query and fragment keep their order and case: only the server knows what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.addresses import read_ip
from heimdall_server.canonical.characters import controlled, refang_at, refang_colons, refang_dots, visible
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, Sure, canonicalise, stable
from heimdall_server.canonical.domain import DOMAIN_CHARACTERS_MAX, LABEL_CHARACTERS_MAX, read_domain, suffix_confidence

URL_CHARACTERS_MAX: Final = 32_768

DEFAULT_PORTS: Final[Mapping[str, str]] = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
"""Schemes whose host must be a host (RFC 9110 §4.2, RFC 6455 §3, RFC 1738 §3.2), with their ports."""

_PARTS: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*):(//([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL
)  # RFC 3986, appendix B
_AUTHORITY: Final = re.compile(r"(?:(.*)@)?(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", re.DOTALL)
_TOKEN: Final = re.compile(r"%[0-9A-Fa-f]{2}|.", re.DOTALL)
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_IN_PATH: Final = _UNRESERVED | frozenset("!$&'()*+,;=:@/")
_IN_QUERY: Final = _IN_PATH | frozenset("?")
_IN_USER: Final = _UNRESERVED | frozenset("!$&'()*+,;=")
_IN_NAME: Final = _IN_USER
_PORT_MAX: Final = 65_535

_DEFANGED_SCHEME: Final = re.compile(r"(h[tx*]{2}p|f[tx*]p)(s?)(?=\s*(?:\[:\]|:|\[:/))", re.IGNORECASE)
_DEFANGED_SLASHES: Final = re.compile(r"\[://\]|\[:\]//|:\[//\]|\[:/\]/|:///?/?(?=[A-Za-z0-9\[(])")
_PLAIN: Final = (
    r"^(?:https?|wss?|ftp)://(?:[0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?\.)+[a-z]{2,63}"
    r"/[0-9A-Za-z_~!$&'()*+,;=:@/.-]*(?:\?[0-9A-Za-z._~!$&'()*+,;=:@/?-]*)?(?:#[0-9A-Za-z._~!$&'()*+,;=:@/?-]*)?$"
)
_PROVEN: Final = (
    r"(?:https?|wss?|ftp)://[0-9a-z-]+(?:\.[0-9a-z-]+)+/[0-9A-Za-z_~!$&'()*+,;=:@-]*(?:\?[0-9A-Za-z._~!$&'*+,;=:@/-]*)?"
)
_DOUBTFUL: Final = r"/\.|xn--|--\.|^[a-z]+://[^/]{254}"
_HOST: Final = r"^[a-z]+://([^/]+)/"

_TOO_LONG: Final = Refused("it is longer than a URL may be")
_NO_SCHEME: Final = Refused("it has no scheme")
_CONTROL: Final = Refused("a control character is in it")
_NO_HOST: Final = Refused("it has no host")
_BAD_AUTHORITY: Final = Refused("host and port can't be told apart")
_BAD_PORT: Final = Refused("the port is beyond 65,535")
_BAD_HOST: Final = Refused("the host is neither a domain nor an address")
_EMPTY: Final = Refused("nothing stands behind the scheme")


def url(values: pa.StringArray) -> CanonicalColumn:
    """URLs by RFC 3986 §6.2.2 and §6.2.3, defanged ones refanged; the password is removed."""
    return canonicalise(values, read_url, _plain_url)


def _read(text: str) -> Canonical | Refused:
    if len(text) > URL_CHARACTERS_MAX:
        return _TOO_LONG
    whole = visible(text)
    value = whole.strip()
    changes = Change.NONE if value == whole else Change.TRIMMED
    if whole != text:
        changes |= Change.CHARACTERS
    if controlled(value):
        return _CONTROL
    value, refanged = _refang(value)
    changes |= refanged
    parts = _PARTS.fullmatch(value)
    if parts is None:
        return _NO_SCHEME
    said, slashes, authority, path, query, fragment = parts.groups()
    scheme = said.lower()
    if scheme != said:
        changes |= Change.CASE
    if slashes is None:
        return _EMPTY if not path else _opaque(value, scheme, path, query, fragment, changes)
    place = _authority(scheme, authority)
    if isinstance(place, Refused):
        return place
    written = _without_dots(_encoded(path, _IN_PATH))
    if not written and scheme in DEFAULT_PORTS:
        written = "/"
    tail = f"{written}{_tail(query, _IN_QUERY)}{_tail(fragment, _IN_QUERY)}"
    if tail != f"{path}{query or ''}{fragment or ''}":
        changes |= Change.NOTATION
    return _done(f"{scheme}://{place.value}{tail}", value, changes | place.changes, place.confidence)


read_url: Final = stable(_read, re.compile(_PROVEN, re.ASCII))
"""The rule of `url` for one value."""


def _done(canonical: str, value: str, changes: Change, confidence: float) -> Canonical | Refused:
    if len(canonical) > URL_CHARACTERS_MAX:
        return _TOO_LONG
    if canonical != value and not changes:
        changes = Change.CASE if canonical == value.lower() else Change.NOTATION
    return Canonical(canonical, changes, confidence)


def _opaque(
    value: str, scheme: str, path: str, query: str | None, fragment: str | None, changes: Change
) -> Canonical | Refused:
    """A URI without an authority: `urn:…`, `data:…`."""
    if scheme in DEFAULT_PORTS:
        return _NO_HOST
    written = _encoded(path, _IN_PATH)
    if written.startswith("/"):
        written = _without_dots(written)
        if written.startswith("//"):
            written = f"/.{written}"  # RFC 3986 §4.2 and §3.3: else its first segment would become the authority
    tail = f"{written}{_tail(query, _IN_QUERY)}{_tail(fragment, _IN_QUERY)}"
    if tail != f"{path}{query or ''}{fragment or ''}":
        changes |= Change.NOTATION
    return _done(f"{scheme}:{tail}", value, changes, 0.9)


def _authority(scheme: str, authority: str) -> Canonical | Refused:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return _BAD_AUTHORITY
    user, host, port = parts.groups()
    place = _host(scheme, host)
    if isinstance(place, Refused):
        return place
    changes, written = place.changes, place.value
    if user:
        name, colon, _ = user.partition(":")
        if colon:
            changes |= Change.PASSWORD
        if (encoded := _encoded(name, _IN_USER)) != name:
            changes |= Change.NOTATION
        if name:
            written = f"{encoded}@{written}"
    if port:
        number = port.lstrip("0") or "0"
        if len(number) > len(str(_PORT_MAX)) or int(number) > _PORT_MAX:
            return _BAD_PORT
        if number != port:
            changes |= Change.NOTATION
        if number == DEFAULT_PORTS.get(scheme):
            changes |= Change.DEFAULT_PORT
        else:
            written = f"{written}:{number}"
    return Canonical(written, changes, place.confidence)


def _host(scheme: str, host: str) -> Canonical | Refused:
    if host.startswith("["):
        address = read_ip(host)
        if isinstance(address, Refused) or "/" in address.value:
            return _BAD_HOST
        changes = address.changes & ~Change.LABEL
        return Canonical(f"[{address.value}]" if ":" in address.value else address.value, changes, address.confidence)
    strict = scheme in DEFAULT_PORTS
    if not host:
        return _NO_HOST if strict else Canonical("")
    name = _decoded(host)
    if name[-1].isdigit():
        address = read_ip(name)
        if isinstance(address, Canonical) and ":" not in address.value and "/" not in address.value:
            return address
    found = read_domain(name)
    if isinstance(found, Canonical):
        return found
    if strict:
        return found
    return Canonical(_encoded(host.lower(), _IN_NAME), Change.NONE, 0.7)


def _refang(value: str) -> tuple[str, Change]:
    """Undo defanging in scheme and authority, and of dots behind them if there was any before."""
    if (
        not any(sign in value for sign in "[({*\\")
        and value[:4].lower() not in ("hxxp", "htxp", "hxtp")
        and value[:2].lower() != "fx"
    ):
        return value, Change.NONE
    scheme = _DEFANGED_SCHEME.match(value)
    whole = value
    if scheme:
        whole = ("ftp" if scheme[1][0] in "fF" else "http") + scheme[2].lower() + value[scheme.end() :].lstrip()
        if value[: scheme.end()].lower() == whole[: scheme.end()]:
            whole = value
    head = whole[:16]
    whole = _DEFANGED_SLASHES.sub("://", head, count=1) + whole[16:]
    start = whole.find("://")
    if start < 0:
        return value, Change.NONE
    start += 3
    end = next((index for index in range(start, len(whole)) if whole[index] in "/?#"), len(whole))
    authority = whole[start:end]
    if not (authority.startswith("[") and ":" in authority[: authority.find("]")] and "[:]" not in authority):
        authority, _ = refang_dots(authority)
        authority, _ = refang_colons(authority)
        if "@" not in authority:
            authority, _ = refang_at(authority)
    tail = whole[end:]
    if whole != value or authority != whole[start:end]:
        tail = tail.replace("[.]", ".")
    whole = whole[:start] + authority + tail
    return whole, Change.NONE if whole == value else Change.REFANGED


def _tail(part: str | None, allowed: frozenset[str]) -> str:
    return part[0] + _encoded(part[1:], allowed) if part else ""


def _encoded(part: str, allowed: frozenset[str]) -> str:
    """Percent-encode what must be, decode what needn't be (RFC 3986 §6.2.2.1 and §6.2.2.2)."""
    if allowed.issuperset(part):
        return part
    out = []
    for token in _TOKEN.findall(part):
        if len(token) > 1:
            character = chr(int(token[1:], 16))
            out.append(character if character in _UNRESERVED else token.upper())
        elif token in allowed:
            out.append(token)
        else:
            out.extend(f"%{octet:02X}" for octet in token.encode("utf-8", "replace"))
    return "".join(out)


def _decoded(host: str) -> str:
    if "%" not in host:
        return host
    octets = b"".join(
        bytes([int(token[1:], 16)]) if len(token) > 1 else token.encode("utf-8", "replace")
        for token in _TOKEN.findall(host)
    )
    return octets.decode("utf-8", "replace")


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4."""
    if "/." not in path:
        return path
    out: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(out) > 1:
                out.pop()
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/".join(out) if len(out) > 1 else "/"


def _plain_url(values: pl.Series) -> Sure:
    decided = values.str.contains(_PLAIN) & ~values.str.contains(_DOUBTFUL)
    long = values.str.len_bytes() > LABEL_CHARACTERS_MAX
    if long.any():
        decided &= ~(long & (values.str.len_bytes() > URL_CHARACTERS_MAX))
    hosts = values.str.extract(_HOST).fill_null("")
    decided &= hosts.str.len_bytes() <= DOMAIN_CHARACTERS_MAX
    return Sure.of(values, decided, values, confidence=suffix_confidence(hosts))
