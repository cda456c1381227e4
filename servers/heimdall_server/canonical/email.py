"""E-mail addresses.

RFC 5321 §4.1.2 with the letters of RFC 6531: the domain as in `domain`, quotes only where the local part needs them, sub-addresses
(RFC 5233: `+tag`) kept. Letters of the local part may differ by RFC 5321 §2.4, yet hardly a server makes a difference: they are
folded unless it is asked for.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.canonical.addresses import read_ip
from heimdall_server.canonical.characters import plain, refang_at
from heimdall_server.canonical.column import (
    Canonical,
    CanonicalColumn,
    Change,
    Exact,
    Fast,
    Refused,
    Sure,
    canonicalise,
    stable,
)
from heimdall_server.canonical.domain import LABEL_CHARACTERS_MAX, read_domain, show_domain, suffix_confidence

LocalPart: TypeAlias = Literal["fold", "keep"]

LOCAL_OCTETS_MAX: Final = 64
"""RFC 5321 §4.5.3.1.1."""
ADDRESS_OCTETS_MAX: Final = 254
"""RFC 5321 §4.5.3.1.3, less the angle brackets of a path."""
INPUT_CHARACTERS_MAX: Final = 2048

FOLDED_CONFIDENCE: Final = 0.95
"""Of an address whose local part had capitals."""
ODD_DOTS_CONFIDENCE: Final = 0.7
"""Of `a..b@` and `a.@`: not in RFC 5321, yet some providers have such mailboxes."""

_UNQUOTED: Final = re.compile(r"[^\x00-\x20\x7f-\x9f()<>\[\]:;@\\,\"\s]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\\x00-\x1f\x7f-\x9f]|\\[^\x00-\x1f\x7f-\x9f])*)"')
_ODD_DOTS: Final = re.compile(r"^\.|\.\.|\.$")
_ESCAPED: Final = re.compile(r"\\(.)")
_NEEDS_ESCAPE: Final = re.compile(r'(["\\])')
_SCHEME: Final = "mailto:"
_PROVEN: Final = re.compile(r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]+@[0-9a-z.-]+", re.ASCII)
_PLAIN: Final = (
    r"^[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+(?:\.[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?\.)+[A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?$"
)
_SETTLED: Final = (
    r"^[0-9a-z!#$%&'*+/=?^_`{|}~]+(?:[.-][0-9a-z!#$%&'*+/=?^_`{|}~]+)*"
    r"@(?:[0-9a-z]+(?:-[0-9a-z]+)*\.)+[a-z][0-9a-z]*(?:-[0-9a-z]+)*$"
)
"""Without two hyphens in a row, as A-labels have them."""

NOT_AN_EMAIL: Final = Refused("it has no local part and domain around an @")
_BAD_LOCAL: Final = Refused("the local part holds what must be quoted")
_LONG_LOCAL: Final = Refused("the local part is longer than 64 octets")
_TOO_LONG: Final = Refused("it is longer than an address can be")
_NAMED: Final = Refused("a name stands before the address")
_BAD_LITERAL: Final = Refused("the address in brackets is not an IP address")


def email(values: pa.StringArray, *, local: LocalPart = "fold") -> CanonicalColumn:
    """E-mail addresses by RFC 5321 and RFC 6531.

    Args:
        values: Addresses, with or without `mailto:` and angle brackets, defanged or not; no display names.
        local: `fold`: the local part in lower case; `keep`: as it came.
    """
    return canonicalise(values, _RULES[local], _FAST[local])


def settled_email(values: pa.StringArray) -> pa.BooleanArray:
    """Which addresses are surely in their canonical form already, with a folded local part. A fifth of the time of `email`.

    Args:
        values: Without nulls.
    """
    short = pc.less_equal(pc.binary_length(values), LABEL_CHARACTERS_MAX)
    return pc.and_(short, pc.match_substring_regex(values, _SETTLED))


def read_email(text: str) -> Canonical | Refused:
    """The rule of `email` for one value, with a folded local part."""
    return _RULES["fold"](text)


def show_email(canonical: str) -> str:
    """A canonical address for people: the domain in U-labels where that misleads nobody."""
    local, _, host = canonical.rpartition("@")
    return canonical if host.startswith("[") else f"{local}@{show_domain(host)}"


def _rule(*, fold: bool) -> Exact:
    def read(text: str) -> Canonical | Refused:
        if len(text) > INPUT_CHARACTERS_MAX:
            return _TOO_LONG
        value, changes = plain(text)
        if value[: len(_SCHEME)].lower() == _SCHEME:
            value, changes = unquote(value[len(_SCHEME) :].partition("?")[0]), changes | Change.LABEL
        if value.startswith("<") and value.endswith(">"):
            value, changes = value[1:-1], changes | Change.LABEL
        if "@" not in value:
            value, refanged = refang_at(value)
            changes |= refanged
        local, at, host = value.rpartition("@")
        if not (at and local and host):
            return NOT_AN_EMAIL
        if host.endswith(">") and "<" in local:
            return _NAMED
        return _joined(local, host, changes, fold=fold)

    return stable(read, _PROVEN)


_RULES: Final[dict[LocalPart, Exact]] = {"fold": _rule(fold=True), "keep": _rule(fold=False)}


def _joined(local: str, host: str, changes: Change, *, fold: bool) -> Canonical | Refused:
    confidence = 1.0
    if quoted := _QUOTED.fullmatch(local):
        bare = _ESCAPED.sub(r"\1", quoted[1])
        needless = _UNQUOTED.fullmatch(bare) and not _ODD_DOTS.search(bare)
        written = bare if needless else '"' + _NEEDS_ESCAPE.sub(r"\\\1", bare) + '"'
    elif _UNQUOTED.fullmatch(local):
        written = local
        if _ODD_DOTS.search(local):
            confidence = ODD_DOTS_CONFIDENCE
    else:
        return _BAD_LOCAL
    if written != local:
        changes |= Change.NOTATION
    if fold and (folded := written.lower()) != written:
        written, changes, confidence = folded, changes | Change.CASE, min(confidence, FOLDED_CONFIDENCE)
    if len(written.encode()) > LOCAL_OCTETS_MAX:
        return _LONG_LOCAL
    domain = _literal(host) if host.startswith("[") and host.endswith("]") and host != "[.]" else read_domain(host)
    if isinstance(domain, Refused):
        return domain
    address = f"{written}@{domain.value}"
    if len(address.encode()) > ADDRESS_OCTETS_MAX:
        return _TOO_LONG
    return Canonical(address, changes | domain.changes, min(confidence, domain.confidence))


def _literal(host: str) -> Canonical | Refused:
    inner = host[1:-1]
    tagged = inner[:5].lower() == "ipv6:"
    address = read_ip(inner[5:] if tagged else inner)
    if isinstance(address, Refused) or "/" in address.value:
        return _BAD_LITERAL
    written = f"[IPv6:{address.value}]" if ":" in address.value else f"[{address.value}]"
    changes = address.changes if written == host else address.changes | Change.NOTATION
    return Canonical(written, changes)


def _plain_email(*, fold: bool) -> Fast:
    def decide(values: pl.Series) -> Sure:
        lowered = values.str.to_lowercase()
        # The local part and each label have their own bound; short addresses can't pass any.
        decided = values.str.contains(_PLAIN) & ~lowered.str.contains("xn--", literal=True)
        long = values.str.len_bytes() > LABEL_CHARACTERS_MAX
        if long.any():
            decided &= ~long
        confidence = suffix_confidence(lowered)
        capital = values.str.contains("[A-Z].*@")
        canonical = lowered
        if not fold:
            decided &= ~capital
        elif capital.any():
            folded = np.where(capital.to_numpy(), np.float32(FOLDED_CONFIDENCE), np.float32(1.0))
            confidence = np.minimum(confidence, folded)
        return Sure.of(values, decided, canonical, confidence=confidence)

    return decide


_FAST: Final[dict[LocalPart, Fast]] = {"fold": _plain_email(fold=True), "keep": _plain_email(fold=False)}
