"""Personal values to plant: of every class that has rules, each one made once, with the pieces by which it is known again.

A value's *needles* are what of it may be left nowhere: the whole of it, or, where a rule that took only a part would leave
something to tell a person by, its parts. They are long enough not to come by chance.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import random
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from heimdall_server.protect.catalogue import CLASSES

UNRULED: Final = frozenset({"organisation"})
"""Classes that only the model of names finds."""
HIDDEN_KINDS: Final = ("email", "card", "iban", "phone", "ssn")
"""What is also sent in disguise."""
SHORT_KINDS: Final = ("email", "card", "iban", "ssn", "phone", "jwt")
"""What names something: a service, a host, a dump."""
HOST_KINDS: Final = (*SHORT_KINDS, "ipv4", "ipv6")
"""What names a host."""
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS: Final = string.ascii_letters + string.digits
_HEX: Final = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Value:
    """One personal value."""

    kind: str
    """`class` or `class/way of writing it`."""
    bare: str
    """As it stands alone."""
    before: str
    """Of a text: what stands in front of it, a label where its class needs one."""
    field: str
    """The name of an attribute that holds it alone."""
    needles: tuple[str, ...]

    @property
    def text(self) -> str:
        """A sentence with it."""
        return f"seen {self.before}{self.bare}, done"

    @property
    def data_class(self) -> str:
        """Its class."""
        return self.kind.partition("/")[0]


class Planted:
    """Makes values and keeps where each was planted; the same ones for a seed."""

    def __init__(self, seed: int = 1) -> None:
        self.draw = random.Random(seed)
        self.values: dict[str, Value] = {}
        """By label: `door: place: kind`."""
        self._makers = _makers(self.draw)
        self._seen: set[str] = set()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind."""
        return tuple(self._makers)

    def take(self, kind: str, where: str) -> Value:
        """A fresh value for a place.

        Args:
            kind: One of `kinds`.
            where: Door and place, for the label in a failure.
        """
        while True:
            bare, before, field, needles = self._makers[kind]()
            value = Value(kind, bare, before, field, tuple(needles) or (bare,))
            if self._seen.isdisjoint(value.needles):
                break
        self._seen.update(value.needles)
        label = f"{where}: {kind}"
        while label in self.values:
            label += "'"
        self.values[label] = value
        return value

    def take_all(self, where: str, kinds: Iterable[str] = ()) -> list[Value]:
        """A value of each kind."""
        return [self.take(kind, where) for kind in (kinds or self.kinds)]

    def needles(self) -> dict[str, str]:
        """What a scanner looks for, by label."""
        return {
            f"{label} #{number}": needle
            for label, value in self.values.items()
            for number, needle in enumerate(value.needles)
        }


def classes_with_rules() -> frozenset[str]:
    """Classes that must be among the kinds."""
    return frozenset(CLASSES) - UNRULED


_Made = tuple[str, str, str, Iterable[str]]


def _makers(draw: random.Random) -> Mapping[str, Callable[[], _Made]]:
    """By kind: the bare value, what stands before it in a text, a field's name, its needles (none: itself)."""

    def digits(count: int) -> str:
        return "".join(draw.choices(string.digits, k=count))

    def text(count: int, alphabet: str = _LETTERS) -> str:
        return "".join(draw.choices(alphabet, k=count))

    def word(count: int = 9) -> str:
        pairs = (draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range((count + 1) // 2))
        return "".join(pairs)[:count]

    def email() -> _Made:
        local, domain = f"{word()}.{word(7)}", f"{word(10)}.example.org"
        return f"{local}@{domain}", "", "contact", (local, domain)

    def card() -> str:
        body = f"4{digits(14)}"
        total = sum(sum(divmod(int(digit) * (2 - at % 2), 10)) for at, digit in enumerate(body))
        return f"{body}{-total % 10}"

    def grouped_card() -> _Made:
        number = card()
        return "-".join(number[at : at + 4] for at in range(0, 16, 4)), "", "paid_with", ()

    def iban() -> _Made:
        account = f"37040044{digits(10)}"
        return f"DE{98 - int(f'{account}131400') % 97:02d}{account}", "", "paid_to", (account,)

    def ssn() -> _Made:
        number = f"{draw.randrange(100, 600)}-{draw.randrange(10, 99)}-1{digits(3)}"
        return number, "", "person", (number,)

    def jwt() -> _Made:
        payload = base64.urlsafe_b64encode(f'{{"sub":"{text(20)}"}}'.encode()).decode().rstrip("=")
        signature = text(43)
        return f"eyJhbGciOiJIUzI1NiJ9.{payload}.{signature}", "", "assertion", (payload, signature)

    def geo() -> _Made:
        latitude, longitude = f"{draw.uniform(10, 80):.7f}", f"{draw.uniform(100, 170):.7f}"
        return f"{latitude},{longitude}", "location: ", "geo_location", (latitude, longitude)

    def born() -> _Made:
        # Of a century in which nothing else happens here.
        date = dt.date(1810, 1, 1) + dt.timedelta(days=draw.randrange(30_000))
        return date.isoformat(), "date of birth: ", "date_of_birth", ()

    def name() -> _Made:
        first, last = word(10).title(), word(10).title()
        return f"{first} {last}", "full name: ", "full_name", (first, last)

    def address() -> _Made:
        street, town = word(10).title(), word(10).title()
        return f"{draw.randrange(10, 999)} {street} Street, {town}", "lives at ", "home_address", (street, town)

    def pesel() -> _Made:
        body = f"{draw.randrange(40, 99)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}{digits(4)}"
        check = -sum(int(digit) * weight for digit, weight in zip(body, (1, 3, 7, 9) * 3, strict=False)) % 10
        return f"{body}{check}", "PESEL ", "pesel", ()

    def cpf() -> _Made:
        body = digits(9)
        for count in (10, 11):
            total = sum(int(digit) * (count - at) for at, digit in enumerate(body))
            body += str(-total % 11 % 10 if -total % 11 < 10 else 0)
        return (
            f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}",
            "cliente ",
            "cpf",
            (f"{body[:3]}.{body[3:6]}.{body[6:9]}",),
        )

    def nino() -> _Made:
        number = f"{text(1, 'ACEGHJ')}{text(1, 'CEGHJ')}{digits(6)}{text(1, 'ABCD')}"
        return number, "national insurance number ", "nino", ()

    def bech32() -> _Made:
        return _bech32(draw), "sent to ", "payee", ()

    def ethereum() -> _Made:
        return f"0x{text(40, _HEX)}", "to ", "receiver", ()

    def ipv6() -> _Made:
        address_ = ipaddress.IPv6Address(0x20010DB8 << 96 | draw.getrandbits(96)).compressed
        return address_, "peer ", "peer", ()

    def ipv4() -> _Made:
        # Long ones only: a short address is found in bytes by chance.
        parts = [str(draw.randrange(low, high)) for low, high in ((101, 126), (100, 255), (100, 255), (100, 255))]
        return ".".join(parts), "from ", "peer", ()

    def secret(prefix: str, count: int, alphabet: str = _LETTERS) -> Callable[[], _Made]:
        def make() -> _Made:
            body = text(count, alphabet)
            return f"{prefix}{body}", "used ", "note", (body,)

        return make

    def labelled(before: str, field: str, body: Callable[[], str]) -> Callable[[], _Made]:
        return lambda: (body(), before, field, ())

    return {
        "ipv6": ipv6,
        "cookie": lambda: (f"sid={(body := text(24))}", "Cookie: ", "cookie", (body,)),
        "cookie/session": labelled("PHPSESSID=", "phpsessid", lambda: text(26)),
        "secret/password": labelled("password=", "password", lambda: text(14)),
        "secret/bearer": labelled("Authorization: Bearer ", "authorization", lambda: text(32)),
        "secret/url": lambda: (f"https://{word()}:{(body := text(16))}@db.internal/x", "", "target", (body,)),
        "secret/aws": secret("AKIA", 16, string.ascii_uppercase + string.digits),
        "secret/github": secret("ghp_", 36),
        "secret/openai": secret("sk-proj-", 40),
        "secret/digitalocean": secret("dop_v1_", 64, _HEX),
        "secret/shared": lambda: (f"sig={(body := text(44))}", "at ?", "note", (body,)),
        "secret/private key": lambda: (
            f"-----BEGIN PRIVATE KEY----- {(body := text(64))} -----END PRIVATE KEY-----",
            "",
            "note",
            (body,),
        ),
        "secret/option": labelled("ran --db-password ", "db_password", lambda: text(14)),
        "jwt": jwt,
        "crypto_wallet/bech32": bech32,
        "crypto_wallet/ethereum": ethereum,
        "crypto_wallet/labelled": labelled("monero wallet: ", "wallet_address", lambda: f"4{text(94, _BASE58)}"),
        "email": email,
        "iban": iban,
        "passport": labelled("passport no. ", "passport_number", lambda: f"C{text(7, 'CFGHJKLMNPRTVWXYZ')}{digits(2)}"),
        "driving_licence": labelled("driving licence no ", "driving_licence", lambda: f"D{digits(12)}"),
        "birth_date": born,
        "name": name,
        "national_id/pesel": pesel,
        "national_id/cpf": cpf,
        "national_id/nino": nino,
        "bank_account": labelled("account number: ", "account_number", lambda: digits(12)),
        "geo": geo,
        "address": address,
        "ssn": ssn,
        "phone": lambda: (f"+4915{(body := digits(9))}", "call ", "phone", (f"15{body}",)),
        "phone/american": lambda: (
            f"{draw.randrange(212, 990)}-{draw.randrange(212, 990)}-{digits(4)}",
            "call ",
            "telephone",
            (),
        ),
        "card": lambda: (card(), "paid with ", "card_number", ()),
        "card/grouped": grouped_card,
        "ipv4": ipv4,
    }


def _bech32(draw: random.Random) -> str:
    """A Bitcoin address of 20 random bytes (BIP 173)."""
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    data = [0, *(draw.randrange(32) for _ in range(32))]
    values = [3, 3, 0, 2, 3, *data, 0, 0, 0, 0, 0, 0]
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> bit & 1 else 0
    checksum ^= 1
    return "bc1" + "".join(alphabet[one] for one in (*data, *(checksum >> 5 * (5 - at) & 31 for at in range(6))))
