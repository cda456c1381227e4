"""What every type does with the characters of a value before its own rule: invisible ones, compatibility forms, defanging."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from heimdall_server.canonical.column import Change

INVISIBLE: Final = frozenset(
    [0x00AD, 0x034F, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
)
"""Code points without a shape: soft hyphen, zero-width spaces and joiners, directions, the byte order mark (UAX 44: Cf)."""
_INVISIBLE_GONE: Final = dict.fromkeys(INVISIBLE)
_DASHES: Final = dict.fromkeys((*range(0x2010, 0x2016), 0x2043, 0x2212), "-")

_DOT: Final = re.compile(r"\s*[\[({]\s*(?:\.|dot)\s*[\])}]\s*|\s+dot\s+|\[\.|\.\]|\\\.", re.IGNORECASE)
_AT: Final = re.compile(r"\s*[\[({]\s*(?:@|at)\s*[\])}]\s*|\s+at\s+", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_COLON: Final = re.compile(r"\[:\]")


def plain(text: str) -> tuple[str, Change]:
    """A value without invisible characters, in NFKC (UAX 15), trimmed. Stable: plain text stays as it is."""
    normal = text
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text.translate(_INVISIBLE_GONE))
    changes = Change.NONE if normal == text else Change.CHARACTERS
    trimmed = normal.strip()
    return trimmed, changes if trimmed == normal else changes | Change.TRIMMED


def plain_number(text: str) -> tuple[str, Change]:
    """As `plain`, with every kind of dash as `-`: for what is written in groups of digits."""
    value, changes = plain(text)
    if value.isascii():
        return value, changes
    dashed = value.translate(_DASHES)
    return dashed, changes if dashed == value else changes | Change.CHARACTERS


def visible(text: str) -> str:
    """A text without invisible characters."""
    return text if text.isascii() else text.translate(_INVISIBLE_GONE)


def controlled(text: str) -> bool:
    """Whether a control character (C0, C1, delete) is in a text."""
    return _CONTROL.search(text) is not None


def refang_dots(text: str) -> tuple[str, Change]:
    r"""Undo `[.]`, `(.)`, `{.}`, `[dot]`, ` dot `, `[.` and `\.`, as analysts write names that nobody shall click."""
    if "." not in text and "dot" not in text.lower():
        return text, Change.NONE
    whole = _DOT.sub(".", text)
    return whole, Change.NONE if whole == text else Change.REFANGED


def refang_colons(text: str) -> tuple[str, Change]:
    """Undo `[:]`."""
    whole = _COLON.sub(":", text)
    return whole, Change.NONE if whole == text else Change.REFANGED


def refang_at(text: str) -> tuple[str, Change]:
    """Undo `(at)`, `[@]`, `{at}` and ` at `, in a text that has no `@` of its own."""
    whole = _AT.sub("@", text)
    return whole, Change.NONE if whole == text else Change.REFANGED
