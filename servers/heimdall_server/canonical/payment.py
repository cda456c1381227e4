"""What money is moved by: IBANs and the numbers of payment cards."""

from __future__ import annotations

import functools
import re
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from stdnum import numdb

from heimdall_server.canonical.characters import plain_number
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, Sure, canonicalise

INPUT_CHARACTERS_MAX: Final = 128
UNKNOWN_ISSUER_CONFIDENCE: Final = 0.6
"""Of digits that pass Luhn's check, as one of ten numbers does, without a known issuer."""
GROUP_DIGITS: Final = 4

_SEPARATORS: Final = str.maketrans("", "", " -.\t\u00a0")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", re.ASCII)
_LETTER_NUMBERS: Final = {ord("A") + at: str(10 + at) for at in range(26)}
_ACCOUNT_PIECE: Final = re.compile(r"([0-9]+)(!?)([nac])", re.ASCII)
_ACCOUNT_CHARACTERS: Final = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
_IBAN_LABEL: Final = re.compile(
    r"(?:IBAN|International Bank Account Number)\s*:?\s*(?=[A-Z]{2}\s?[0-9])", re.IGNORECASE
)
_CARD: Final = re.compile(r"[0-9]{12,19}", re.ASCII)
_FORM_BLANK: Final = re.compile(r"(?<=[0-9A-Za-z])\+(?=[0-9A-Za-z])", re.ASCII)
"""A blank in a form that was sent, `application/x-www-form-urlencoded`."""
# ISO/IEC 7812 as the networks publish their ranges: American Express, Diners Club, JCB, Visa, Mastercard, Maestro, Discover,
# UnionPay, Mir.
_ISSUED_PATTERN: Final = (
    r"3[47][0-9]{13}|3(?:0[0-5]|095|[689][0-9])[0-9]{11,16}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|(?:50|5[678]|6[0-9])[0-9]{10,17}|62[0-9]{14,17}|220[0-4][0-9]{12,15}"
)
_ISSUED: Final = re.compile(_ISSUED_PATTERN, re.ASCII)
_CARD_DIGITS_MAX: Final = 19

_TOO_LONG: Final = Refused("it is too long")
_NOT_IBAN: Final = Refused("it is not country, check digits and account of an IBAN")
_IBAN_CHECK: Final = Refused("the check digits of the IBAN are wrong (ISO 7064 MOD 97-10)")
_IBAN_COUNTRY: Final = Refused("the country has no IBANs, or none of this form")
_NOT_CARD: Final = Refused("it doesn't have the 12 to 19 digits of a card")
_CARD_CHECK: Final = Refused("the check digit of the card is wrong (Luhn)")


def iban(values: pa.StringArray) -> CanonicalColumn:
    """IBANs in electronic form (ISO 13616-1 §6): capitals, no separators; check digits and the country's form must be right."""
    return canonicalise(values, read_iban)


def card(values: pa.StringArray) -> CanonicalColumn:
    """Numbers of payment cards (ISO/IEC 7812-1) as digits; the check digit must be right."""
    return canonicalise(values, read_card, _plain_card)


def read_iban(text: str) -> Canonical | Refused:
    """The rule of `iban` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain_number(text)
    bare = _IBAN_LABEL.sub("", value, count=1) if value[:1] in "Ii" else value
    if bare != value:
        changes |= Change.LABEL
    joined = _FORM_BLANK.sub("", bare.translate(_SEPARATORS))
    if joined != bare:
        changes |= Change.SEPARATORS
    upper = joined.upper()
    if upper != joined:
        changes |= Change.CASE
    if not _IBAN.fullmatch(upper):
        return _NOT_IBAN
    if int((upper[4:] + upper[:4]).translate(_LETTER_NUMBERS)) % 97 != 1:
        return _IBAN_CHECK
    form = _account_form(upper[:2])
    if form is None or not form.fullmatch(upper, 4):
        return _IBAN_COUNTRY
    return Canonical(upper, changes)


def read_card(text: str) -> Canonical | Refused:
    """The rule of `card` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain_number(text)
    digits = _FORM_BLANK.sub("", value.translate(_SEPARATORS))
    if digits != value:
        changes |= Change.SEPARATORS
    if not _CARD.fullmatch(digits):
        return _NOT_CARD
    if not _luhn(digits):
        return _CARD_CHECK
    return Canonical(digits, changes, 1.0 if _ISSUED.fullmatch(digits) else UNKNOWN_ISSUER_CONFIDENCE)


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    backwards = digits.encode()[::-1]
    # Both halves count b"0" as 48.
    return (sum(backwards[::2]) + sum(backwards[1::2].translate(_DOUBLED)) - 48 * len(backwards)) % 10 == 0


@functools.lru_cache(maxsize=1024)
def _account_form(country: str) -> re.Pattern[str] | None:
    """What stands behind the check digits in a country, by the registry that SWIFT keeps for ISO 13616; None: it has no IBANs."""
    info = numdb.get("iban").info(country)[0][1]
    if "bban" not in info:
        return None
    pieces = _ACCOUNT_PIECE.findall(info["bban"])
    return re.compile(
        "".join(f"{_ACCOUNT_CHARACTERS[kind]}{{{'' if fixed else '1,'}{count}}}" for count, fixed, kind in pieces),
        re.ASCII,
    )


def show_grouped(canonical: str) -> str:
    """In groups of four, as IBANs (ISO 13616-1 §6) and most cards are printed."""
    return " ".join(canonical[at : at + GROUP_DIGITS] for at in range(0, len(canonical), GROUP_DIGITS))


def _plain_card(values: pl.Series) -> Sure:
    """Digits, and digits with blanks or hyphens between them."""
    digits = values.str.replace_all("[ -]", "")
    decided = values.str.contains("^[0-9][0-9 -]*[0-9]$") & digits.str.contains("^[0-9]{12,19}$")
    decided &= pl.Series(_luhn_of_all(digits.set(~decided, "0")))
    issued = digits.str.contains(f"^(?:{_ISSUED_PATTERN})$").to_numpy()
    confidence = np.where(issued, np.float32(1.0), np.float32(UNKNOWN_ISSUER_CONFIDENCE))
    return Sure.of(values, decided, digits, Change.SEPARATORS, confidence)


def _luhn_of_all(digits: pl.Series) -> npt.NDArray[np.bool_]:
    padded = digits.str.zfill(_CARD_DIGITS_MAX).to_numpy().astype(f"S{_CARD_DIGITS_MAX}")
    each = padded.view(np.uint8).reshape(len(digits), _CARD_DIGITS_MAX) - ord("0")
    doubled = each[:, -2::-2].astype(np.int32) * 2
    total = each[:, -1::-2].sum(axis=1, dtype=np.int32) + (doubled - 9 * (doubled > 9)).sum(axis=1, dtype=np.int32)
    valid: npt.NDArray[np.bool_] = total % 10 == 0
    return valid
