"""How much one caller may ask for: personal values are revealed, and guessed at, at a bounded rate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from heimdall_server.domain.errors import BudgetExceededError, ConfigurationError
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.rates import CallerBuckets
from heimdall_server.services.privacy.logic import metrics

CALLERS_MAX: Final = 10_000
"""Callers whose buckets are kept; of more, the one that was quiet longest is forgotten, which has a full bucket by then or soon."""
REVEAL_COUNT_MAX: Final = 1_000
"""Tokens of one request, as the contract says."""


@dataclass(frozen=True, slots=True)
class PrivacyLimits:
    """Limits of the privacy service. `[privacy_limits]` in the configuration."""

    values_per_minute: int = 1_000
    """Values that a caller may have revealed, erased or exported, on average."""
    values_burst: int = 2_000
    """Values at once, after a quiet time. At least 1,000: one full request of `Reveal`."""
    vault_wait_s: float = 2.0
    """Longest time that `Reveal` waits for the vault to catch up with the journal, in seconds."""
    matches_per_minute: int = 60
    """Personal values that a caller may search for, on average; one that was asked for within the last minute is free."""
    matches_burst: int = 300
    """Personal values at once, after a quiet time; also the most that one question may name. A network is one value."""

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
    """What each caller may still have revealed, erased or exported. For one event loop."""

    def __init__(self, limits: PrivacyLimits, clock: Clock) -> None:
        self._per_minute = limits.values_per_minute
        self._buckets = CallerBuckets(
            clock, per_minute=limits.values_per_minute, burst=limits.values_burst, callers_max=CALLERS_MAX
        )

    def take(self, caller: str, count: int) -> None:
        """Count values against a caller.

        Args:
            caller: Whose.
            count: How many; all of them or none are taken.

        Raises:
            BudgetExceededError: The caller's rate is used up; says when it is enough.
        """
        wait_s = self._buckets.take(caller, count)
        if wait_s:
            metrics.LIMITED.inc()
            raise BudgetExceededError(wait_s, f"values of {caller} per minute", self._per_minute)
