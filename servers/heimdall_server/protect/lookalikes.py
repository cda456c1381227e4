"""Texts in the input that look like our tokens: they get one more `~` behind their bracket, so no sender can make a token.

It is done before any rule runs, in every text, whatever the policy says of its source; what was sent can be told from
what is stored (`restored`). A token's closing bracket and colon stand 28 bytes apart, so a column is searched by two comparisons.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import polars as pl

from heimdall_server.domain.personal import LOOKALIKE, WORD_LENGTH, WORD_PATTERN
from heimdall_server.protect.spans import bytes_of, large

GATE: Final = rf"[a-z0-9_]:{WORD_PATTERN}\]"
"""Matches in every text with a look-alike; for the gate of all rules."""

_OPENING: Final = re.compile(rf"\[(?={LOOKALIKE.removeprefix(chr(92) + '[')})", re.ASCII)
_ESCAPED: Final = re.compile(rf"\[~(?={LOOKALIKE.removeprefix(chr(92) + '[')})", re.ASCII)
_COLON, _BRACKET = b":]"


def escaped_text(text: str) -> str:
    """A text in which nothing looks like a token."""
    return _OPENING.sub("[~", text)


def restored(text: str) -> str:
    """What was sent, from what `escaped_text` made of it."""
    return _ESCAPED.sub("[", text)


def escape(texts: pl.Series) -> pl.Series:
    """The same for a column.

    Args:
        texts: String, without nulls.

    Returns:
        The same column if there is nothing to escape.

    Cost: two comparisons a byte; a regex only for texts that hold a colon and a bracket at a token's distance.
    """
    offsets, data = bytes_of(large(texts))
    distance = WORD_LENGTH + 1
    if len(data) < distance:
        return texts
    ends = np.flatnonzero((data[distance:] == _BRACKET) & (data[: len(data) - distance] == _COLON)) + distance
    if not len(ends):
        return texts
    rows = np.unique(np.searchsorted(offsets, ends, "right") - 1)
    before = texts.gather(rows)
    after = pl.Series("", [escaped_text(text) for text in before], pl.String)
    changed = (after != before).to_numpy()
    return texts.clone().scatter(rows[changed], after.filter(pl.Series(changed))) if changed.any() else texts
