"""IP addresses and networks.

IPv4 in dotted decimal, IPv6 as RFC 5952 §4 writes it. A network is written in CIDR notation with its host bits cleared
(RFC 4632 §3.1); one that holds a single address is the address. A zone id (RFC 4007 §11) is removed, an IPv4 address
that is mapped into IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address, except where an IPv6 address is asked for.
"""

from __future__ import annotations

import re
import socket
from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import plain, refang_colons, refang_dots
from heimdall_server.canonical.column import (
    Canonical,
    CanonicalColumn,
    Change,
    Refused,
    Sure,
    canonicalise,
    to_arrow,
)

ADDRESS_CHARACTERS_MAX: Final = 256

_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_IPV4_ONLY: Final = re.compile(_IPV4, re.ASCII)
_NUMBERS_ONLY: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}", re.ASCII)
_IPV6_CHARACTERS: Final = re.compile(r"[0-9a-fA-F:.]+", re.ASCII)
_LENGTH_ONLY: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_MAPPED: Final = bytes(10) + b"\xff\xff"

# A column of addresses that a program wrote is in RFC 5952's form already. What these don't prove to be, the exact rule
# decides: a run of zeros beside another, or beside `::`, is rare.
_GROUP: Final = "(?:0|[1-9A-Fa-f][0-9A-Fa-f]{0,3})"
_GROUPS: Final = f"(?:{_GROUP}(?::{_GROUP}){{0,5}})"
_IPV6_PLAIN: Final = rf"^(?:{_GROUP}(?::{_GROUP}){{7}}|{_GROUPS}?::{_GROUPS}?)$"
_IPV6_DOUBTFUL: Final = r"(?:^|:)0::?0(?::|$)|(?:^|:)0::|::0(?::|$)|^::[Ff]{4}:"
_COLONS_MAX: Final = 6
"""Of a shortened address: `::` stands for two groups or more, so six at most are around it."""

_ZEROS_BEHIND: Final = {1: ".0.0.0", 2: ".0.0", 3: ".0"}
"""What stands behind the octets of a prefix."""

NOT_AN_ADDRESS: Final = Refused("it is not an IP address")
_OCTAL: Final = Refused("a number of the address has a leading zero: it could be octal (RFC 6943 §3.1.1)")
_PORT: Final = Refused("it is an address with a port")
_TOO_LONG: Final = Refused("it is too long for an IP address")
_NO_PREFIX: Final = Refused("what stands behind the slash is neither a prefix length nor a netmask")
_NOT_V4: Final = Refused("it is an IPv6 address")
_NOT_V6: Final = Refused("it is an IPv4 address")


def ipv4(values: pa.StringArray) -> CanonicalColumn:
    """IPv4 addresses and networks in dotted decimal; mapped ones count, leading zeros don't (RFC 6943 §3.1.1)."""
    return canonicalise(values, read_ipv4, _plain_ipv4)


def ipv6(values: pa.StringArray) -> CanonicalColumn:
    """IPv6 addresses and networks as RFC 5952 §4 writes them, mapped ones in the mixed form of §5."""
    return canonicalise(values, read_ipv6, _plain_ipv6)


def ip(values: pa.StringArray) -> CanonicalColumn:
    """Addresses and networks of both versions; a mapped IPv4 address is the IPv4 address."""
    return canonicalise(values, read_ip, _plain_ip)


def read_ip(text: str) -> Canonical | Refused:
    """The rule of `ip` for one value."""
    return _read(text, keep_mapped=False)


def read_ipv4(text: str) -> Canonical | Refused:
    """The rule of `ipv4` for one value."""
    found = _read(text, keep_mapped=False)
    return _NOT_V4 if isinstance(found, Canonical) and ":" in found.value else found


def read_ipv6(text: str) -> Canonical | Refused:
    """The rule of `ipv6` for one value."""
    found = _read(text, keep_mapped=True)
    return _NOT_V6 if isinstance(found, Canonical) and ":" not in found.value else found


def networks(values: pa.StringArray, *, ipv4_bits: int = 24, ipv6_bits: int = 48) -> pa.StringArray:
    """The network that each address is in.

    Args:
        values: Canonical addresses or networks, of either version.
        ipv4_bits: Prefix length for IPv4, 0…32.
        ipv6_bits: Prefix length for IPv6, 0…128.

    Returns:
        Canonical networks; null where a value is none of these, or is a network that is wider.
    """
    texts = pl.Series(values, dtype=pl.String)
    octets, rest = divmod(ipv4_bits, 8)
    if rest or octets not in _ZEROS_BEHIND:
        return to_arrow(_networks_of_each(texts, ipv4_bits, ipv6_bits))
    whole = texts.str.extract(rf"^([0-9]+(?:\.[0-9]+){{{octets - 1}}})(?:\.[0-9]+){{{4 - octets}}}$")
    others = texts.set(whole.is_not_null(), None)
    networks_of_addresses = whole + f"{_ZEROS_BEHIND[octets]}/{ipv4_bits}"
    if others.null_count() == len(others):
        return to_arrow(networks_of_addresses)
    return to_arrow(networks_of_addresses.fill_null(_networks_of_each(others, ipv4_bits, ipv6_bits)))


def _networks_of_each(texts: pl.Series, ipv4_bits: int, ipv6_bits: int) -> pl.Series:
    known = {text: _network(text, ipv4_bits, ipv6_bits) for text in texts.unique().drop_nulls().to_list()}
    return texts.replace_strict(known, default=None, return_dtype=pl.String)


def _network(text: str, ipv4_bits: int, ipv6_bits: int) -> str | None:
    address, _, length = text.partition("/")
    packed = _packed(address)
    if packed is None:
        return None
    bits = ipv4_bits if len(packed) == 4 else ipv6_bits
    if length and not (_LENGTH_ONLY.fullmatch(length) and int(length) >= bits):
        return None
    return _written(_cleared(packed, bits), bits)


def _read(text: str, *, keep_mapped: bool) -> Canonical | Refused:
    if len(text) > ADDRESS_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain(text)
    for refang in (refang_dots, refang_colons):
        value, refanged = refang(value)
        changes |= refanged
    if value.startswith("[") and value.endswith("]"):
        value, changes = value[1:-1], changes | Change.LABEL
    address, slash, length = value.partition("/")
    if "%" in address and ":" in address:
        address, changes = address.partition("%")[0], changes | Change.ZONE
    packed = _packed(address)
    if packed is None:
        return _why_not(address)
    bits = len(packed) * 8
    if slash:
        prefix = _prefix_length(length, bits)
        if prefix is None:
            return _NO_PREFIX
        bits = prefix
    said, written = f"{address}{slash}{length}", _written(packed, bits)
    if len(packed) == 16 and packed.startswith(_MAPPED) and bits >= 96 and not keep_mapped:
        packed, bits, changes = packed[12:], bits - 96, changes | Change.MAPPED
    elif written != said:
        changes |= Change.CASE if written == said.lower() else Change.NOTATION
    cleared = _cleared(packed, bits)
    if cleared != packed:
        changes |= Change.HOST_BITS
    return Canonical(_written(cleared, bits), changes)


def _packed(address: str) -> bytes | None:
    """4 or 16 bytes; None: not an address."""
    try:
        if _IPV4_ONLY.fullmatch(address):
            return socket.inet_pton(socket.AF_INET, address)
        if _IPV6_CHARACTERS.fullmatch(address):
            return socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        return None
    return None


def _why_not(address: str) -> Refused:
    if _NUMBERS_ONLY.fullmatch(address) and re.search(r"(?:^|\.)0[0-9]", address):
        return _OCTAL
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and (_IPV4_ONLY.fullmatch(host) or host.endswith("]")):
        return _PORT
    return NOT_AN_ADDRESS


def _prefix_length(text: str, bits: int) -> int | None:
    if _LENGTH_ONLY.fullmatch(text):
        length = int(text)
        return length if length <= bits else None
    if bits != 32 or not _IPV4_ONLY.fullmatch(text):
        return None
    mask = int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    length = mask.bit_count()
    # A netmask is ones, then zeros.
    return length if mask == (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF else None


def _cleared(packed: bytes, bits: int) -> bytes:
    width = len(packed) * 8
    if bits == width:
        return packed
    kept = int.from_bytes(packed, "big") >> (width - bits) << (width - bits)
    return kept.to_bytes(len(packed), "big")


def _written(packed: bytes, bits: int) -> str:
    suffix = "" if bits == len(packed) * 8 else f"/{bits}"
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed) + suffix
    if packed.startswith(_MAPPED):
        return f"::ffff:{socket.inet_ntop(socket.AF_INET, packed[12:])}{suffix}"
    text = socket.inet_ntop(socket.AF_INET6, packed)
    if "." in text:
        # The C library writes the deprecated compatible addresses (RFC 4291 §2.5.5.1) in the mixed form.
        high, low = int.from_bytes(packed[12:14], "big"), int.from_bytes(packed[14:], "big")
        text = f"::{high:x}:{low:x}"
    return text + suffix


def _plain_ipv4(values: pl.Series) -> Sure:
    return Sure.of(values, values.str.contains(f"^{_IPV4}$"), values)


def _is_plain_ipv6(values: pl.Series) -> pl.Series:
    plain_form = values.str.contains(_IPV6_PLAIN) & ~values.str.contains(_IPV6_DOUBTFUL)
    shortened = values.str.contains("::", literal=True)
    return plain_form & ~(shortened & (values.str.count_matches(":", literal=True) > _COLONS_MAX))


def _plain_ipv6(values: pl.Series) -> Sure:
    return Sure.of(values, _is_plain_ipv6(values), values.str.to_lowercase())


def _plain_ip(values: pl.Series) -> Sure:
    decided = values.str.contains(f"^{_IPV4}$")
    where = (~decided).arg_true()
    if not len(where):
        return Sure.of(values, decided, values)
    others = values.gather(where)
    # `scatter` writes into the column it is called on.
    lowered = values.clone().scatter(where, others.str.to_lowercase())
    return Sure.of(values, decided.scatter(where, _is_plain_ipv6(others)), lowered)
