"""Which line pattern a text log follows, from its first lines."""

from __future__ import annotations

from typing import Final

import polars as pl

from heimdall_server.decode.patterns import CATALOGUE, CONTINUATION, PLAIN

LINES_LOOKED_AT: Final = 200
_SHARE_MIN: Final = 0.5
"""A pattern that fewer lines follow isn't chosen."""
_SHARE_TIE: Final = 0.1
"""Within this of the best share, the more specific pattern is chosen."""


def choose_pattern(first_bytes: bytes, *, final: bool) -> tuple[str, int]:
    """Find the pattern of the catalogue that fits best.

    Args:
        first_bytes: The source's beginning, without a byte order mark.
        final: There is no more, so that the last line is whole.

    Returns:
        The pattern's name (`plain` if none fits) and the number of lines that were judged by: those that don't look like
        a continuation.
    """
    lines = first_bytes.decode(errors="replace").split("\n")
    if not final:
        lines = lines[:-1]
    sample = pl.Series(lines[:LINES_LOOKED_AT], dtype=pl.String).str.strip_chars_end("\r")
    sample = sample.filter(~sample.str.contains(CONTINUATION))
    if not len(sample):
        return PLAIN, 0
    shares = {
        name: float(sample.str.contains(pattern.start_regex).sum()) / len(sample)
        for name, pattern in CATALOGUE.items()
        if name != PLAIN
    }
    best = max(shares.values())
    if best < _SHARE_MIN:
        return PLAIN, len(sample)
    return next(name for name, share in shares.items() if share >= best - _SHARE_TIE), len(sample)
