"""Search: a snapshot of the stores, row by row, that can go on after a break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import InvalidArgumentError, QueryTimeoutError, TokenError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Fields, Query, Stage
from heimdall_server.planner.planner import choose_path
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.log_store import Limits, LogStore, RowKey, Statistics, StoreQuery
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.question import check_datasets, check_time_range, understand
from heimdall_server.services.query.logic.tokens import Place, TokenCodec, digest
from heimdall_server.services.query.model import (
    Answer,
    Done,
    Explained,
    Header,
    Missing,
    Progress,
    Rows,
    SearchIn,
    Understood,
)

PROGRESS_S: Final = 1.0
"""A sign of life is sent when nothing else was for so long."""
KEY_COLUMNS: Final = ("time", "shard", "position", "row")
"""Columns that say where a row is; a token is made of them."""


class SearchUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        store: LogStore,
        journal: Journal,
        visibility: Visibility,
        admission: Admission,
        tokens: TokenCodec,
        clock: Clock,
        limits: Limits,
        datasets: Collection[str],
    ) -> None:
        self._store = store
        self._journal = journal
        self._visibility = visibility
        self._admission = admission
        self._tokens = tokens
        self._clock = clock
        self._limits = limits
        self._datasets = datasets

    async def search(self, caller: str, request: SearchIn) -> AsyncGenerator[Answer, None]:
        """Run a query.

        Raises:
            QuerySyntaxError, InvalidArgumentError, TokenError: The request must change.
            QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: See the port.
        """
        started = time.monotonic()
        understood = understand(request.question, now_ns=self._clock.now_ns())
        limits = self._limits_of(request)
        bound_to = self._bound_to(understood, request)
        place = self._tokens.open(request.resume_token, bound_to=bound_to) if request.resume_token else Place()
        if request.resume_token and not understood.plain_rows:
            raise TokenError("rows of an aggregation have no order to go on by")
        await self._wait_visible(request, limits.time_s)
        query, hidden = _with_key(understood.query) if understood.plain_rows else (understood.query, ())
        wanted = self._wanted(request, limits, place)
        store_query = self._store_query(request, query, limits, place, wanted)
        last = place.after
        returned = place.returned
        async with self._admission.admit(caller), self._store.query(store_query) as result:
            through = store_query.through or result.through
            visible = [name for name in result.schema.names if name not in hidden]
            yield Header(pa.schema([result.schema.field(n) for n in visible]), understood.canonical_text, through)
            async with aclosing(_with_heartbeat(result.batches(), PROGRESS_S)) as batches:
                async for batch in batches:
                    if batch is None:
                        yield Progress(result.statistics)
                        continue
                    token = b""
                    if understood.plain_rows and batch.num_rows:
                        last = _key_of(batch)
                        returned += int(batch.num_rows)
                        token = self._tokens.seal(Place(through, last, returned), bound_to=bound_to)
                    yield Rows(batch.select(visible), token)
            statistics = replace(result.statistics, elapsed_s=time.monotonic() - started)
            missing = self._missing(statistics, request)
            token = b""
            if understood.plain_rows and statistics.truncated_by:
                token = self._tokens.seal(Place(through, last, returned), bound_to=bound_to)
            yield Done(statistics, result.plan, missing, token)

    async def explain(self, caller: str, request: SearchIn, *, analyze: bool) -> Explained:
        """Say how a query would be answered, and with `analyze` what it used.

        Raises:
            QuerySyntaxError, InvalidArgumentError: The request must change.
            StoreError: The store failed.
        """
        understood = understand(request.question, now_ns=self._clock.now_ns())
        limits = self._limits_of(request)
        wanted = self._wanted(request, limits, Place())
        query = self._store_query(request, understood.query, limits, Place(), wanted)
        plan = await self._store.explain(query)
        actual = None
        if analyze:
            async for answer in self.search(caller, request):
                if isinstance(answer, Done):
                    actual = answer.statistics
                    plan = replace(plan, path=answer.plan.path, reason=answer.plan.reason)
        return Explained(understood, plan, actual, self._visibility.visible_through, self._visibility.lag_s)

    def _limits_of(self, request: SearchIn) -> Limits:
        if request.timeout_s is None:
            return self._limits
        if request.timeout_s <= 0:
            raise InvalidArgumentError("timeout_duration", "must be more than 0")
        return replace(self._limits, time_s=min(request.timeout_s, self._limits.time_s))

    def _bound_to(self, understood: Understood, request: SearchIn) -> bytes:
        return digest(
            understood.canonical_text, request.time_range, sorted(request.datasets), request.order, request.row_limit
        )

    def _wanted(self, request: SearchIn, limits: Limits, place: Place) -> int:
        asked = min(request.row_limit, limits.result_rows) if request.row_limit else limits.result_rows
        return max(asked - place.returned, 0)

    def _store_query(self, request: SearchIn, query: Query, limits: Limits, place: Place, wanted: int) -> StoreQuery:
        store_query = StoreQuery(
            query=query,
            time_range=check_time_range(request.time_range),
            through=place.through or self._visibility.visible_through,
            datasets=check_datasets(request.datasets, self._datasets),
            order=request.order,
            after=place.after,
            limits=replace(limits, result_rows=wanted),
        )
        return replace(store_query, path=choose_path(store_query, self._store.rollups).path)

    async def _wait_visible(self, request: SearchIn, limit_s: float) -> None:
        target = request.at_least
        if request.consistent:
            target = max(target, self._journal.head().get(0, 0))
        if target > self._journal.head().get(0, 0):
            raise InvalidArgumentError("at_least", "lies beyond the end of the journal")
        if target and not await self._visibility.wait_through({0: target}, limit_s):
            raise QueryTimeoutError(limit_s)

    def _missing(self, statistics: Statistics, request: SearchIn) -> list[Missing]:
        cut = statistics.truncated_by
        if not cut or (cut == "result_rows" and 0 < request.row_limit <= self._limits.result_rows):
            return []
        return [Missing(cut, f"the answer was cut by the limit {cut}; narrow the query or go on with the token")]


def _with_key(query: Query) -> tuple[Query, tuple[str, ...]]:
    """The query with the columns that a token needs, and which of them the caller didn't ask for."""
    stages: list[Stage] = []
    hidden: set[str] = set()
    for stage in query.stages:
        if isinstance(stage, Fields):
            asked = {ref.name for ref in stage.fields if ref.scope is Scope.CORE}
            lacking = [name for name in KEY_COLUMNS if name not in asked]
            hidden = set(lacking)
            stages.append(Fields((*stage.fields, *(FieldRef(Scope.CORE, name) for name in lacking))))
        else:
            stages.append(stage)
    return Query(query.filter, tuple(stages)), tuple(hidden)


def _key_of(batch: pa.RecordBatch) -> RowKey:
    """Where a batch's last row is."""
    time_ns, shard, position, row = (batch.column(name)[-1] for name in KEY_COLUMNS)
    return RowKey(int(time_ns.value), int(shard.as_py()), int(position.as_py()), int(row.as_py()))


async def _with_heartbeat(
    batches: AsyncIterator[pa.RecordBatch], every_s: float
) -> AsyncGenerator[pa.RecordBatch | None, None]:
    """The batches, and None whenever none came for a while."""
    pending: asyncio.Future[pa.RecordBatch] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(batches))
            done, _ = await asyncio.wait([pending], timeout=every_s)
            if not done:
                yield None
                continue
            finished, pending = pending, None
            try:
                batch = finished.result()
            except StopAsyncIteration:
                return
            yield batch
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait([pending])
