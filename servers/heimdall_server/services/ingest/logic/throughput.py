"""How fast the pipeline has been of late: what a wait is estimated by."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.3
_TELLING_BYTES: Final = 1024 * 1024
"""Smaller groups say nothing about what the pipeline can do: their fixed costs dominate."""
_FIRST_BYTES_PER_S: Final = 32 * 1024 * 1024.0
"""Taken for true until a group was large enough to tell, so that a start under load doesn't fill the memory first."""


class Throughput:
    """Bytes per second from queue to journal, smoothed over the last groups that were large enough to tell."""

    def __init__(self) -> None:
        self._bytes_per_s = _FIRST_BYTES_PER_S
        self._told = False
        self._last_end_s = float("-inf")

    def note(self, size_bytes: int, *, taken_s: float, end_s: float) -> None:
        """A group became durable.

        Args:
            size_bytes: Its payload.
            taken_s: When it left the queue, on a monotonic clock.
            end_s: When it was durable.
        """
        # While groups follow one another, decoding overlaps with writing: what counts is the time between two ends.
        elapsed_s = max(end_s - max(taken_s, self._last_end_s), 1e-3)
        self._last_end_s = end_s
        if size_bytes < _TELLING_BYTES:
            return
        rate = size_bytes / elapsed_s
        self._bytes_per_s = (1 - _WEIGHT) * self._bytes_per_s + _WEIGHT * rate if self._told else rate
        self._told = True

    def wait_s(self, size_bytes: int) -> float:
        """How long so many bytes take."""
        return size_bytes / self._bytes_per_s
