"""A breaker: once something couldn't be reached, callers are refused at once, and only now and then one of them tries.

closed  ── a try fails ──►  open  ── its time is over ──►  half open: one caller tries, others are refused
   ▲                          ▲                                │
   └───── a try succeeds ─────┼──────────────── fails ─────────┘   and the time is doubled

A try is a caller's own: nothing runs by itself, and nothing need be stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

_FIRST_WAIT_S: Final = 0.5
_WAIT_S_MAX: Final = 8.0


class Breaker:
    """See the module. For one event loop."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Closed.

        Args:
            clock_s: Seconds of a clock that only goes forward.
        """
        self._clock_s = clock_s
        self._failures = 0
        self._until_s = 0.0
        self._is_tried = False

    @property
    def is_open(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def admit(self) -> bool:
        """Whether this caller may try. Who may says how it went, by `succeeded`, `failed` or `undecided`."""
        if not self._failures:
            return True
        if self._is_tried or self._clock_s() < self._until_s:
            return False
        self._is_tried = True
        return True

    def succeeded(self) -> None:
        """It can be reached."""
        self._failures, self._is_tried = 0, False

    def failed(self) -> None:
        """It can't be reached."""
        wait_s = min(_WAIT_S_MAX, _FIRST_WAIT_S * 2 ** min(self._failures, 16))
        self._failures, self._is_tried = self._failures + 1, False
        self._until_s = self._clock_s() + wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not secrecy

    def undecided(self) -> None:
        """The caller gave up before it knew."""
        self._is_tried = False
