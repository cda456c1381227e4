"""What a value that somebody typed may be known by in records: its forms, and the words of those.

A form is what tokens are made of; a value has several where records can't tell them apart: a phone number that came as a number has
lost its plus, an IPv4 address may have come mapped into IPv6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.canonical.addresses import read_ip
from heimdall_server.canonical.catalogue import TYPE_OF_CLASS, TYPES
from heimdall_server.canonical.column import Canonical, Refused
from heimdall_server.domain.personal import EPOCHS
from heimdall_server.planner.erased_values import FOREVER, ErasedValues
from heimdall_server.ports.keys import Tokeniser

PersonalForm = Callable[[str, pa.StringArray], pa.StringArray]
"""What each value of a class is known by (`canonical.catalogue.personal_form`)."""

ADDRESS_CLASSES: Final = ("ipv4", "ipv6")
NETWORKS_MAX: Final = 1024
"""Networks of the kept prefix length that a wider network may hold."""
IPV4_BITS: Final = 32
IPV6_BITS: Final = 128
_NO_EPOCH: Final = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A form that a value may have in records."""

    data_class: str
    form: str = field(repr=False)


class Names(Protocol):
    """Names forms: with tokens' words, or with something that stands for them."""

    def by_epoch(self, reading: Reading) -> Mapping[str, str]:
        """The word under each epoch, by the epoch's character."""
        ...

    def words(self, data_class: str, forms: Sequence[str]) -> list[str]:
        """The words of many forms under each epoch."""
        ...

    def erased_through(self, reading: Reading) -> int:
        """The journal position through which records aren't found by it; 0: it wasn't erased, `FOREVER`: none are, of any time."""
        ...


class TokenNames:
    """The words of tokens."""

    def __init__(self, tokeniser: Tokeniser, erased: ErasedValues) -> None:
        """Take the keys, and what was erased."""
        self._tokeniser = tokeniser
        self._erased = erased

    def by_epoch(self, reading: Reading) -> Mapping[str, str]:
        """The word under each live epoch."""
        return {word[0]: word for word in self._tokeniser.words_of_all_epochs(reading.data_class, reading.form)}

    def words(self, data_class: str, forms: Sequence[str]) -> list[str]:
        """The words of many forms; several times faster where one epoch lives."""
        epochs = self._tokeniser.live_epochs
        if len(epochs) == 1:
            words = self._tokeniser.words(data_class, forms)
            # A new index key may have come meanwhile.
            if all(word[0] == EPOCHS[epochs[0]] for word in words):
                return words
        return [word for form in forms for word in self._tokeniser.words_of_all_epochs(data_class, form)]

    def erased_through(self, reading: Reading) -> int:
        """The greatest position of its tokens: one of an epoch that began after the erasure has no tombstone of its own."""
        data_class, erased = reading.data_class, self._erased
        if not erased.version:
            return 0
        blocked = erased.blocked(data_class)
        if blocked and self._tokeniser.digests(data_class, [reading.form])[0] in blocked:
            return FOREVER
        return max(erased.through(data_class, word) for word in self.by_epoch(reading).values())


class DigestNames:
    """Digests under the identity key: the same whatever epochs live."""

    def __init__(self, tokeniser: Tokeniser) -> None:
        """Take the keys."""
        self._tokeniser = tokeniser

    def by_epoch(self, reading: Reading) -> Mapping[str, str]:
        """One digest."""
        return {_NO_EPOCH: self._tokeniser.digests(reading.data_class, [reading.form])[0]}

    def words(self, data_class: str, forms: Sequence[str]) -> list[str]:
        """Their digests."""
        return self._tokeniser.digests(data_class, forms)

    def erased_through(self, reading: Reading) -> int:
        """Nothing: what a resume token is bound to isn't changed by an erasure."""
        del reading
        return 0


def is_canonical(data_class: str, text: str) -> bool:
    """Whether a text is a value of a class by the rule of its type; a class without a type takes every text."""
    type_name = TYPE_OF_CLASS.get(data_class)
    return type_name is None or isinstance(TYPES[type_name].read(text), Canonical)


def readings_of(data_class: str, text: str, personal_form: PersonalForm) -> tuple[Reading, ...]:
    """The forms that a value of a class may have; of an address also those of the other version.

    Args:
        data_class: A class.
        text: As it was typed.
        personal_form: Makes forms.
    """
    if data_class in ADDRESS_CLASSES and (addresses := address_readings(text)):
        return addresses
    own = own_reading(data_class, text, personal_form)
    others = _phone_forms(own.form, personal_form) if data_class == "phone" else ()
    # In one order, however it was typed: what was asked is remembered by it.
    return tuple(Reading(data_class, form) for form in sorted((own.form, *others)))


def own_reading(data_class: str, text: str, personal_form: PersonalForm) -> Reading:
    """The one form of a value that stands in a text like this."""
    return Reading(data_class, _form(data_class, text, personal_form))


def address_readings(text: str) -> tuple[Reading, ...]:
    """A single IP address; IPv4 also as it is mapped into IPv6. Empty: it is none."""
    found = read_ip(text)
    if isinstance(found, Refused) or "/" in found.value:
        return ()
    if ":" in found.value:
        return (Reading("ipv6", found.value),)
    return Reading("ipv4", found.value), Reading("ipv6", f"::ffff:{found.value}")


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is wider than one address."""

    version_class: str
    """`ipv4` or `ipv6`."""
    bits: int
    address: ipaddress.IPv4Network | ipaddress.IPv6Network = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read what `parse_network` wrote."""
        network = ipaddress.ip_network(text)
        return cls("ipv4" if network.version == 4 else "ipv6", network.prefixlen, network)

    @property
    def is_address(self) -> bool:
        """It holds one address."""
        return self.bits == self.address.max_prefixlen

    def within(self, prefix: int) -> list[str]:
        """The forms of the networks of a prefix length in it, in order."""
        return [_written(each) for each in self.address.subnets(new_prefix=prefix)]


def _written(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _form(data_class: str, text: str, personal_form: PersonalForm) -> str:
    (form,) = personal_form(data_class, pa.array([text], pa.string())).to_pylist()
    return str(form)


def _phone_forms(form: str, personal_form: PersonalForm) -> Sequence[str]:
    """The form with or without its plus: numbers lose it."""
    if form.startswith("+"):
        return (form[1:],)
    international = f"+{form}"
    if not (form.isascii() and form.isdigit() and is_canonical("phone", international)):
        return ()
    return (_form("phone", international, personal_form),)
