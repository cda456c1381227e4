"""Telephone numbers in E.164."""

from __future__ import annotations

import functools
import re
from typing import Final

import phonenumbers
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import controlled, plain
from heimdall_server.canonical.column import (
    Canonical,
    CanonicalColumn,
    Change,
    Exact,
    Refused,
    Sure,
    canonicalise,
    stable,
)

INPUT_CHARACTERS_MAX: Final = 250
"""As many as `phonenumbers` reads."""
POSSIBLE_CONFIDENCE: Final = 0.8
"""Of a number that has a possible length, but no range that its country has given out."""
PLAIN_CONFIDENCE: Final = 0.9
"""Of a number that came in E.164: its country code is known, its range wasn't looked up."""
REGION_CONFIDENCE: Final = 0.8
"""At most, of a number whose country was assumed."""

_E164: Final = re.compile(r"\+[1-9][0-9]{7,14}", re.ASCII)
# Where a zero behind the country code belongs to the number: Italy and the Vatican, San Marino, Ivory Coast, Gabon, Congo.
_CODES_WITH_ZERO: Final = frozenset({39, 378, 225, 241, 242})
_INTERNATIONAL_PREFIX: Final = "00"

_TOO_LONG: Final = Refused("it is longer than a phone number can be")
_CONTROL: Final = Refused("a control character is in it")
NO_COUNTRY: Final = Refused("it has no country code, and no default region is set")
_NOT_A_PHONE: Final = Refused("it is not a phone number")
_IMPOSSIBLE: Final = Refused("its country has no numbers of this length")


def phone(values: pa.StringArray, *, region: str | None = None) -> CanonicalColumn:
    """Telephone numbers in E.164 (`+` and at most 15 digits), without extension.

    What is in that form already is taken as it is, unless a zero stands behind the country code: then it is a trunk prefix in most
    countries, and the numbering plans of `phonenumbers` decide.

    Args:
        values: Numbers in any usual writing, RFC 3966 (`tel:`) too.
        region: ISO 3166-1 alpha-2 code of the country whose numbers need no country code; None: they are refused.
    """
    return canonicalise(values, rule_for(region), _plain_phone)


@functools.lru_cache(maxsize=256)
def rule_for(region: str | None) -> Exact:
    """The rule of `phone` for one value."""

    def read(text: str) -> Canonical | Refused:
        if len(text) > INPUT_CHARACTERS_MAX:
            return _TOO_LONG
        value, changes = plain(text)
        if controlled(value):
            return _CONTROL
        if _taken(value):
            return Canonical(value, changes, PLAIN_CONFIDENCE)
        return _parsed(value, region, changes)

    return stable(read)


def show_phone(canonical: str) -> str:
    """A canonical number as people write it to other countries."""
    try:
        number = phonenumbers.parse(canonical)
    except phonenumbers.NumberParseException:
        return canonical
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def _parsed(value: str, region: str | None, changes: Change) -> Canonical | Refused:
    dialled = value
    if region is None and value.startswith(_INTERNATIONAL_PREFIX):
        # The prefix that ITU-T E.164 recommends, and most countries use.
        dialled, changes = f"+{value[2:]}", changes | Change.ASSUMED
    try:
        number = phonenumbers.parse(dialled, region)
    except phonenumbers.NumberParseException as error:
        no_country = error.error_type == phonenumbers.NumberParseException.INVALID_COUNTRY_CODE
        return NO_COUNTRY if no_country and region is None and "+" not in dialled else _NOT_A_PHONE
    if not phonenumbers.is_possible_number(number):
        return _IMPOSSIBLE
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if not _E164.fullmatch(written):
        return _IMPOSSIBLE
    confidence = 1.0 if phonenumbers.is_valid_number(number) else POSSIBLE_CONFIDENCE
    if number.extension:
        changes |= Change.EXTENSION
    international = dialled.lstrip("(").startswith(("+", "tel:+", "Tel:+"))
    if not international or dialled != value:
        changes, confidence = changes | Change.ASSUMED, min(confidence, REGION_CONFIDENCE)
    if written != value:
        changes |= Change.SEPARATORS
    return Canonical(written, changes, confidence)


@functools.cache
def _patterns() -> tuple[str, str]:
    """What is in E.164 with a known country code, and which of that has a doubtful zero."""
    codes = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
    known = "|".join(str(code) for code in codes)
    doubtful = "|".join(str(code) for code in codes if code not in _CODES_WITH_ZERO)
    return rf"^\+(?:{known})[0-9]{{5,14}}$", rf"^\+(?:{doubtful})0"


@functools.cache
def _compiled() -> tuple[re.Pattern[str], re.Pattern[str]]:
    known, doubtful = _patterns()
    return re.compile(known, re.ASCII), re.compile(doubtful, re.ASCII)


def _taken(value: str) -> bool:
    known, doubtful = _compiled()
    return bool(_E164.fullmatch(value) and known.match(value) and not doubtful.match(value))


def _plain_phone(values: pl.Series) -> Sure:
    known, doubtful = _patterns()
    decided = values.str.contains(r"^\+[1-9][0-9]{7,14}$") & values.str.contains(known)
    decided &= ~values.str.contains(doubtful)
    return Sure.of(values, decided, values, confidence=PLAIN_CONFIDENCE)
