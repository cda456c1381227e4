"""Timestamps of STIX (RFC 3339 with Z, any number of digits behind the second) as nanoseconds since 1970, and back."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

_FORM: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?(?:Z|\+00:00)", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND_DIGITS: Final = 6
NS_MAX: Final = 2**62
"""The year 2116: what is later isn't a time that something was seen at."""


def time_ns(text: Any) -> int | None:  # noqa: ANN401 - as it was sent
    """Read a timestamp; None: it is none, or from before 1970 or far from now."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    try:
        whole = dt.datetime.fromisoformat(f"{found[1]}+00:00") - _EPOCH
    except ValueError:
        return None
    ns = (whole.days * 86_400 + whole.seconds) * 10**9 + int((found[2] or "").ljust(9, "0")[:9] or 0)
    return ns if 0 <= ns < NS_MAX else None


def timestamp(ns: int) -> str:
    """A timestamp, to the microsecond: more digits are STIX, and yet not what its programs read."""
    return (_EPOCH + dt.timedelta(microseconds=ns // 1000)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def shortened(text: str) -> str:
    """A timestamp without the digits behind the microsecond; another text as it is."""
    found = _FORM.fullmatch(text)
    return f"{found[1]}.{found[2][:6]}Z" if found is not None and len(found[2] or "") > _MICROSECOND_DIGITS else text
