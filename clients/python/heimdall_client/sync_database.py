"""The blocking client's methods on the server's PostgreSQL; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from heimdall.admin.v1 import database_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.loop_thread import LoopThread
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncDatabaseCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def indexes(self) -> pb.ReportIndexesResponse:
        """What is wrong with PostgreSQL's indexes, and the SQL that mends it."""
        return self._run(self._twin.indexes())

    def slow_statements(self, *, since: TimeLike | None = None, limit: int = 0) -> pb.ListSlowStatementsResponse:
        """The last statements to PostgreSQL that took too long; see `AsyncClient.slow_statements`."""
        return self._run(self._twin.slow_statements(since=since, limit=limit))
