"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """`Clock` by the operating system."""

    def now_ns(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()
