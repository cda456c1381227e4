"""Countries by ISO 3166-1."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.characters import plain
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, canonicalise
from heimdall_server.canonical.country_table import COUNTRIES

INPUT_CHARACTERS_MAX: Final = 128
CODE_CONFIDENCE: Final = 0.9
"""Of two or three letters in lower case, which are words of many languages too."""

_NOT_LETTERS: Final = re.compile(r"[^a-z]+")


def _folded(name: str) -> str:
    bare = unicodedata.normalize("NFKD", name.replace("&", " and ")).casefold()
    letters = "".join(character for character in bare if not unicodedata.combining(character))
    return (
        _NOT_LETTERS.sub(" ", letters.replace(".", "").replace("'", "").replace("\u2019", ""))
        .strip()
        .removeprefix("the ")
    )


_BY_CODE: Final = {code: country.alpha2 for country in COUNTRIES for code in (country.alpha2, country.alpha3)}
_BY_NAME: Final = {_folded(name): country.alpha2 for country in COUNTRIES for name in country.names}
_NAMES: Final = {country.alpha2: country.names[0] for country in COUNTRIES}

_TOO_LONG: Final = Refused("it is longer than the name of a country")
_UNKNOWN: Final = Refused("no country of ISO 3166-1 has this code or name")


def country(values: pa.StringArray) -> CanonicalColumn:
    """Countries as alpha-2 codes of ISO 3166-1; alpha-3 codes and English names are read, whatever their case and accents."""
    return canonicalise(values, read_country)


def read_country(text: str) -> Canonical | Refused:
    """The rule of `country` for one value."""
    if len(text) > INPUT_CHARACTERS_MAX:
        return _TOO_LONG
    value, changes = plain(text)
    upper = value.upper()
    code = _BY_CODE.get(upper)
    if code is not None:
        if upper != value:
            changes |= Change.CASE
        if code != upper:
            changes |= Change.NOTATION
        return Canonical(code, changes, 1.0 if upper == value else CODE_CONFIDENCE)
    code = _BY_NAME.get(_folded(value))
    return _UNKNOWN if code is None else Canonical(code, changes | Change.NOTATION)


def show_country(canonical: str) -> str:
    """The English name."""
    return _NAMES.get(canonical, canonical)
