"""The client's methods that ask about records and follow what comes in."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client import translate
from heimdall_client.append_driver import OnRetry
from heimdall_client.connection import Connection
from heimdall_client.encodings import Encoding, Order, to_encoding, to_order
from heimdall_client.search import AsyncSearch, OnProgress
from heimdall_client.translate import Question, TimeLike
from heimdall_client.watch_state import WatchEvent
from heimdall_client.watches import AsyncWatches

PAGE_SIZE: Final = 1000
ANALYZE_TIMEOUT_S: Final = 120.0
"""For `explain(analyze=True)`, which runs the query."""


class QueryCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    def search(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        order: Order = "newest",
        limit: int = 0,
        timeout_s: float | None = None,
        consistent: bool = False,
        at_least: position_pb2.Position | None = None,
        resume_token: bytes = b"",
        encoding: Encoding = "arrow",
        on_progress: OnProgress | None = None,
    ) -> AsyncSearch:
        """Ask for rows.

        Args:
            question: Query language (`service:api AND timeout | stats count() by host`), `sql("SELECT …")`, or a tree.
            since: First record time, inclusive: `1h`, RFC 3339, an aware datetime, a timedelta ago.
            until: Last record time, exclusive.
            datasets: Only these; none: all that the caller may see.
            order: Of plain rows.
            limit: At most so many rows; 0: the server's limit.
            timeout_s: Time for the query; None: the server's limit, which also caps it.
            consistent: Wait until what is acknowledged now is visible.
            at_least: Wait until this position is visible, as `IngestSummary.position`.
            resume_token: Go on with an earlier search. It holds for the same arguments, so give absolute times.
            encoding: How rows travel; `arrow` is the cheaper one.
            on_progress: Told about every second while it runs, from the event loop.

        Returns:
            The answer, which runs when it is first read.
        """
        request = query_service_pb2.SearchRequest(
            question=translate.to_question(question),
            time_range=translate.to_time_range(since, until),
            datasets=datasets,
            order=to_order(order),
            row_encoding=to_encoding(encoding),
            row_limit=limit,
            timeout_duration=None if timeout_s is None else translate.to_duration(timeout_s),
            consistent=consistent,
            at_least=at_least,
            resume_token=resume_token,
        )
        return AsyncSearch(self._query, request, address=self._address, on_progress=on_progress)

    async def explain(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        order: Order = "newest",
        limit: int = 0,
        analyze: bool = False,
    ) -> query_service_pb2.ExplainResponse:
        """How a query would be answered: tier, path, cost, freshness.

        Args:
            question: As in `search`, as are the others.
            since: First record time.
            until: Last record time, exclusive.
            datasets: Only these.
            order: Of plain rows.
            limit: At most so many rows.
            analyze: Run it, and report what it used.
        """
        request = query_service_pb2.ExplainRequest(
            question=translate.to_question(question),
            time_range=translate.to_time_range(since, until),
            datasets=datasets,
            order=to_order(order),
            row_limit=limit,
            analyze=analyze,
        )
        timeout_s = max(self._timeout_s, ANALYZE_TIMEOUT_S) if analyze else None
        return await self._unary(self._query.Explain, request, timeout_s=timeout_s)

    async def fields(
        self,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 2000,
    ) -> list[query_service_pb2.Field]:
        """Fields that records carry, most covered first, from a sample of the newest ones."""
        answer = await self.list_fields(since=since, until=until, datasets=datasets, limit=limit)
        return list(answer.fields)

    async def list_fields(
        self,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 2000,
    ) -> query_service_pb2.ListFieldsResponse:
        """As `fields`, with `sampled_count`: how many of the newest records were looked at."""
        found: list[query_service_pb2.Field] = []
        sampled_count = 0
        token = ""
        while True:
            request = query_service_pb2.ListFieldsRequest(
                time_range=translate.to_time_range(since, until),
                datasets=datasets,
                page_size=min(PAGE_SIZE, max(1, limit - len(found))),
                page_token=token,
            )
            page = await self._unary(self._query.ListFields, request)
            found += page.fields
            sampled_count = max(sampled_count, page.sampled_count)
            token = page.next_page_token
            if not token or len(found) >= limit:
                return query_service_pb2.ListFieldsResponse(fields=found[:limit], sampled_count=sampled_count)

    async def field_values(
        self,
        field: str,
        *,
        question: Question | None = None,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 20,
    ) -> query_service_pb2.ListFieldValuesResponse:
        """A field's most frequent values, among the records that match `question`.

        Args:
            field: As a query names it.
            question: None: all records.
            since: First record time.
            until: Last record time, exclusive.
            datasets: Only these.
            limit: At most so many values, up to 1,000.
        """
        request = query_service_pb2.ListFieldValuesRequest(
            field=field,
            question=None if question is None else translate.to_question(question),
            time_range=translate.to_time_range(since, until),
            datasets=datasets,
            page_size=limit,
        )
        return await self._unary(self._query.ListFieldValues, request)

    def watches(self, *, give_up_after_s: float = math.inf, on_retry: OnRetry | None = None) -> AsyncWatches:
        """Several live queries on one stream.

        Args:
            give_up_after_s: Without a server for so long, `GaveUpError` ends the iteration.
            on_retry: Told of each break: why, and in how many seconds the next try is.

        Returns:
            A context manager to add watches to and to iterate.
        """
        return AsyncWatches(self._query, address=self._address, give_up_after_s=give_up_after_s, on_retry=on_retry)

    async def watch(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        last: int | None = None,
        resume_token: bytes = b"",
        every_s: float | None = None,
        datasets: Sequence[str] = (),
        encoding: Encoding = "arrow",
        give_up_after_s: float = math.inf,
        on_retry: OnRetry | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Follow one query live: history first where wanted, then what comes in.

        Args:
            question: As in `AsyncWatches.add`, as are the others up to `encoding`.
            since: History from this record time on.
            last: The last so many matching records first.
            resume_token: Go on from a `through`.
            every_s: How often aggregates are sent.
            datasets: Only these.
            encoding: How rows travel.
            give_up_after_s: As in `watches`.
            on_retry: As in `watches`.

        Yields:
            `Created`, then `Rows` or `AggregateRow`s, and `Progress`.

        Raises:
            RpcError: The question isn't one, or the watch was refused otherwise.

        Example:
            >>> async def main():
            ...     async with heimdall_client.connect_async() as client:
            ...         async for event in client.watch("severity:>=ERROR", last=10):
            ...             if isinstance(event, Rows):
            ...                 print([row["body"] for row in event.rows])
        """
        watches = AsyncWatches(
            self._query,
            address=self._address,
            give_up_after_s=give_up_after_s,
            on_retry=on_retry,
            raise_cancelled=True,
        )
        async with watches:
            await watches.add(
                question,
                since=since,
                last=last,
                resume_token=resume_token,
                every_s=every_s,
                datasets=datasets,
                encoding=encoding,
            )
            async for event in watches:
                yield event
