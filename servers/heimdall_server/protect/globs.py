"""Globs of the privacy policy: whether one is well-formed, what it may be read as, and whether one fits everything that another fits."""

from __future__ import annotations

import fnmatch
import itertools
import re
from typing import Final

_SETS: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]")
_STARS: Final = ("", " ")
_ANY: Final = ("@", "0", " ")
"""Characters that a mark for one of them may be meant for in a value."""
SCOPES: Final = ("attributes", "resource")
"""What a field that has a key begins with."""


def glob_flaw(glob: str) -> str:
    """What is wrong with a glob; empty: nothing.

    `fnmatch` takes a bracket that isn't closed for itself, which nobody means who writes one.
    """
    if not glob:
        return "may not be empty; leave it out or use *"
    at = glob.find("[")
    while at >= 0:
        # A bracket that stands first in a set is one of its characters.
        first = at + 1 + glob[at + 1 : at + 2].count("!")
        end = glob.find("]", first + 1)
        if end < 0:
            return f"{glob!r} has a [ without its ]; write [[] for a bracket itself"
        at = glob.find("[", end + 1)
    return ""


def readings(glob: str) -> set[str]:
    """Texts that a glob may be meant for, where it is a value with marks in it: what somebody looks for who has the glob."""
    plain = _SETS.sub(lambda found: "?" if found[1] else found[2][:1], glob)
    ended = re.sub(r"\.\*$", ".com", plain)
    return {
        text.replace("*", star).replace("?", one) for text, star, one in itertools.product((plain, ended), _STARS, _ANY)
    }


def covers(wider: str, narrower: str) -> bool:
    """Whether a glob surely fits everything that another one fits.

    Says no where it would take an automaton to know: then a rule that is never reached isn't told, and no harm is done.
    """
    if wider in ("*", narrower):
        return True
    if not any(mark in narrower for mark in "*?["):
        return fnmatch.fnmatchcase(narrower, wider)
    if any(mark in wider for mark in "?[]") or "[" in narrower:
        return False
    # With stars alone on the one side, the other's marks, read as characters, stand only where a star takes them in.
    return fnmatch.fnmatchcase(narrower, wider)


def covers_field(wider: str, narrower: str) -> bool:
    """The same for globs over fields: one without a scope is for the keys of both scopes, too."""
    if covers(wider, narrower):
        return True
    scope, dot, key = narrower.partition(".")
    return bool(dot) and scope in SCOPES and covers(wider, key)
