"""How personal data is named once it is protected: classes, tokens, sealed values, subjects.

A token stands where a value stood: `[email:1k9f3…]`. It is ASCII, and what is behind the colon is one word of the index
(`splitByNonAlpha`): one character for the epoch of the index key, then 128 bits of a keyed MAC over class and canonical
value in lower-case base32 (RFC 4648, without padding). Equal values of a class give equal tokens within an epoch; without the
key nobody can tell a value from its token or make a token for a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

EPOCHS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The character of each epoch of the index key, in order; the 37th epoch takes the first one's again, which must be gone by then."""
MAC_BYTES: Final = 16
BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
"""RFC 4648, in lower case: what MACs and digests are written in."""
WORD_LENGTH: Final = 27
"""Characters of a token's word: epoch and MAC."""
CLASS_PATTERN: Final = r"[a-z][a-z0-9_]{0,31}"
WORD_PATTERN: Final = r"[0-9a-z][a-z2-7]{26}"
TOKEN: Final = re.compile(rf"\[({CLASS_PATTERN}):({WORD_PATTERN})\]", re.ASCII)
"""A token: group 1 the class, group 2 the word."""
LOOKALIKE: Final = rf"\[~*{CLASS_PATTERN}:{WORD_PATTERN}\]"
"""What input may not hold as it is (no groups, no look-around: for polars and `re`): each such text gets one more `~` behind its
bracket before anything is tokenised, so that no sender can make a token, and what was sent can be told from what we made."""

ENCRYPTED: Final = re.compile(rf"\[enc:({CLASS_PATTERN}):([A-Za-z0-9_-]+)\]", re.ASCII)
"""A value that was encrypted where it stands: group 1 the class, group 2 base64url."""
HASHED: Final = re.compile(rf"\[hash:({CLASS_PATTERN}):([0-9a-f]{{32}})\]", re.ASCII)
"""A value's keyed hash: group 1 the class."""


def token(data_class: str, word: str) -> str:
    """The token as it stands in a record."""
    return f"[{data_class}:{word}]"


@dataclass(frozen=True, slots=True)
class TokenName:
    """A token taken apart."""

    data_class: str
    word: str

    @classmethod
    def parse(cls, text: str) -> TokenName | None:
        """Read a token, with or without its brackets; None: it isn't one."""
        found = TOKEN.fullmatch(text if text.startswith("[") else f"[{text}]")
        return cls(found[1], found[2]) if found else None

    @property
    def epoch(self) -> int:
        """Index into `EPOCHS`."""
        return EPOCHS.index(self.word[0])

    def __str__(self) -> str:
        return token(self.data_class, self.word)


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A personal value, readable only with its data key. Nothing in it tells the value but its length (padded)."""

    name: TokenName
    generation: int
    """Of the data key of the class, from 1."""
    sealed: bytes
    """What the keyring's sealer made; class, word and generation are authenticated with it."""


@dataclass(frozen=True, slots=True)
class PersonalValue:
    """A value in plain. Never logged, stored, cached or put into an error: `repr` hides it."""

    data_class: str
    value: str = field(repr=False)
    """Canonical, where it was canonicalised."""
