"""Values that their form gives away: addresses of mail and machines, cards, accounts, phones, tokens, wallets."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import itertools
import json
import random
import string
from collections.abc import Iterator
from functools import cache

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from stdnum import iban as iban_numbers
from stdnum import luhn, numdb
from stdnum.us import ssn as us_ssn

from heimdall_server.protect.keccak import keccak_256
from tests.unit.protect.labelled.lines import Item, digits, text

_LETTERS = string.ascii_letters + string.digits
_LOWER = string.ascii_lowercase + string.digits
_HEX = "0123456789abcdef"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_FIRST = ("alice", "bob", "chloe", "dmitri", "ewa", "fatima", "grace", "jurgen", "li", "oneil", "maria", "tom")
_LAST = ("smith", "mueller", "garcia", "nowak", "dupont", "turing", "hopper", "rossi", "silva", "kowalska")
_DOMAINS = (
    "example.com", "example.org", "mail.example.co.uk", "corp.example.net", "gmail.com", "web.de", "posteo.net", "uni-x.edu",
    "xn--bcher-kva.example", "bücher.de", "a.b.c.example.io", "firma.museum", "studio.photography", "EXAMPLE.COM", "t-online.de",
)  # fmt: skip


def email(draw: random.Random) -> Item:
    """RFC 5322 dot-atoms as people have them, with tags, in any case, under internationalised domains."""
    first, last = draw.choice(_FIRST), draw.choice(_LAST)
    local = draw.choice((
        f"{first}.{last}", f"{first}{digits(draw, 2)}", f"{first[0]}.{last}", f"{last}_{first}", f"{first}+{text(draw, _LOWER, 5)}",
        f"{first}.{last}+news.{digits(draw, 4)}", f"{first}-{last}", f"{first.upper()}.{last.upper()}", f"{first[0]}{last}{digits(draw, 3)}",
        f"{digits(draw, 6)}", first, f"{first}'{last}" if draw.random() < 0.02 else last, "jürgen.müller", "x",
    ))  # fmt: skip
    return Item(f"{local}@{draw.choice(_DOMAINS)}")


def _numbers(pattern: str, draw: random.Random) -> str:
    """A random national part of an IBAN, as the registry describes it: `4!a6!n8!n`."""
    kinds = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}
    pieces, count = [], ""
    for character in pattern:
        if character.isdigit():
            count += character
        elif character in kinds:
            pieces.append(text(draw, kinds[character], int(count)))
            count = ""
    return "".join(pieces)


@cache
def _iban_structures() -> tuple[tuple[str, str], ...]:
    table = numdb.get("iban")
    found = (
        (a + b, table.info(a + b)[0][1].get("bban", "")) for a in string.ascii_uppercase for b in string.ascii_uppercase
    )
    return tuple((country, structure) for country, structure in found if structure)


def iban(draw: random.Random) -> Item:
    """Of every country of the registry, compact or in groups of four."""
    country, structure = draw.choice(_iban_structures())
    body = _numbers(structure, draw)
    number = country + iban_numbers.calc_check_digits(f"{country}00{body}") + body
    return Item(" ".join(number[at : at + 4] for at in range(0, len(number), 4)) if draw.random() < 0.4 else number)


_ISSUERS = (
    (16, "4 51 52 53 54 55 2221 2720 6011 65 644 3528 3589 62"), (15, "34 37"), (14, "300 305 36 38"), (13, "4"), (19, "4 62"),
)  # fmt: skip


def card(draw: random.Random) -> Item:
    """Of the large issuers, compact or in the groups that stand on a card."""
    length, prefixes = draw.choices(_ISSUERS, (70, 15, 5, 5, 5))[0]
    prefix = draw.choice(prefixes.split())
    body = prefix + digits(draw, length - 1 - len(prefix))
    number = body + luhn.calc_check_digit(body)
    joint = draw.choice(("", "", " ", "-", "." if length == 16 else ""))
    sizes = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}.get(length)
    if joint and sizes:
        cuts = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        number = joint.join(number[a:b] for a, b in itertools.pairwise(cuts))
    return Item(number, accepted=frozenset())


def ssn(draw: random.Random) -> Item:
    """Of the United States: with dashes anywhere, without behind a label."""
    while True:
        number = digits(draw, 9)
        if us_ssn.is_valid(number):
            break
    dashed = us_ssn.format(number)
    if draw.random() < 0.6:
        return Item(dashed)
    keys, prose = ("ssn", "SSN", "social_security_number"), ("SSN: {}", "ssn {}", "social security number: {}")
    return Item(draw.choice((number, dashed, dashed.replace("-", " "))), keys, prose, frozenset({"national_id"}))


@cache
def _phones() -> tuple[tuple[phonenumbers.PhoneNumber, str], ...]:
    kinds = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE)
    found = ((phonenumbers.example_number_for_type(region, kind), region) for region in sorted(phonenumbers.SUPPORTED_REGIONS) for kind in kinds)  # fmt: skip
    return tuple((number, region) for number, region in found if number is not None)


def phone(draw: random.Random) -> Item:
    """Of every region: international in the usual spellings anywhere, national behind a label."""
    while True:
        example, _ = draw.choice(_phones())
        national = str(example.national_number)
        changed = int(national[:-3] + digits(draw, 3))
        number = phonenumbers.PhoneNumber(
            example.country_code, changed, italian_leading_zero=example.italian_leading_zero
        )
        if phonenumbers.is_valid_number(number):
            break
    spelling = draw.randrange(6)
    international = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
    if spelling == 0:
        return Item(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    if spelling == 1:
        return Item(international.replace(" ", draw.choice("-.")))
    if spelling == 2:
        uri = phonenumbers.format_number(number, PhoneNumberFormat.RFC3966).removeprefix("tel:")
        return Item(uri, prose=("tel:{}", "uri tel:{}"), bare=True)
    if spelling == 3:
        keys = ("phone", "mobile", "phone_number", "telephone", "tel", "contact_phone", "msisdn")
        prose = ("phone: {}", "Tel.: {}", "mobile {}", "phone number: {}", "call {} now", "tel {}")
        written = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
        if len(national) >= 7 and not (set(written) & set("*#;")) and "ext" not in written:
            return Item(written, keys, prose[:2] + prose[3:4])
    return Item(international)


def _b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def jwt(draw: random.Random) -> Item:
    """Signed, unsigned, encrypted (RFC 7515, 7516)."""
    algorithm = draw.choice(("HS256", "RS256", "ES256", "none", "EdDSA"))
    header = _b64(
        {"alg": algorithm, "typ": "JWT"}
        if draw.random() < 0.7
        else {"typ": "JWT", "alg": algorithm, "kid": digits(draw, 6)}
    )
    if draw.random() < 0.15:
        parts = [
            _b64({"alg": "RSA-OAEP", "enc": "A256GCM"}),
            *(text(draw, _LETTERS + "-_", n) for n in (342, 16, 80, 22)),
        ]
        return Item(".".join(parts), accepted=frozenset({"secret"}))
    claims = {"sub": digits(draw, 8), "name": text(draw, _LETTERS, 6), "exp": int(digits(draw, 10))}
    signature = "" if algorithm == "none" else text(draw, _LETTERS + "-_", draw.choice((43, 86, 342)))
    return Item(f"{header}.{_b64(claims)}.{signature}", prose=("id {} ", "Authorization: Bearer {} ", "jwt: {} ", "token={} ", "{} "),
                bare=True, accepted=frozenset({"secret"}))  # fmt: skip


def ipv4(draw: random.Random) -> Item:
    """With port, in a URL, in a network, in brackets."""
    address = str(ipaddress.IPv4Address(draw.getrandbits(32) | 1 << 24))
    prose = (
        "from {}",
        "client {}:" + digits(draw, 5),
        "http://{}/",
        "[{}]",
        "{}/24",
        "peer=({}) up",
        "{} -> db",
        "ip-addr: {}",
    )
    return Item(address, ("ip", "client_ip", "remote_addr", "src"), prose)


def ipv6(draw: random.Random) -> Item:
    """In full, shortened, mapped, with zone, port or prefix (RFC 5952)."""
    network = draw.choice((0x20010DB8, 0x2A001450, 0xFE800000, 0xFD000000)) << 96
    address = ipaddress.IPv6Address(network | draw.getrandbits(draw.choice((16, 32, 64, 96))))
    written = draw.choice((address.compressed, address.exploded, address.compressed.upper()))
    if draw.random() < 0.1:
        written = f"::ffff:{ipaddress.IPv4Address(draw.getrandbits(32) | 1 << 24)}"
    prose = ("from {}", "[{}]:443", "http://[{}]/", "{}/64", "{} up", "peer ({}) gone", "<{}>")
    return Item(
        written,
        ("ip", "client_ip", "remote_addr", "peer"),
        prose,
        frozenset({"ipv4"}) if "." in written else frozenset(),
    )


def _base58(version: int, draw: random.Random) -> str:
    payload = bytes([version]) + draw.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, written = int.from_bytes(payload, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        written = _BASE58[rest] + written
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + written


def _polymod(values: Iterator[int]) -> int:
    check = 1
    for value in values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check


def _segwit(prefix: str, draw: random.Random) -> str:
    """BIP 173 (version 0) and BIP 350 (version 1)."""
    version = draw.randrange(2)
    bits = 160 if version == 0 else 256
    number, groups = draw.getrandbits(bits), -(-bits // 5)
    data = [version] + [number << groups * 5 - bits >> 5 * (groups - 1 - at) & 31 for at in range(groups)]
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    target = _polymod(iter(expanded + data + [0] * 6)) ^ (0x2BC830A3 if version else 1)
    data += [target >> 5 * (5 - at) & 31 for at in range(6)]
    return f"{prefix}1{''.join(_BECH32[value] for value in data)}"


def crypto_wallet(draw: random.Random) -> Item:
    """Bitcoin's old and new forms and Ethereum's mixed case anywhere; others behind a label."""
    kind = draw.randrange(5)
    if kind < 2:
        return Item(_segwit(draw.choice(("bc", "tb", "ltc")), draw))
    if kind == 2:
        plain = text(draw, _HEX, 40)
        digest = keccak_256(plain.encode()).hex()
        return Item("0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(plain, digest, strict=False)))
    keys = ("wallet", "wallet_address", "btc_address", "deposit_address", "walletAddress")
    prose = (
        "wallet: {}",
        "bitcoin address {}",
        "wallet address: {}",
        "BTC address: {}",
        "btc {}",
        "sent 0.5 LTC to {}",
    )
    return Item(_base58(draw.choice((0, 5)) if kind == 3 else draw.choice((30, 48, 65)), draw), keys, prose)
