"""Every type of value, by name, and what a value of a class of personal data is known by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.canonical.addresses import ip, ipv4, ipv6, networks, read_ip, read_ipv4, read_ipv6
from heimdall_server.canonical.column import CanonicalColumn, Exact, Refused
from heimdall_server.canonical.country import country, read_country, show_country
from heimdall_server.canonical.domain import domain, read_domain, show_domain
from heimdall_server.canonical.email import email, read_email, settled_email, show_email
from heimdall_server.canonical.hardware import asn, eui64, mac, read_asn, read_eui64, read_mac
from heimdall_server.canonical.hashes import HASH_TYPES, digest, file_hash, read_hash, rule_of
from heimdall_server.canonical.identifiers import cve, read_cve, read_uuid, uuid
from heimdall_server.canonical.paths import file_path, read_registry_key, registry_key
from heimdall_server.canonical.paths import rule_for as path_rule
from heimdall_server.canonical.payment import card, iban, read_card, read_iban, show_grouped
from heimdall_server.canonical.personal_text import personal_text
from heimdall_server.canonical.phone import phone, show_phone
from heimdall_server.canonical.phone import rule_for as phone_rule
from heimdall_server.canonical.timestamps import read_timestamp, show_timestamp, timestamp
from heimdall_server.canonical.url import read_url, url
from heimdall_server.canonical.user_agent import read_user_agent, user_agent


@dataclass(frozen=True, slots=True)
class ValueType:
    """One type: its rule over a column and for one value, and how its canonical values are shown."""

    canonicalise: Callable[[pa.StringArray], CanonicalColumn]
    read: Exact
    show: Callable[[str], str] | None = None
    """None: canonical values are shown as they are."""


TYPES: Final[Mapping[str, ValueType]] = {
    "ip": ValueType(ip, read_ip),
    "ipv4": ValueType(ipv4, read_ipv4),
    "ipv6": ValueType(ipv6, read_ipv6),
    "domain": ValueType(domain, read_domain, show_domain),
    "url": ValueType(url, read_url),
    "email": ValueType(email, read_email, show_email),
    "hash": ValueType(file_hash, read_hash),
    **{name: ValueType(functools.partial(digest, algorithm=name), rule_of(name)) for name in HASH_TYPES},
    "mac": ValueType(mac, read_mac),
    "eui64": ValueType(eui64, read_eui64),
    "asn": ValueType(asn, read_asn),
    "phone": ValueType(phone, phone_rule(None), show_phone),
    "iban": ValueType(iban, read_iban, show_grouped),
    "card": ValueType(card, read_card, show_grouped),
    "cve": ValueType(cve, read_cve),
    "uuid": ValueType(uuid, read_uuid),
    "file_path": ValueType(file_path, path_rule("auto")),
    "registry_key": ValueType(registry_key, read_registry_key),
    "user_agent": ValueType(user_agent, read_user_agent),
    "country": ValueType(country, read_country, show_country),
    "timestamp": ValueType(timestamp, read_timestamp, show_timestamp),
}

CANONICALISERS: Final[Mapping[str, Callable[[pa.StringArray], CanonicalColumn]]] = {
    name: value_type.canonicalise for name, value_type in TYPES.items()
}
"""The rule of each type over a column, with its default parameters."""

TYPE_OF_CLASS: Final[Mapping[str, str]] = {
    "email": "email",
    "phone": "phone",
    "iban": "iban",
    "card": "card",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
    "mac": "mac",
    "url": "url",
}
"""The type by whose rule values of a class of personal data are canonical; a class without one has the rule of `personal_text`."""

_SETTLED: Final[Mapping[str, Callable[[pa.StringArray], pa.BooleanArray]]] = {"email": settled_email}
"""By class, which values are seen at a glance to be what they are known by."""

_NETWORK_CLASSES: Final = ("ipv4_", "ipv6_")


def personal_form(data_class: str, values: pa.StringArray) -> pa.StringArray:
    """What each value of a class of personal data is known by: tokens, digests and entities are made of it.

    Its canonical form; where that is refused, or the class has no type, the form of `personal_text`. Of a class of networks such as
    `ipv4_24` it is the network of that prefix length which the address is in.

    Args:
        data_class: Any class, known or not.
        values: As they were found. Null counts as "".

    Returns:
        As many values; never null. Stable: the form of a form is itself.
    """
    texts = values.fill_null("")
    if not len(texts):
        return texts
    if data_class in _SETTLED:
        settled = _SETTLED[data_class](texts)
        if settled.true_count == len(texts):
            return texts
        left = pc.invert(settled)
        return pc.replace_with_mask(texts, left, _understood(data_class, texts.filter(left)))
    return _understood(data_class, texts)


def _understood(data_class: str, texts: pa.StringArray) -> pa.StringArray:
    canonical = _canonical(data_class, texts)
    if canonical is None:
        return personal_text(data_class, texts)
    if not canonical.null_count:
        return canonical
    refused = texts.filter(canonical.is_null())
    plain = personal_text(data_class, refused)
    # What was refused for white space or a character nobody sees may be understood now.
    again = _canonical(data_class, plain)
    return pc.replace_with_mask(canonical, canonical.is_null(), plain if again is None else pc.coalesce(again, plain))


def display(type_name: str, canonical: str) -> str:
    """A canonical value for people.

    Never a form that would be read as another value: where it could be, the canonical value itself.

    Args:
        type_name: One of `TYPES`.
        canonical: A canonical value of the type.

    Raises:
        KeyError: There is no such type.
    """
    value_type = TYPES[type_name]
    if value_type.show is None:
        return canonical
    shown = value_type.show(canonical)
    again = value_type.read(shown)
    return canonical if isinstance(again, Refused) or again.value != canonical else shown


def _canonical(data_class: str, texts: pa.StringArray) -> pa.StringArray | None:
    type_name = TYPE_OF_CLASS.get(data_class)
    if type_name is not None:
        return CANONICALISERS[type_name](texts).values
    version, _, bits = data_class.rpartition("_")
    if f"{version}_" not in _NETWORK_CLASSES or not bits.isascii() or not bits.isdigit():
        return None
    width = 32 if version == "ipv4" else 128
    if int(bits) > width:
        return None
    addresses = CANONICALISERS[version](texts).values
    return networks(addresses, ipv4_bits=min(int(bits), 32), ipv6_bits=min(int(bits), 128))
