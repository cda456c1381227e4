"""Texts that are values of a type, nearly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import CANONICALISERS
from heimdall_server.canonical.column import FAST_VALUES_MIN, CanonicalColumn

SEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "ip": (
        "1.2.3.4",
        "2001:db8::1",
        "::ffff:1.2.3.4",
        "1:0:0:2:0:0:0:3",
        "fe80::1%eth0",
        "10.1.2.3/24",
        "::",
        "1::2:3:4:5:6:7",
        "::1:2:3:4:5:6",
    ),
    "domain": (
        "example.com",
        "bücher.de",
        "xn--bcher-kva.de",
        "\u0430\u0440\u0440\u04cf\u0435.com",
        "_dmarc.a.org",
        "例え。テスト",
        "a-b--c.co.uk.",
        "xn--n3h.net",
        "ß.ß",
    ),
    "url": (
        "hxxps[://]evil[.]com/a/../b?x=%e4#f",
        "http://user:pw@Example.com:80/%7Ea b",
        "https://a.example.com/x.html?q=1",
        "http://[fe80::1%25eth0]:81",
        "urn:uuid:a//b",
        "file:///etc/./passwd",
        "x:/.//a",
        "a://b,c@d:1",
        "http://1[.]2[.]3[.]4",
    ),
    "email": (
        "Alice+tag@Example.com",
        '"john\\"doe"@x.org',
        "a(at)b[.]com",
        "<a@b.com>",
        "mailto:a%20b@c.de?x",
        "u@[IPv6:::1]",
        "用户@例え.テスト",
        '"[[at]]"@x.y',
    ),
    "hash": (
        "d41d8cd98f00b204e9800998ecf8427e",
        "SHA3-256=" + "ab" * 32,
        "3:AXGBicFlg:AXGBicFlgVN",
        "T1" + "a0" * 35,
        "sha1:" + "AB" * 20,
        "f" * 128,
    ),
    "mac": ("00-1A-2B-3C-4D-5E", "001a.2b3c.4d5e", "0:1:2:3:4:5", "001a2b3c4d5e"),
    "eui64": ("00-1A-2B-3C-4D-5E-6F-70", "001a.2b3c.4d5e.6f70"),
    "asn": ("AS64512", "1.10", "asn: 5"),
    "phone": (
        "+4930123456",
        "+49 (0)30 123456",
        "+12015550123",
        "tel:+1-201-555-0123;ext=5",
        "+490301234567",
        "+390612345678",
        "0044 20 7946 0958",
    ),
    "iban": ("DE89 3704 0044 0532 0130 00", "gb82west12345698765432", "IBAN: FR14 2004 1010 0505 0001 3M02 606"),
    "card": ("4111 1111 1111 1111", "378282246310005", "6011-1111-1111-1117"),
    "cve": ("cve-2021-44228", "CVE 2014_0160"),
    "uuid": ("{12345678-1234-1234-1234-1234567890AB}", "urn:uuid:12345678-1234-1234-1234-1234567890ab"),
    "file_path": (
        "C:/Windows/..\\x.EXE",
        "\\\\?\\UNC\\srv\\share\\a. ",
        "/usr//bin/./x/../y",
        "./a\\b",
        "..\\..\\x",
        "a/b",
        "//n/x",
    ),
    "registry_key": ("HKLM\\Software\\Foo", "HKCU:\\X\\\\y", "\\REGISTRY\\MACHINE\\A", "Registry::HKEY_USERS\\S"),
    "user_agent": ("Mozilla/5.0  (X11; Linux)", "curl/8"),
    "country": ("Germany", "deu", "Côte d'Ivoire", "U.S.A."),
    "timestamp": (
        "2024-01-02T03:04:05.123+02:00",
        "1700000000123",
        "10/Oct/2000:13:55:36 -0700",
        "Tue, 15 Nov 1994 08:12:31 GMT",
        "20240102T030405Z",
    ),
}
"""Spellings of each type that other types of its family are tried with as well."""

_PIECES: Final = [
    *"[](){}<>@:./\\-_%#?&=+,;~ \t\n0aAfFzZ\"'|*",
    "[.]",
    "::",
    "%2e",
    "%",
    "xn--",
    "..",
    "//",
    "\u200b",
    "\u00ad",
    "\uff10",
    "\uff21",
    "\uff0e",
    "İ",
    "ß",
    "ς",
    "K",
    "\u0430",
    "\u0301",
    "🙂",
    "\u2013",
    "\x00",
    "\u3000",
]


@st.composite
def spelled(draw: st.DrawFn, seeds: tuple[str, ...]) -> str:
    """A seed with a few pieces put in, taken out or in another case."""
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 3)):
            case 0:
                text = text[:at] + draw(st.sampled_from(_PIECES)) + text[at:]
            case 1:
                text = text[:at] + text[at + 1 :]
            case 2:
                text = text[:at] + text[at:].swapcase()
            case _:
                text = text[:at] + draw(st.sampled_from(_PIECES)) + text[at + 1 :]
    return text


def texts_for(type_name: str) -> st.SearchStrategy[list[str]]:
    """Columns for a type: its own spellings, those of others, and any text."""
    own = SEEDS.get(type_name) or SEEDS["ip" if type_name.startswith("ip") else "hash"]
    others = tuple(seed for seeds in SEEDS.values() for seed in seeds)
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    return st.lists(st.one_of(spelled(own), spelled(own), spelled(others), anything), min_size=1, max_size=12)


def column_of(type_name: str, *texts: str | None) -> CanonicalColumn:
    """The column of some texts, judged among as many others as it takes for the fast path to be used."""
    among = [*texts, *(f"filler {at}" for at in range(FAST_VALUES_MIN))]
    column = CANONICALISERS[type_name](pa.array(among, pa.string()))
    parts = (column.values, column.changes, column.confidence, column.reasons)
    return CanonicalColumn(*(part.slice(0, len(texts)) for part in parts))


def forms_of(type_name: str, *texts: str | None) -> list[str | None]:
    """The canonical values of some texts."""
    values: list[str | None] = column_of(type_name, *texts).values.to_pylist()
    return values


def form_of(type_name: str, text: str) -> str:
    """The canonical value of a text that is one; else the reason behind an exclamation mark."""
    column = column_of(type_name, text)
    value: str | None = column.values[0].as_py()
    return f"! {column.reasons[0].as_py()}" if value is None else value
