"""Checks that a regex can't make: checksums, lengths, neighbours. Each takes a match and says where the value ends."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

REJECTED: Final = -1
CARD_DIGITS_MAX: Final = 19
PHONE_DIGITS_MIN: Final = 8
LOCAL_PHONE_DIGITS_MIN: Final = 6
PHONE_DIGITS_MAX: Final = 15

_ISSUERS: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|095|[689][0-9])[0-9]{11,16}"  # Diners Club
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    r"|62[0-9]{14,17}"  # UnionPay
    r"|(?:50|5[678]|6[0-9])[0-9]{11,17}"  # Maestro
    r"|220[0-4][0-9]{12,15}"  # Mir
)
_DIGITS: Final = frozenset("0123456789")
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
_MASK_BEFORE: Final = re.compile(r"\[[a-z0-9]+\]$")
_MASK_BEHIND: Final = re.compile(r"\[[a-z0-9]+\]")
_LIKE_JSON: Final = re.compile(r"[ \t\r\n]*(?:\{|\[(?![a-z]+[0-9]?\]))")
_JSON_GOES_ON: Final = re.compile(r"[ \t\r\n]*(?:[,\]}]|$)")
_JSON_LABEL: Final = re.compile(r'(?<!\\)"[ \t\r\n]*:[ \t\r\n]*$')
_BACKSLASHES_MAX: Final = 64
_ARRAY_CHARACTERS_MAX: Final = 32 * 1024
_BEFORE_NEGATIVE: Final = frozenset(" \t\r\n:[,(=_")
_RESULT: Final = re.compile(
    r"[0-9]{1,5}(?:\.[0-9]+)?(?:/[0-9]+|%|[mun\u00b5]?s)?|(?i:true|false|yes|no|ok|null|none|fail(?:ed)?|https?:.*)",
    re.ASCII,
)
_IBAN_HEAD: Final = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2}[0-9]{2})")
IBAN_CHARACTERS_MAX: Final = 42
"""With a separator between its groups of four."""
_SEPARATORS: Final = str.maketrans("", "", " -.+")
"""The last one stands for a blank in a form that was sent."""

# ISO 13616: length of a country's IBAN.
_IBAN_LENGTHS: Final[dict[str, int]] = {
    country: int(length)
    for length, countries in (
        line.split(":")
        for line in (
            "15:NO",
            "16:BE",
            "18:DK FI FK FO GL NL SD",
            "19:MK SI",
            "20:AT BA EE KZ LT LU MN XK",
            "21:CH HR LI LV",
            "22:BG BH CR DE GB GE IE ME RS VA",
            "23:AE GI IL IQ OM SO TL",
            "24:AD CZ ES MD PK RO SA SE SK TN VG",
            "25:LY PT ST",
            "26:IS TR",
            "27:BI DJ FR GR IT MC MR SM",
            "28:AL AZ BY CY DO GT HN HU LB NI PL SV",
            "29:BR EG PS QA UA",
            "30:JO KW MU YE",
            "31:MT SC",
            "32:LC",
            "33:RU",
        )
    )
    for country in countries.split()
}


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1, annex B)."""
    backwards = digits.encode()[::-1]
    # Both halves count b"0" as 48.
    total = sum(backwards[::2]) + sum(backwards[1::2].translate(_DOUBLED)) - 48 * len(backwards)
    return total % 10 == 0


def plausible_card(digits: str) -> bool:
    """Whether digits are a payment card number: an issuer's prefix and length, and the check digit."""
    return known_issuer(digits) and luhn(digits)


def known_issuer(digits: str) -> bool:
    """Whether there is an issuer of card numbers of this prefix, of at most four digits, and this length."""
    return _ISSUERS.fullmatch(digits) is not None


def card(match: re.Match[str]) -> int:
    """A card number that isn't the fraction of a decimal number or a phone number; digits behind it are left."""
    text, start = match.string, match.end(1)
    before = text[start - 1] if start else ""
    if before in (".", ",") and start > 1 and _ends_number(text[start - 2]):
        return REJECTED
    if before == "-" and (start == 1 or text[start - 2] in _BEFORE_NEGATIVE):
        return REJECTED
    for end in _ends(match):
        digits = text[start:end].translate(_SEPARATORS)
        is_phone = before == "+" and len(digits) <= PHONE_DIGITS_MAX
        goes_on = text[end : end + 1] == "." and _digit(text[end + 1 : end + 2])
        if plausible_card(digits) and not is_phone and not goes_on and not _in_iban(text, start, end):
            return end
    return REJECTED


def _in_iban(text: str, start: int, end: int) -> bool:
    """Whether digits belong to an account number whose checksum holds."""
    first = max(0, start - IBAN_CHARACTERS_MAX)
    heads = _IBAN_HEAD.finditer(text, first, start)
    return any(_iban_end(text, head.start(1), len(text)) >= end for head in heads)


def json_card(match: re.Match[str]) -> int:
    """A card number that is a number of JSON, a member's or a plain array's: only as text may it become something else."""
    text, start = match.string, match.start()
    if match[1].startswith('"'):
        # An escaped quote: the number stands in JSON that stands in a string.
        near = text[max(0, start - _BACKSLASHES_MAX) : start]
        backslashes = len(near) - len(near.rstrip("\\"))
        in_string = backslashes % 2 == 1
    else:
        in_string = start > _ARRAY_CHARACTERS_MAX or text.find('"', 0, start) >= 0 or not _LIKE_JSON.match(text)
    if in_string:
        return REJECTED
    return json_number(match) if plausible_card(match[0][len(match[1]) :]) else REJECTED


def json_number(match: re.Match[str]) -> int:
    """A number that ends as one in JSON does."""
    return match.end() if _JSON_GOES_ON.match(match.string, match.end()) else REJECTED


def unless_json_number(match: re.Match[str]) -> int:
    """A labelled value that isn't a bare number behind a quoted label, as in JSON."""
    return REJECTED if _JSON_LABEL.search(match[1]) else match.end()


def card_numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Find card numbers among numbers.

    Args:
        values: Float64, any shape (n,); NaN and infinities allowed.

    Returns:
        Indices, ascending.

    Cost: one comparison a value; the checks only for integers of at least 13 digits.
    """
    with np.errstate(invalid="ignore"):
        large = np.flatnonzero((values >= 1e12) & (values < 2.0**53))
    texts = (str(int(value)) if value == int(value) else "" for value in values[large].tolist())
    return large[np.fromiter((plausible_card(text) for text in texts), np.bool_, len(large))]


def iban(match: re.Match[str]) -> int:
    """An account number of its country's length whose checksum holds; words behind it are left."""
    return _iban_end(match.string, match.end(1), match.end())


def _iban_end(text: str, start: int, limit: int) -> int:
    length = _IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
    end, seen = start, 0
    while end < limit and seen < length:
        if text[end] not in " -+":
            if not (text[end].isascii() and text[end].isalnum()):
                return REJECTED
            seen += 1
        end += 1
    if not length or seen < length or (end < len(text) and text[end].isascii() and text[end].isalnum()):
        return REJECTED
    compact = text[start:end].translate(_SEPARATORS)
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return end if int(number) % 97 == 1 else REJECTED


def unless_literal(match: re.Match[str]) -> int:
    """A value that isn't one of JSON's literals."""
    return REJECTED if match[0][len(match[match.lastindex or 0]) :] in ("null", "true", "false") else match.end()


def unless_result(match: re.Match[str]) -> int:
    """A value that isn't what a test says of itself: how many passed, in what time, whether, where to a proxy passes on."""
    value = match.string[match.end(match.lastindex or 0) : match.end()]
    return REJECTED if _RESULT.fullmatch(value) else match.end()


def unless_in_number(match: re.Match[str]) -> int:
    """A value that isn't a piece of a longer run of digits, dots and dashes."""
    start = match.end(match.lastindex) if match.lastindex else match.start()
    return match.end() if _stands_alone(match.string, start, match.end()) else REJECTED


def phone(match: re.Match[str]) -> int:
    """A number of a plausible length that isn't a piece of a longer one; groups behind it are left."""
    text, start = match.string, match.end(match.lastindex or 0)
    for end in _ends(match):
        digits = _digit_count(text[start:end])
        if PHONE_DIGITS_MIN <= digits <= PHONE_DIGITS_MAX and _stands_alone(text, start, end):
            return end
    return REJECTED


def labelled_phone(match: re.Match[str]) -> int:
    """As `phone`, but local numbers count, too."""
    if unless_json_number(match) == REJECTED:
        return REJECTED
    text, start = match.string, match.end(match.lastindex or 0)
    for end in _ends(match):
        if LOCAL_PHONE_DIGITS_MIN <= _digit_count(text[start:end]) <= PHONE_DIGITS_MAX:
            return end
    return REJECTED


def ipv6(match: re.Match[str]) -> int:
    """An address that Python's `ipaddress` reads, not part of a word (`std::begin`)."""
    text, start = match.string, match.start()
    if start and (text[start - 1].isalnum() or text[start - 1] in "_:."):
        return REJECTED
    # Where a mask stands, a word stood.
    if _MASK_BEFORE.search(text, max(0, start - 16), start) or _MASK_BEHIND.match(text, match.end()):
        return REJECTED
    address, behind = match[0], text[match.end() : match.end() + 1]
    if behind.isalnum() or behind == "_":
        # The last group is the start of a word that follows a colon.
        address = address.rpartition(":")[0]
    if address.endswith(":") and not address.endswith("::"):
        address = address[:-1]
    if not any(map(_digit, address)):
        return REJECTED
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return REJECTED
    return start + len(address)


def _digit(character: str) -> bool:
    return character in _DIGITS  # not so the empty text


def _digit_count(text: str) -> int:
    octets = text.encode()
    return len(octets) - len(octets.translate(None, b"0123456789"))


def _ends_number(character: str) -> bool:
    # A mask may stand where a number stood.
    return _digit(character) or character == "]"


def _stands_alone(text: str, start: int, end: int) -> bool:
    if start > 1 and text[start - 1] in ".-" and _ends_number(text[start - 2]):
        return False
    return not (text[end : end + 1] in (".", "-") and _digit(text[end + 1 : end + 2]))


def _ends(match: re.Match[str]) -> Iterator[int]:
    """Where a value may end: the match's end, then before each of its groups of digits, backwards."""
    text, end, start = match.string, match.end(), match.end(match.lastindex) if match.lastindex else match.start()
    yield end
    while end > start:
        end -= 1
        if _digit(text[end - 1]) and not _digit(text[end]):
            yield end
