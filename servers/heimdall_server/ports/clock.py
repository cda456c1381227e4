"""The only place where time comes from."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall and monotonic time; a test or a simulation brings its own."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        ...
