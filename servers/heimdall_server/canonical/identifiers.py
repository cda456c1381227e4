"""Identifiers without a meaning of their own: vulnerabilities and UUIDs."""

from __future__ import annotations

import re
from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import plain_number
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, Sure, canonicalise

INPUT_CHARACTERS_MAX: Final = 128
CVE_YEAR_MIN: Final = 1999
BARE_CONFIDENCE: Final = 0.7
"""Of 32 digits without hyphens: an MD5 looks the same."""

_CVE: Final = re.compile(r"CVE[-_: ]?([0-9]{4})[-_: ]([0-9]{1,19})", re.ASCII | re.IGNORECASE)
_SEQUENCE_DIGITS_MIN: Final = 4
_UUID: Final = re.compile(r"([0-9a-f]{8})(-?)([0-9a-f]{4})\2([0-9a-f]{4})\2([0-9a-f]{4})\2([0-9a-f]{12})", re.ASCII)
_UUID_LABEL: Final = re.compile(r"urn:uuid:|uuid:", re.ASCII)
_PLAIN_UUID: Final = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"

_TOO_LONG: Final = Refused("it is too long")
_NOT_CVE: Final = Refused("it is not CVE, year and number")
_CVE_YEAR: Final = Refused("the list of vulnerabilities begins in 1999")
_NOT_UUID: Final = Refused("it doesn't have the 32 hexadecimal digits of a UUID")


def cve(values: pa.StringArray) -> CanonicalColumn:
    """CVE identifiers (CVE ID syntax of 2014): capitals, hyphens, at least four digits of sequence and no more zeros than that needs."""
    return canonicalise(values, read_cve)


def uuid(values: pa.StringArray) -> CanonicalColumn:
    """UUIDs in lower case with hyphens (RFC 9562 §4); read as URN, in braces and without hyphens too."""
    return canonicalise(values, read_uuid, _plain_uuid)


def read_cve(text: str) -> Canonical | Refused:
    """The rule of `cve` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain_number(text)
    found = _CVE.fullmatch(value)
    if found is None:
        return _NOT_CVE
    year, sequence = found.groups()
    if int(year) < CVE_YEAR_MIN:
        return _CVE_YEAR
    written = f"CVE-{year}-{sequence.lstrip('0').zfill(_SEQUENCE_DIGITS_MIN)}"
    upper = value.upper()
    if upper != value:
        changes |= Change.CASE
    if written != upper:
        changes |= Change.SEPARATORS if len(written) == len(upper) else Change.NOTATION
    return Canonical(written, changes)


def read_uuid(text: str) -> Canonical | Refused:
    """The rule of `uuid` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain_number(text)
    lowered = value.lower()
    if lowered != value:
        changes |= Change.CASE
    bare = lowered[1:-1] if lowered.startswith("{") and lowered.endswith("}") else _UUID_LABEL.sub("", lowered, count=1)
    if bare != lowered:
        changes |= Change.LABEL
    found = _UUID.fullmatch(bare)
    if found is None:
        return _NOT_UUID
    first, hyphen, *rest = found.groups()
    if not hyphen:
        changes |= Change.SEPARATORS
    return Canonical("-".join((first, *rest)), changes, 1.0 if hyphen else BARE_CONFIDENCE)


def _plain_uuid(values: pl.Series) -> Sure:
    return Sure.of(values, values.str.contains(_PLAIN_UUID), values.str.to_lowercase())
