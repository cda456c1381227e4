"""What the columns of structured data hold, by their names and by their content: fields of dumps and tables, attributes.

A checksum that one value in ten has by chance says little of one value, and nearly all of a column: so numbers count
here that a text's rules would leave without a label. Whether a checksum says anything is asked of the column itself: where it
holds as often of values with another last digit, it doesn't.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import phonenumbers
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.checks import plausible_card
from heimdall_server.protect.column_hints import HINTS, folded_name
from heimdall_server.protect.gates import passed_gates
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.national_id_schemes import SCHEMES

SAMPLE_VALUES: Final = 500
SHARE_MIN: Final = 0.8
"""Of the sampled distinct values, from which content alone decides."""
VALUES_MIN: Final = 5
"""Fewer distinct values say nothing by their content, but where the name suggests what all of them look like."""
VALUE_CHARACTERS_MAX: Final = 80
"""What is longer is running text, which the rules read."""
_CONTROL_SHARE_MAX: Final = 0.4
"""A checksum that holds of so many wrong values is none."""
_PHONE_SAMPLE: Final = 60
_PHONE_SHARE_MIN: Final = 0.6
"""Of one country, where nearly all are written as only phone numbers are: numbering plans lag behind."""
_PHONE_REGIONS: Final = (
    "DE",
    "GB",
    "FR",
    "IT",
    "ES",
    "NL",
    "BE",
    "AT",
    "CH",
    "PL",
    "SE",
    "US",
    "BR",
    "IN",
    "JP",
    "AU",
    "ZA",
    "TR",
)
_PLACE: Final = "\ue005"
_SEPARATORS: Final = str.maketrans("", "", " -")
_BUMPED: Final = str.maketrans("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", "1234567890BCDEFGHIJKLMNOPQRSTUVWXYZA")


@dataclass(frozen=True, slots=True)
class ColumnClass:
    """What a column holds."""

    data_class: str
    share: float
    """Of the sampled values, those that are valid as values of the class; 0 to 1."""
    by_name: bool
    """Whether the column's name said so; the share may then be anything."""


def classify_column(name: str, values: pa.StringArray, *, sample_values: int = SAMPLE_VALUES) -> ColumnClass | None:
    """Say what a column holds.

    Args:
        name: Of the column; may be empty.
        values: Its values; nulls and blanks don't count.
        sample_values: So many distinct ones are looked at, the first.

    Returns:
        None: nothing personal, as far as name and content tell.

    Cost: up to some 50 ms of CPU for a column of 500 distinct values, whatever its length beyond finding those.
    """
    distinct = pc.unique(values.drop_null())[:sample_values]
    sample = [text for value in distinct.to_pylist() if (text := value.strip())]
    named = class_of_name(name)
    if named:
        return ColumnClass(named, _shares(sample).get(named, 0.0), by_name=True)
    if not sample or 2 * sum(len(text) > VALUE_CHARACTERS_MAX for text in sample) > len(sample):
        return None
    if len(sample) < VALUES_MIN:
        found = _hinted(name, sample)
        return found if found is not None and found.share == 1 else None
    shares = _shares(sample)
    best = max(shares, key=lambda data_class: shares[data_class], default="")
    if best and shares[best] >= SHARE_MIN:
        return ColumnClass(best, shares[best], by_name=False)
    return _hinted(name, sample) or _local_phones(sample)


def _hinted(name: str, sample: Sequence[str]) -> ColumnClass | None:
    """A class that the name suggests and whose form the values have."""
    folded = folded_name(name)
    for hint in HINTS:
        if hint.names.search(folded):
            share = sum(hint.form.fullmatch(text) is not None for text in sample) / len(sample)
            if share >= SHARE_MIN:
                return ColumnClass(hint.data_class, share, by_name=False)
    return None


def _shares(sample: Sequence[str]) -> dict[str, float]:
    """By class, the share of values that are values of it whatever the column is called."""
    if not sample:
        return {}
    counts = _by_rules(sample)
    counts["card"] = max(counts["card"], sum(plausible_card(text.translate(_SEPARATORS)) for text in sample))
    counts["national_id"] = max(counts["national_id"], _by_scheme(sample))
    return {data_class: count / len(sample) for data_class, count in counts.items() if count}


def _by_rules(sample: Sequence[str]) -> Counter[str]:
    """By class, the values that a rule takes whole."""
    series = pl.Series("", sample, pl.String)
    gates = passed_gates(RULES, series)
    whole: dict[str, set[int]] = {}
    for rule in RULES:
        for row in np.flatnonzero(gates.get(rule.gate, ())).tolist():
            if rule.substitute_text(sample[row], _PLACE) == _PLACE:
                whole.setdefault(rule.data_class, set()).add(row)
    return Counter({data_class: len(rows) for data_class, rows in whole.items()})


def _by_scheme(sample: Sequence[str]) -> int:
    """How many values are national numbers of the one scheme that most are of."""
    best = 0
    texts = [text.upper() for text in sample]
    for scheme in SCHEMES:
        valid = _count(scheme.fits, texts)
        if valid <= best or valid < SHARE_MIN * len(texts):
            continue
        others = _count(scheme.fits, (text[:-1] + text[-1].translate(_BUMPED) for text in texts))
        if others <= _CONTROL_SHARE_MAX * len(texts):
            best = valid
    return best


def _count(holds: Callable[[str], bool], texts: Iterable[str]) -> int:
    return sum(map(holds, texts))


def _local_phones(sample: Sequence[str]) -> ColumnClass | None:
    """Numbers without a country code: nearly all valid in one country, and written as only phone numbers are."""
    some = sample[:_PHONE_SAMPLE]
    if not all(text[0] in "+(0123456789" and any(map(str.isdigit, text)) for text in some):
        return None
    written = sum(text[0] in "+(0" and text[:2] != "00" and not text[1:].isdigit() for text in some)
    if written < SHARE_MIN * len(some):
        return None
    for region in _PHONE_REGIONS:
        share = sum(_is_phone(text, region) for text in some) / len(some)
        if share >= _PHONE_SHARE_MIN:
            return ColumnClass("phone", share, by_name=False)
    return None


def _is_phone(text: str, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False
