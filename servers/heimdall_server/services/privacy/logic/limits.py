"""How much one caller may ask for: personal values are revealed, and guessed at, at a bounded rate."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Final

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.ports.clock import Clock

CALLERS_MAX: Final = 10_000
"""Callers whose buckets are kept; of more, the one that was quiet longest is forgotten, which has a full bucket by then or soon."""
REVEAL_COUNT_MAX: Final = 1_000
"""Tokens of one request, as the contract says."""
_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class PrivacyLimits:
    """Limits of the privacy service. `[privacy_limits]` in the configuration."""

    values_per_minute: int = 1_000
    """Values that a caller may have revealed, erased or exported, on average."""
    values_burst: int = 2_000
    """Values at once, after a quiet time. At least 1,000: one full request of `Reveal`."""
    vault_wait_s: float = 2.0
    """Longest time that `Reveal` waits for the vault to catch up with the journal, in seconds."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: With all problems.
        """
        problems = [
            f"privacy_limits.{one.name}: must be more than 0" for one in fields(self) if getattr(self, one.name) <= 0
        ]
        if self.values_burst < REVEAL_COUNT_MAX:
            problems.append(f"privacy_limits.values_burst: must be at least {REVEAL_COUNT_MAX}, the size of a request")
        if problems:
            raise ConfigurationError(tuple(problems))


class CallerRates:
    """A token bucket for each caller. For one event loop."""

    def __init__(self, limits: PrivacyLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, count: int) -> None:
        """Count values against a caller.

        Args:
            caller: Whose.
            count: How many; all of them or none are taken.

        Raises:
            BudgetExceededError: The caller's rate is used up; says when it is enough.
        """
        burst, rate = self._limits.values_burst, self._limits.values_per_minute
        now_s = self._clock.monotonic_s()
        level, at_s = self._buckets.get(caller, (float(burst), now_s))
        level = min(float(burst), level + (now_s - at_s) * rate / _MINUTE_S)
        if count > level:
            wait_s = round((count - level) * _MINUTE_S / rate, 1) + 0.1
            raise BudgetExceededError(wait_s, f"values of {caller} per minute", rate)
        self._buckets[caller] = (level - count, now_s)
        self._buckets.move_to_end(caller)
        while len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
