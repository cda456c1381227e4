"""What watches the database for operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from heimdall_server.domain.database_health import IndexReport, SlowStatement


class DatabaseHealth(Protocol):
    """The database as its operator sees it. Reading it changes nothing."""

    @property
    def slow_threshold_s(self) -> float:
        """Statements that take longer are slow; 0: none is."""
        ...

    async def indexes(self) -> IndexReport:
        """What is wrong with indexes, the worst first.

        Raises:
            StoreError: The database can't be reached, or is too slow.
        """
        ...

    def slow_statements(self, *, since_ns: int = 0, count_max: int = 100) -> Sequence[SlowStatement]:
        """Statements that took too long, the newest first.

        Args:
            since_ns: Those that ended at or after it.
            count_max: At most so many. No more are kept than `slow_statement_count` of the configuration, in memory.
        """
        ...
