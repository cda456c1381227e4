"""What one watch costs, against what it may: a bucket that fills with CPU time and runs out with the journal's time.

The journal's own time, because a watch that catches up works on an hour of records in a minute; that is no fault of
its question. What counts is whether the question costs too much for the records there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class CostLimits:
    """What one watch may cost."""

    share_together: float = 0.1
    """Of a core. A watch that costs more is evaluated apart from the others, which it would hold up."""
    together_burst_s: float = 0.25
    """CPU time that may be spent at once before that."""
    share_max: float = 0.5
    """Of a core. A watch that costs more is ended."""
    burst_s: float = 5.0
    """CPU time that may be spent at once before that."""


class Meter:
    """The cost of one question. Belongs to one event loop."""

    def __init__(self, limits: CostLimits) -> None:
        self._limits = limits
        self._time_ns = 0
        self._together_s = 0.0
        self._level_s = 0.0

    def charge(self, cpu_s: float, time_ns: int) -> None:
        """Note what some records cost.

        Args:
            cpu_s: CPU time.
            time_ns: When they were appended; 0: unknown, no time has run.
        """
        elapsed_s = max(0, time_ns - self._time_ns) / _NS if self._time_ns and time_ns else 0.0
        self._time_ns = max(self._time_ns, time_ns)
        limits = self._limits
        self._together_s = max(0.0, self._together_s - elapsed_s * limits.share_together) + cpu_s
        self._level_s = max(0.0, self._level_s - elapsed_s * limits.share_max) + cpu_s

    @property
    def is_dear(self) -> bool:
        """It costs more than others should wait for."""
        return self._together_s > self._limits.together_burst_s

    @property
    def is_over(self) -> bool:
        """It costs more than a watch may."""
        return self._level_s > self._limits.burst_s
