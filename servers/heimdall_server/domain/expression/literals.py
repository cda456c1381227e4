"""How literals are written: numbers as text, words of a text, IP networks.

One place, because a query's text, the store's SQL and the predicate must agree on it to the letter.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Final

NUMBER_PATTERN: Final = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?"
"""What spells a number: in a query, and in a computed text column. RE2 and Python read it alike."""
_NUMBER: Final = re.compile(NUMBER_PATTERN)
WORD_PATTERN: Final = r"[0-9A-Za-z\x{80}-\x{10ffff}]+"
"""A word, for RE2 and Rust."""
_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")
_SAFE_INTEGER: Final = 2.0**53
_UPPER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def number_text(value: float) -> str:
    """Write a number the one way that counts as its text.

    Whole numbers below 2^53 as digits; others as the shortest text that reads back, with an exponent
    from 1e21 up and below 1e-6 (as ClickHouse and browsers write them).
    """
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == math.trunc(value) and abs(value) < _SAFE_INTEGER:
        return str(int(value))
    sign, digits, exponent = _shortest(value)
    if exponent >= 21 or exponent < -6:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{exponent}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    fraction = digits[exponent + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole


def _shortest(value: float) -> tuple[str, str, int]:
    mantissa, _, exponent_text = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    exponent = int(exponent_text or 0) + len(whole) - 1
    digits = whole + fraction
    stripped = digits.lstrip("0")
    exponent -= len(digits) - len(stripped)
    return sign, stripped.rstrip("0"), exponent


def parse_number(text: str) -> float | None:
    """Read a number.

    Returns:
        None if the text spells none, or one too large for a double.
    """
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return None if math.isinf(value) else value + 0.0


def ascii_lower(text: str) -> str:
    """Lower the ASCII letters; leave all others."""
    return text.lower() if text.isascii() else text.translate(_UPPER)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, in order, ASCII letters lowered."""
    return tuple(_WORD.findall(ascii_lower(text)))


@dataclass(frozen=True, slots=True)
class AddressRange:
    """An IP network as a range of IPv6 addresses; IPv4 as the mapped ones."""

    first: int
    last: int
    is_ipv4: bool
    text: str
    """Canonical, host bits cleared; a network of mapped addresses as IPv4."""


def parse_network(text: str) -> AddressRange:
    """Read an IP network; host bits may be set, and a lone address is a network of one.

    Raises:
        ValueError: It isn't one; the message says why.
    """
    if "%" in text:
        msg = "an address with a zone isn't a network"
        raise ValueError(msg)
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network):
        if not network.subnet_of(_MAPPED):
            first, last = int(network.network_address), int(network.broadcast_address)
            return AddressRange(first, last, is_ipv4=False, text=str(network))
        address = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        network = ipaddress.IPv4Network((address, network.prefixlen - 96))
    base = int(_MAPPED.network_address)
    first, last = base + int(network.network_address), base + int(network.broadcast_address)
    return AddressRange(first, last, is_ipv4=True, text=str(network))
