"""Token buckets of callers: how much of something one of them may have, at once and in the long run."""

from __future__ import annotations

from collections import OrderedDict

from heimdall_server.ports.clock import Clock

_MINUTE_S = 60.0


class CallerBuckets:
    """A token bucket for each caller, full at first. For one event loop."""

    def __init__(self, clock: Clock, *, per_minute: int, burst: int, callers_max: int) -> None:
        """Make them.

        Args:
            clock: Tells how long a bucket has filled.
            per_minute: What flows into a bucket, evenly. More than 0.
            burst: What it holds. More than 0.
            callers_max: Callers whose buckets are kept; of more, the one that was quiet longest is forgotten, and is full again.
        """
        self._clock = clock
        self._per_minute = per_minute
        self._burst = burst
        self._callers_max = callers_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, count: int) -> float:
        """Take from a caller's bucket, all or nothing.

        Args:
            caller: Whose.
            count: How much.

        Returns:
            0: it was taken. Else the seconds until so much is there, if it fits in at all; nothing was taken.
        """
        burst, now_s = float(self._burst), self._clock.monotonic_s()
        level, at_s = self._buckets.get(caller, (burst, now_s))
        level = min(burst, level + (now_s - at_s) * self._per_minute / _MINUTE_S)
        if count > level:
            return round((count - level) * _MINUTE_S / self._per_minute, 1) + 0.1
        self._buckets[caller] = (level - count, now_s)
        self._buckets.move_to_end(caller)
        while len(self._buckets) > self._callers_max:
            self._buckets.popitem(last=False)
        return 0.0
