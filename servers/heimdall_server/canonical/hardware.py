"""Names of network hardware and networks: EUI-48, EUI-64, autonomous systems."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.characters import plain_number
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Exact, Refused, Sure, canonicalise

INPUT_CHARACTERS_MAX: Final = 128
ASN_MAX: Final = 2**32 - 1
"""RFC 6793."""
BARE_CONFIDENCE: Final = 0.6
"""Of plain digits that could be anything."""

_GROUPED: Final = re.compile(
    r"[0-9a-f]{1,2}(?:([:-])[0-9a-f]{1,2})(?:\1[0-9a-f]{1,2})*|[0-9a-f]{4}(?:\.[0-9a-f]{4})+|[0-9a-f]+", re.ASCII
)
_PLAIN_MAC: Final = "^(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5})$"
_ASN: Final = re.compile(r"(asn?[ :]?)?\s*([0-9]{1,10})(?:\.([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_HALF_MAX: Final = 65_535

_TOO_LONG: Final = Refused("it is too long")
_NOT_MAC: Final = Refused("it is not a hardware address of 48 bits")
_NOT_EUI64: Final = Refused("it is not a hardware address of 64 bits")
_NOT_ASN: Final = Refused("it is not the number of an autonomous system")
_ASN_BEYOND: Final = Refused("the number is beyond 32 bits (RFC 6793)")


def mac(values: pa.StringArray) -> CanonicalColumn:
    """EUI-48 (IEEE 802-2014 §8.2.2) in lower case with colons, as STIX 2.1 §6.8 writes it; read with `:`, `-`, `.` or none."""
    return canonicalise(values, read_mac, _plain_mac)


def eui64(values: pa.StringArray) -> CanonicalColumn:
    """EUI-64 (IEEE 802-2014 §8.2.2) in lower case with colons; read with `:`, `-`, `.` or none."""
    return canonicalise(values, read_eui64)


def asn(values: pa.StringArray) -> CanonicalColumn:
    """Numbers of autonomous systems as `AS` and asplain; asdot is read (RFC 5396 §2)."""
    return canonicalise(values, read_asn)


def _hardware_rule(octet_count: int, refusal: Refused) -> Exact:
    def read(text: str) -> Canonical | Refused:
        if len(text) > INPUT_CHARACTERS_MAX:
            return _TOO_LONG
        value, changes = plain_number(text)
        lowered = value.lower()
        if lowered != value:
            changes |= Change.CASE
        if not _GROUPED.fullmatch(lowered):
            return refusal
        pieces = re.split("[:-]", lowered)
        if len(pieces) == 1:
            digits = lowered.replace(".", "")
        elif len(pieces) == octet_count:
            digits = "".join(piece.zfill(2) for piece in pieces)
        else:
            return refusal
        if len(digits) != 2 * octet_count:
            return refusal
        written = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
        if written != lowered:
            changes |= Change.SEPARATORS
        return Canonical(written, changes, BARE_CONFIDENCE if lowered == digits else 1.0)

    return read


read_mac: Final = _hardware_rule(6, _NOT_MAC)
"""The rule of `mac` for one value."""
read_eui64: Final = _hardware_rule(8, _NOT_EUI64)
"""The rule of `eui64` for one value."""


def read_asn(text: str) -> Canonical | Refused:
    """The rule of `asn` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain_number(text)
    found = _ASN.fullmatch(value)
    if found is None:
        return _NOT_ASN
    label, high, low = found.groups()
    number = int(high)
    if low is not None:
        if number > _HALF_MAX or int(low) > _HALF_MAX:
            return _ASN_BEYOND
        number = number * (_HALF_MAX + 1) + int(low)
    if number > ASN_MAX:
        return _ASN_BEYOND
    written = f"AS{number}"
    if written != value:
        changes |= Change.CASE if written == value.upper() else Change.NOTATION
    return Canonical(written, changes, 1.0 if label else BARE_CONFIDENCE)


def _plain_mac(values: pl.Series) -> Sure:
    sure = Sure.of(values, values.str.contains(_PLAIN_MAC), values.str.to_lowercase())
    hyphens = values.str.contains("-", literal=True)
    if not hyphens.any():
        return sure
    flags = sure.changes | hyphens.to_numpy().astype(np.uint32) * np.uint32(Change.SEPARATORS)
    return Sure(sure.values.str.replace_all("-", ":", literal=True), flags, sure.confidence)
