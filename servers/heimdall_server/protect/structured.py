"""What the columns of structured data hold, by their names and by their content: fields of dumps and tables, attributes.

A checksum that one value in ten has by chance says little of one value, and nearly all of a column: so numbers count
here that a text's rules would leave without a label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.checks import plausible_card
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.national_ids import valid_number

SAMPLE_VALUES: Final = 500
SHARE_MIN: Final = 0.8
"""Of the sampled distinct values, from which content alone decides."""
VALUES_MIN: Final = 5
"""Fewer distinct values say nothing by their content."""
_SEPARATORS: Final = re.compile("[ -]")


@dataclass(frozen=True, slots=True)
class ColumnClass:
    """What a column holds."""

    data_class: str
    share: float
    """Of the sampled values, those that are valid as values of the class; 0 to 1."""
    by_name: bool
    """Whether the column's name said so; the share may then be anything."""


def classify_column(name: str, values: pa.StringArray) -> ColumnClass | None:
    """Say what a column holds.

    Args:
        name: Of the column; may be empty.
        values: Its values; nulls and blanks don't count. The first `SAMPLE_VALUES` distinct ones are looked at.

    Returns:
        None: nothing personal, as far as name and content tell.

    Cost: up to some ms for each column, whatever its length beyond finding the distinct values.
    """
    distinct = pc.unique(values.drop_null())[:SAMPLE_VALUES]
    sample = [text for value in distinct.to_pylist() if (text := value.strip())]
    shares = _shares(sample)
    named = class_of_name(name)
    if named:
        return ColumnClass(named, shares.get(named, 0.0), by_name=True)
    best = max(shares, key=lambda data_class: shares[data_class], default="")
    if not best or len(sample) < VALUES_MIN or shares[best] < SHARE_MIN:
        return None
    return ColumnClass(best, shares[best], by_name=False)


def _shares(sample: list[str]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for text in sample:
        for data_class in _classes(text):
            counts[data_class] = counts.get(data_class, 0) + 1
    return {data_class: count / len(sample) for data_class, count in counts.items()}


def _classes(text: str) -> set[str]:
    """Classes of which a whole text is a value."""
    found = {rule.data_class for rule in RULES if rule.substitute_text(text, "\ue005") == "\ue005"}
    if not found:
        if plausible_card(_SEPARATORS.sub("", text)):
            found.add("card")
        elif valid_number(text):
            found.add("national_id")
    return found
