"""User agents of HTTP."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.characters import controlled
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Refused, canonicalise

USER_AGENT_CHARACTERS_MAX: Final = 8_192
UNLIKELY_CONFIDENCE: Final = 0.5
"""Of a text that doesn't begin with a product."""

_BLANKS: Final = re.compile(r"\s+")
_PRODUCT: Final = re.compile(r"[A-Za-z][!#$%&'*+.^_`|~0-9A-Za-z-]*(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]+|$|(?= [(A-Za-z]))")

_TOO_LONG: Final = Refused("it is longer than a user agent may be")
_CONTROL: Final = Refused("a control character is in it")
_EMPTY: Final = Refused("it is empty")


def user_agent(values: pa.StringArray) -> CanonicalColumn:
    """User agents (RFC 9110 §10.1.5) in NFC with single blanks; case means something in products and comments, and is kept."""
    return canonicalise(values, read_user_agent)


def read_user_agent(text: str) -> Canonical | Refused:
    """The rule of `user_agent` for one value."""
    if len(text) > USER_AGENT_CHARACTERS_MAX:
        return _TOO_LONG
    value = text.strip()
    changes = Change.NONE if value == text else Change.TRIMMED
    if not value:
        return _EMPTY
    single = _BLANKS.sub(" ", value)
    if single != value:
        changes |= Change.SEPARATORS
    if controlled(single):
        return _CONTROL
    normal = single if single.isascii() else unicodedata.normalize("NFC", single)
    if normal != single:
        changes |= Change.CHARACTERS
    return Canonical(normal, changes, 1.0 if _PRODUCT.match(normal) else UNLIKELY_CONFIDENCE)
