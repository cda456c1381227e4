"""Format-preserving encryption: FF1 of NIST SP 800-38G (and its Revision 1 draft's bound on domains), by the package `fastfpe`.

A value's letters and digits become others of the same alphabet; separators (blank and `-./()+:`) stay where they are, and so does the
length. Nothing else stays: a card's number needn't pass Luhn's check any more (one in ten does by chance), an IBAN's or an identity
number's check digits don't fit, a phone number's country may not exist. It is deterministic within a class: a value becomes the same text in
every field and record, so equality and frequency of values can be seen across fields, too, and the form by design. Letters come out in
upper case, as canonical forms have them.

The key is AES-256, one a class, derived from the keyring's identity key: it is never rotated or destroyed, so these values can't be shredded.
The tweak is the class alone: whoever reads a value again needn't know the field. Fewer than a million possible values of a length are
refused: a table of all would be made in seconds. FF3 isn't offered: NIST withdrew it.

About 10 µs a distinct value; each is encrypted once a call.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fastfpe import ff1  # type: ignore[import-untyped]

DOMAIN_SIZE_MIN: Final = 1_000_000
LENGTH_MAX: Final = 128
"""Most characters that are encrypted; the cost grows with the square of the length."""
DIGITS: Final = string.digits
LETTERS_AND_DIGITS: Final = string.digits + string.ascii_uppercase
SEPARATORS: Final = " -./()+:"
_DIGIT_CLASSES: Final = (
    "card", "phone", "ssn", "us_ssn", "aadhaar", "cpf", "cnpj", "nhs", "bsn", "pesel", "personnummer", "bank_account", "imei", "imsi",
)  # fmt: skip
_LETTER_CLASSES: Final = ("iban", "passport", "driving_licence", "national_id")
ALPHABETS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(_DIGIT_CLASSES, DIGITS) | dict.fromkeys(_LETTER_CLASSES, LETTERS_AND_DIGITS)
)
"""Alphabet of each class."""


def smallest_length(alphabet: str) -> int:
    """Characters that a value needs at least for a domain of a million."""
    length = 1
    while len(alphabet) ** length < DOMAIN_SIZE_MIN:
        length += 1
    return length


@dataclass(frozen=True, slots=True)
class _Form:
    """How a class is encrypted."""

    key: str
    """Hexadecimal. Secret."""
    alphabet: str
    length_min: int

    def __repr__(self) -> str:
        return f"_Form(alphabet={self.alphabet!r})"


class Ff1Preserver:
    """Implements `FormatPreserver`. Thread-safe."""

    def __init__(self, key_of: Callable[[str], bytes], alphabets: Mapping[str, str] = ALPHABETS) -> None:
        """Derive the keys.

        Args:
            key_of: Gives 32 bytes for a purpose: `Keyring.identity_key`.
            alphabets: Distinct characters, by class; none of `SEPARATORS`.

        Raises:
            ValueError: An alphabet that can't be used.
        """
        for data_class, alphabet in alphabets.items():
            if len(set(alphabet)) != len(alphabet) or len(alphabet) < 2 or set(alphabet) & set(SEPARATORS):
                msg = f"alphabet of {data_class}: characters must be two or more, distinct, and no separators"
                raise ValueError(msg)
        self._forms = {
            data_class: _Form(key_of(f"format preserving/{data_class}").hex(), alphabet, smallest_length(alphabet))
            for data_class, alphabet in alphabets.items()
        }

    @property
    def classes(self) -> frozenset[str]:
        """Classes that have a form."""
        return frozenset(self._forms)

    def encrypt(self, data_class: str, values: Sequence[str]) -> list[str | None]:
        """Encrypt values.

        Args:
            data_class: One of `classes`.
            values: In plain.

        Returns:
            In order. None: the value has another character than those of its class and separators, is over `LENGTH_MAX`, or
            there are fewer than a million of its length.

        Raises:
            KeyError: The class has no form.
        """
        return self._each(ff1.encrypt, data_class, values)

    def decrypt(self, data_class: str, values: Sequence[str]) -> list[str | None]:
        """What `encrypt` was given. Whatever has the form of the class decrypts to something: there is no integrity."""
        return self._each(ff1.decrypt, data_class, values)

    def _each(
        self, cipher: Callable[[str, str, str, str], str], data_class: str, values: Sequence[str]
    ) -> list[str | None]:
        form = self._forms[data_class]
        tweak = f"{data_class}\0".encode().hex()
        found = {value: _applied(cipher, form, tweak, value) for value in set(values)}
        return [found[value] for value in values]


def _applied(cipher: Callable[[str, str, str, str], str], form: _Form, tweak: str, value: str) -> str | None:
    text = value.upper() if form.alphabet == LETTERS_AND_DIGITS else value
    core = text.translate(_WITHOUT_SEPARATORS)
    if not form.length_min <= len(core) <= LENGTH_MAX or not set(core) <= set(form.alphabet):
        return None
    changed = iter(cipher(form.key, tweak, form.alphabet, core))
    return "".join([character if character in SEPARATORS else next(changed) for character in text])


_WITHOUT_SEPARATORS: Final = str.maketrans("", "", SEPARATORS)
