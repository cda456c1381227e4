"""The client's methods on the server's PostgreSQL, for its operator."""

from __future__ import annotations

from heimdall.admin.v1 import database_pb2 as pb
from heimdall_client.connection import Connection
from heimdall_client.translate import TimeLike, to_timestamp


class DatabaseCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def indexes(self) -> pb.ReportIndexesResponse:
        """What is wrong with PostgreSQL's indexes, and the SQL that mends it. Nothing is changed."""
        return await self._unary(self._admin.ReportIndexes, pb.ReportIndexesRequest())

    async def slow_statements(self, *, since: TimeLike | None = None, limit: int = 0) -> pb.ListSlowStatementsResponse:
        """The last statements to PostgreSQL that took too long, the newest first, without values.

        Args:
            since: Those that ended at or after it; None: all that are kept.
            limit: At most so many, up to 500; 0: 50.
        """
        request = pb.ListSlowStatementsRequest(
            since_time_inclusive=None if since is None else to_timestamp(since), count_max=limit
        )
        return await self._unary(self._admin.ListSlowStatements, request)
