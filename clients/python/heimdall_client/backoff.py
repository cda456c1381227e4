"""When to try again: what the server asks for, else exponentially with jitter, until there was no progress for too long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from heimdall_client.errors import GaveUpError, RpcError


@dataclass(slots=True)
class Backoff:
    """Delays of one activity that is tried again.

    Example:
        >>> from heimdall_client.backoff import Backoff
        >>> backoff = Backoff(what="the watch", initial_s=0.1, give_up_after_s=60.0)
        >>> 0.0 <= backoff.next_delay_s(ConnectionError("reset")) <= 0.1
        True
    """

    what: str
    """For the sentence of `GaveUpError`."""
    initial_s: float = 0.1
    longest_s: float = 10.0
    give_up_after_s: float = 300.0
    """Without progress for so long, no further try. Infinity: never."""
    clock: Callable[[], float] = time.monotonic
    _tries: int = field(default=0, init=False)
    _failing_since_s: float | None = field(default=None, init=False)

    def progressed(self) -> None:
        """Something went through: start over."""
        self._tries = 0
        self._failing_since_s = None

    def next_delay_s(self, error: Exception) -> float:
        """Say how long to wait before the next try.

        Args:
            error: Why the last one failed. Its `retry_after_s` counts, if it has one.

        Returns:
            Seconds; full jitter under a ceiling that doubles, so that many clients don't come back at once.

        Raises:
            GaveUpError: There was no progress for `give_up_after_s`.
        """
        now_s = self.clock()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        failing_s = now_s - self._failing_since_s
        if failing_s >= self.give_up_after_s:
            raise GaveUpError(self.what, failing_s, error)
        ceiling_s = min(self.longest_s, self.initial_s * 2 ** min(self._tries, 16))
        self._tries += 1
        jitter_s = random.uniform(0.0, ceiling_s)  # noqa: S311 - spreads load, guards nothing
        if isinstance(error, RpcError) and error.retry_after_s is not None:
            return error.retry_after_s + min(jitter_s, error.retry_after_s / 4)
        return jitter_s
