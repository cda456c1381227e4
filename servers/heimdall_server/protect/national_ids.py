"""Rules for national identification and personal tax numbers: class `national_id`.

A label says which schemes are tried; without one only those count whose shape and checksum together can't be had by
chance (an order number passes fewer than one time in a thousand).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from stdnum.be import nn as be_nn
from stdnum.br import cpf
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.mx import curp

from heimdall_server.protect.checks import REJECTED, unless_in_number
from heimdall_server.protect.labels import Labels, labelled
from heimdall_server.protect.national_id_schemes import GENERIC, SCHEMES, SPACED
from heimdall_server.protect.rules import SPARSE, START, Check, Rule


def _all_labels() -> Labels:
    parts = [scheme.labels for scheme in SCHEMES] + [GENERIC]
    telling = dict.fromkeys(part.telling for part in parts if part.telling)
    short = dict.fromkeys(part.short for part in parts if part.short)
    stems = dict.fromkeys(stem for part in parts for stem in part.stems)
    return Labels("|".join(telling), "|".join(short), (*stems, *(f"{word}~" for word in SPACED)), "|".join(SPACED))


NATIONAL_ID_LABELS: Final = _all_labels()


def labelled_number(match: re.Match[str]) -> int:
    """A number of a scheme that its label names; words behind it are left."""
    label = match[1].lower()
    schemes = [scheme for scheme in SCHEMES if scheme.labelled_by(label)] or SCHEMES
    text, start = match.string, match.end(1)
    for end in _ends(text, start, match.end()):
        value = text[start:end].upper()
        if any(scheme.fits(value) for scheme in schemes):
            return end
    return REJECTED


def valid_number(value: str) -> bool:
    """Whether a value, however it is called, is a number of some scheme."""
    return any(scheme.fits(value.upper()) for scheme in SCHEMES)


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    """The match's end, then before each separator, backwards."""
    yield end
    while end > start + 1:
        end -= 1
        if text[end] in " ./-":
            yield end


def _standing(valid: Callable[[str], bool]) -> Check:
    """A check that a value is valid and not a piece of something longer."""

    def check(match: re.Match[str]) -> int:
        end = unless_in_number(match)
        return end if end > 0 and valid(match.string[match.end(1) : end].upper()) else REJECTED

    return check


def _shape(name: str, gate: str, pattern: str, valid: Callable[[str], bool]) -> Rule:
    return Rule(name, "national_id", gate, START + pattern + r"\b", check=_standing(valid), group=SPARSE)


NATIONAL_ID_RULES: Final = (
    *labelled(
        "national_id",
        "national_id",
        NATIONAL_ID_LABELS,
        r"[A-Za-z0-9](?:[ ./-]?[A-Za-z0-9]){5,24}(?:\([0-9A]\))?",
        number=r"[0-9]{8,18}\b",
        sign=False,
        check=labelled_number,
    ),
    _shape(
        "italian_id",
        "[A-Z]{6}[0-9]{2}[A-Z]",
        "[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]",
        codicefiscale.is_valid,
    ),
    _shape("mexican_id", "[A-Z]{4}[0-9]{6}[HM]", "[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", curp.is_valid),
    _shape("brazilian_id", r"[0-9]{3}\.[0-9]{3}-[0-9]{2}", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", cpf.is_valid),
    _shape(
        "belgian_id", r"[0-9]-[0-9]{3}\.[0-9]{2}", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", be_nn.is_valid
    ),
    _shape(
        "french_id",
        "[0-9] [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}",
        "[12] [0-9]{2} [0-9]{2} [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}",
        nir.is_valid,
    ),
)
