"""Warninglists: what nearly everybody meets, so that meeting it says little: private addresses, public resolvers, the digest of the empty file.

An entity on a list is kept and can be asked for; what is said about it is believed less, by the list's confidence. So it comes last where
neighbours are sorted, and a walk doesn't go on through it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
TEXT_CHARACTERS_MAX: Final = 1024
"""Of a title, a description, a source."""
ENTRIES_MAX: Final = 1_048_576
"""Of one list."""
ALL_ENTRIES_MAX: Final = 2_097_152
"""Of all lists together: some 200 MB."""
LISTS_MAX: Final = 256
WALK_CONFIDENCE: Final = 20
"""A walk doesn't go on through what is believed less, unless it is asked to."""


class Match(enum.StrEnum):
    """What an entry of a list means."""

    NETWORK = "network"
    """An address, or a network and all addresses in it."""
    DOMAIN = "domain"
    """A domain name and all names below it."""
    VALUE = "value"
    """This value and no other."""
    PUBLIC_SUFFIX = "public_suffix"
    """Any name below which others register theirs (`co.uk`), by the Public Suffix List; there are no entries."""


TYPES: Final[Mapping[Match, frozenset[str]]] = {
    Match.NETWORK: frozenset({"ipv4", "ipv6"}),
    Match.DOMAIN: frozenset({"domain"}),
    Match.PUBLIC_SUFFIX: frozenset({"domain"}),
    Match.VALUE: frozenset(
        {
            "asn",
            "domain",
            "imphash",
            "ipv4",
            "ipv6",
            "mac",
            "md5",
            "sha1",
            "sha224",
            "sha256",
            "sha384",
            "sha512",
            "ssdeep",
            "tlsh",
            "url",
            "user_agent",
        }
    ),
}
"""Of which types entities may be that a list is about, by how it matches."""


@dataclass(frozen=True, slots=True)
class Warninglist:
    """A list."""

    name: str
    title: str
    description: str
    """What it means that something is on it."""
    source: str
    """Where it comes from: an address, or the document that says so."""
    licence: str
    """SPDX expression, or in words."""
    version: str
    """A date or a number; whatever its source calls it."""
    match: Match
    types: tuple[str, ...]
    """Of the entities that it is about."""
    confidence: int
    """What is said about them is believed this much, 0 to 100."""
    entries: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        texts = (self.title, self.description, self.source, self.licence, self.version)
        checks = {
            f"name: {NAME.pattern}": NAME.fullmatch(self.name) is not None,
            f"texts of at most {TEXT_CHARACTERS_MAX} characters": all(len(one) <= TEXT_CHARACTERS_MAX for one in texts),
            "texts of printable characters": all(one.isprintable() for one in texts),
            "confidence: 0 to 100": 0 <= self.confidence <= 100,
            f"at most {ENTRIES_MAX:,} entries": len(self.entries) <= ENTRIES_MAX,
            f"types: some of {', '.join(sorted(TYPES[self.match]))}": bool(self.types)
            and set(self.types) <= TYPES[self.match],
        }
        for rule, holds in checks.items():
            if not holds:
                raise ValueError(f"a warninglist has {rule}")

    @property
    def stops_walks(self) -> bool:
        """Whether a walk ends at what is on it, unless it is asked to go on."""
        return self.confidence < WALK_CONFIDENCE


_TEXTS: Final = ("name", "title", "description", "source", "licence", "version", "match")


def to_plain(one: Warninglist) -> dict[str, Any]:
    """As it is written to a file."""
    return asdict(one) | {"match": one.match.value, "types": list(one.types), "entries": list(one.entries)}


def from_plain(value: object) -> Warninglist:
    """Read what `to_plain` made.

    Raises:
        ValueError: It is something else.
    """
    expected = set(Warninglist.__dataclass_fields__)
    told = dict(value) if isinstance(value, Mapping) else {}
    if set(told) != expected:
        raise ValueError(f"a warninglist is an object of {', '.join(sorted(expected))}")
    problems = [f"{name} are texts" for name in ("types", "entries") if not _are_texts(told[name])]
    problems += [f"{name} is a text" for name in _TEXTS if not isinstance(told[name], str)]
    if type(told["confidence"]) is not int:
        problems.append("confidence is a whole number")
    if problems:
        raise ValueError(f"of a warninglist {', '.join(problems)}")
    told |= {name: tuple(told[name]) for name in ("types", "entries")}
    return Warninglist(**told | {"match": Match(told["match"])})


def _are_texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
