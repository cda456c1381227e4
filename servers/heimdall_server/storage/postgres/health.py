"""PostgreSQL as its operator sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heimdall_server.domain.database_health import IndexReport, SlowStatement
from heimdall_server.storage.postgres.indexes import PostgresIndexes
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.slow_log import SlowLog

_PLANS_READ: Final = 1_000


class PostgresHealth:
    """Implements `ports.database_health.DatabaseHealth`."""

    def __init__(self, pool: PostgresPool) -> None:
        self._indexes = PostgresIndexes(pool)
        self._log: SlowLog = pool.slow_log

    @property
    def slow_threshold_s(self) -> float:
        """See the port."""
        return self._log.threshold_s

    async def indexes(self) -> IndexReport:
        """See the port."""
        return await self._indexes.report(self._log.recent(count_max=_PLANS_READ))

    def slow_statements(self, *, since_ns: int = 0, count_max: int = 100) -> Sequence[SlowStatement]:
        """See the port."""
        return self._log.recent(since_ns=since_ns, count_max=count_max)
