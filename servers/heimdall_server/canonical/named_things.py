"""Things that are known by a name rather than by a form: malware, threat actors, techniques, whatever else other programs tell of.

Their types are those of STIX 2.1 (§4, §6) that are no values of our catalogue, and those that vendors add (`x-mitre-tactic`). A name is
one line of NFC without blanks at its ends; upper and lower case differ, as they do in what tells of them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from heimdall_server.canonical.column import Canonical, Change, Refused

NAMED_TYPES: Final = frozenset(
    {
        "artifact",
        "attack-pattern",
        "campaign",
        "course-of-action",
        "email-message",
        "file",
        "grouping",
        "identity",
        "incident",
        "indicator",
        "infrastructure",
        "intrusion-set",
        "location",
        "malware",
        "malware-analysis",
        "misp-event",
        "mutex",
        "network-traffic",
        "note",
        "opinion",
        "process",
        "report",
        "software",
        "threat-actor",
        "tool",
        "user-account",
        "vulnerability",
        "x509-certificate",
    }
)
NAME_CHARACTERS_MAX: Final = 4096
_CUSTOM: Final = re.compile(r"x-[a-z0-9-]{1,62}")
_BLANKS: Final = re.compile(r"\s+")
_EMPTY: Final = Refused("it has no name")
_TOO_LONG: Final = Refused(f"its name is longer than {NAME_CHARACTERS_MAX} characters")
_UNPRINTABLE: Final = Refused("its name holds characters that can't be printed")


def is_named_type(type_name: str) -> bool:
    """Whether things of a type are known by a name."""
    return type_name in NAMED_TYPES or _CUSTOM.fullmatch(type_name) is not None


def read_name(text: str) -> Canonical | Refused:
    """A name in its canonical form."""
    plain = _BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip()
    if not plain:
        return _EMPTY
    if len(plain) > NAME_CHARACTERS_MAX:
        return _TOO_LONG
    if not plain.isprintable():
        return _UNPRINTABLE
    return Canonical(plain, Change.NONE if plain == text else Change.NOTATION, 1.0)
