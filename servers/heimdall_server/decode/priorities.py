"""Syslog's PRI (RFC 5424, section 6.2.1) → severity number, severity word and facility."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
_WORDS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_NUMBERS: Final = np.array([24, 19, 18, 17, 13, 10, 9, 5], np.int64)
"""As in the OpenTelemetry logs data model, appendix B; emergency is the last of FATAL."""
PRIORITY_MAX: Final = len(FACILITIES) * 8 - 1


def read_priorities(texts: pl.Series) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Take PRI values apart.

    Args:
        texts: Digits; null or beyond 191: none.

    Returns:
        Severity numbers (int64), severity words and facility names, null where there is none.
    """
    value = texts.cast(pl.Int64, strict=False)
    valid = (value.is_not_null() & (value <= PRIORITY_MAX) & (value >= 0)).fill_null(value=False).to_numpy()
    priority = np.where(valid, value.fill_null(0).to_numpy(), 0)
    absent = ~valid
    level = pa.array(priority & 7, mask=absent)
    facility = pa.array(priority >> 3, mask=absent)
    return (
        pa.array(_NUMBERS[priority & 7], mask=absent),
        pa.array(_WORDS, pa.string()).take(level),
        pa.array(FACILITIES, pa.string()).take(facility),
    )
