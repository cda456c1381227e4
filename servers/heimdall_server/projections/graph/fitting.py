"""How many records make a batch: facts of more than fit are made for nothing."""

from __future__ import annotations

from typing import Final

from heimdall_server.domain.graph_batches import ROWS_MAX

_SHARE: Final = 0.7
"""Of what a batch may hold: larger ones are hardly faster and take more memory, and the next records may say more."""
_FIRST_ROWS: Final = 8_192
"""Of the first batch."""


class Fitting:
    """Learns from the last batches how many facts a record has."""

    def __init__(self) -> None:
        self._facts_per_row = 0.0

    @property
    def rows_max(self) -> int:
        """Records whose facts are likely to fit; at least 1."""
        if not self._facts_per_row:
            return _FIRST_ROWS
        return max(1, int(ROWS_MAX * _SHARE / self._facts_per_row))

    def learn(self, row_count: int, fact_count: int) -> None:
        """Take in how it was.

        Args:
            row_count: Records that facts were made of.
            fact_count: Their vertices, or edges, whichever are more.
        """
        if row_count:
            # Sources that say little and others that say much come by turns; it forgets slowly.
            self._facts_per_row = max(fact_count / row_count, self._facts_per_row * 0.9)
