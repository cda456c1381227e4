"""Search: a snapshot of the stores, row by row, that can go on after a break.

Rows come in pages: a page ends at the request's row limit or at the server's. A token from within a page goes on to the
same page's end; the one that comes behind a page begins the next. The query's own `limit` holds over all pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import InvalidArgumentError, QueryCostError, QueryTimeoutError, TokenError
from heimdall_server.planner.cost import FIXED_S, estimate_cost_s, real_cost_s
from heimdall_server.planner.planner import choose_path
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal, Positions
from heimdall_server.ports.log_store import Limits, LogStore, Path, Result, RowKey, Statistics, StoreQuery
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.iterators import with_heartbeat
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.services.query.logic.prepared_search import TIME_S_MIN, PreparedSearch
from heimdall_server.services.query.logic.question import (
    bound_to,
    check_datasets,
    check_time_range,
    understand,
    worked_out,
)
from heimdall_server.services.query.logic.sets import SetFinder, sets_of
from heimdall_server.services.query.logic.sharing import Answered, Sharing, shared
from heimdall_server.services.query.logic.tokens import Place, TokenCodec
from heimdall_server.services.query.model import (
    Answer,
    Done,
    Explained,
    Header,
    Missing,
    Progress,
    Rows,
    SearchIn,
    TokenAfter,
    Understood,
)

PROGRESS_S: Final = 1.0
"""A sign of life is sent when nothing else was for so long."""
_WHAT: Final = {"result_rows": "row_limit", "time_s": "time", "memory_bytes": "memory", "scan_rows": "scan_rows"}
"""Limits as `Missing` names them."""


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
        personal: PersonalSearch | None = None,
        sets: SetFinder | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._sets = sets
        self._visibility = visibility
        self._admission = admission
        self._sharing = Sharing()
        self._tokens = tokens
        self._clock = clock
        self._limits = limits
        self._datasets = datasets
        self._personal = personal
        self._terms = None if personal is None else personal.terms

    async def search(self, caller: str, request: SearchIn) -> AsyncGenerator[Answer, None]:
        """Run a query.

        Raises:
            QuerySyntaxError, InvalidArgumentError, TokenError: The request must change.
            PermissionDeniedError: It names a personal value, and the caller may not search for any.
            QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: See the port.
        """
        started_s = time.monotonic()
        search = await self._allowed(request, started_s)
        async with aclosing(self._run(caller, search, started_s)) as answers:
            async for answer in answers:
                yield answer

    async def _run(self, caller: str, search: PreparedSearch, started_s: float) -> AsyncGenerator[Answer, None]:
        try:
            await self._wait_visible(search)
            async with (
                self._admitted(caller, search) as result,
                aclosing(self._answer(search, result, started_s)) as answers,
            ):
                async for answer in answers:
                    yield answer
        except QueryTimeoutError as error:
            # What was left for the store isn't the limit that the caller knows.
            raise QueryTimeoutError(search.limits.time_s) from error

    async def explain(self, caller: str, request: SearchIn, *, analyze: bool) -> Explained:
        """Say how a query would be answered, and with `analyze` what it used.

        Raises:
            QuerySyntaxError, InvalidArgumentError: The request must change.
            PermissionDeniedError, QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: As `search`.
        """
        search = await self._allowed(request, time.monotonic())
        async with self._admission.admit(caller, cost_s=FIXED_S):
            plan = search.told(await self._store.explain(self._store_query(search)))
        actual = None
        if analyze:
            started_s = time.monotonic()
            search = replace(search, deadline_s=started_s + search.limits.time_s)
            async with aclosing(self._run(caller, search, started_s)) as answers:
                async for answer in answers:
                    if isinstance(answer, Done):
                        actual = answer.statistics
                        plan = replace(plan, path=answer.plan.path, reason=answer.plan.reason)
        return Explained(
            search.understood, plan, actual, self._visibility.visible_through, self._visibility.lag_s, search.sets
        )

    @asynccontextmanager
    async def _admitted(self, caller: str, search: PreparedSearch) -> AsyncIterator[Result]:
        """The query's result, once it is its turn; what took more memory than a short query may is run as a scan."""
        query = self._store_query(search)
        rows = self._store.rows_between(query.time_range, query.datasets)
        path = query.path or Path.SCAN
        shape = f"{search.understood.canonical_text}\n{query.order} {path} {rows.bit_length()} {search.page_rows.bit_length()}"
        estimated_s = estimate_cost_s(query, path, rows)
        cost_s = self._admission.cost_s(shape, estimated_s)
        async with AsyncExitStack() as stack:
            try:
                started_s, result = await self._started(stack, caller, search, cost_s)
            except QueryCostError:
                if self._admission.is_scan(cost_s):
                    raise
                await stack.aclose()
                scan_cost_s = self._admission.scan_cost_s(estimated_s)
                started_s, result = await self._started(stack, caller, search, scan_cost_s)
            try:
                yield result
            except QueryTimeoutError:
                self._admission.learn(shape, time.monotonic() - started_s)
                raise
            rows_read = result.statistics.rows_read
            if rows_read and result.plan.path is path and not isinstance(result, Answered):
                # What was read so far says little of the whole, so that is learned from answers that came to their end.
                elapsed_s = time.monotonic() - started_s
                self._admission.learn(shape, real_cost_s(query, path, elapsed_s=elapsed_s, rows_read=rows_read))

    async def _started(
        self, stack: AsyncExitStack, caller: str, search: PreparedSearch, cost_s: float
    ) -> tuple[float, Result]:
        """Wait for its turn and start it: when that was, and the result, which may be an equal search's."""
        key = search.shared_key
        while True:
            with self._sharing.waiting(key) as waiter:
                admitted = self._admission.admit(
                    caller,
                    cost_s=cost_s,
                    memory_bytes=search.limits.memory_bytes,
                    timeout_s=search.left_s,
                    unless=waiter.begun,
                )
                grant = await stack.enter_async_context(admitted)
            if not grant.is_void:
                break
            try:
                answer = await waiter.answer(search.left_s)
            except TimeoutError:
                raise QueryTimeoutError(search.limits.time_s) from None
            if answer is not None:
                return time.monotonic(), answer
            await stack.aclose()
        started_s = time.monotonic()
        followers = await stack.enter_async_context(self._sharing.leading(key))
        query = self._store_query(self._revised(search))
        granted = replace(
            query.limits,
            memory_bytes=grant.memory_bytes,
            threads=min(grant.threads, query.limits.threads),
            background=grant.is_scan,
        )
        result = await stack.enter_async_context(self._store.query(replace(query, limits=granted)))
        return started_s, await stack.enter_async_context(shared(result, followers))

    async def _allowed(self, request: SearchIn, started_s: float) -> PreparedSearch:
        """The search, if the caller may search for the personal values that it names, and for what it asks of the graph."""
        search = await worked_out(request.question, self._terms, lambda: self._prepare(request, started_s))
        if self._personal is not None:
            await self._personal.guard.allow(search.understood.matched)
        try:
            async with asyncio.timeout(search.left_s):
                sets = await sets_of(self._sets, search.understood.query, begun_with=search.place.sets_digest)
        except TimeoutError:
            raise QueryTimeoutError(search.limits.time_s) from None
        return search.asking(sets) if sets.sets else search

    def _prepare(self, request: SearchIn, started_s: float) -> PreparedSearch:
        place, revision = Place(now_ns=self._clock.now_ns()), self._revision
        if request.resume_token:
            place = self._tokens.open(
                request.resume_token, bound_to=lambda place: _bound_to(request, self._understand(request, place))
            )
        understood = self._understand(request, place)
        if request.resume_token and not understood.resumable:
            raise TokenError("the rows of this query have no order to go on by")
        limits = self._limits
        if request.timeout_s is not None:
            if request.timeout_s <= 0:
                raise InvalidArgumentError("timeout_duration", "must be more than 0")
            limits = replace(limits, time_s=min(request.timeout_s, limits.time_s))
        datasets = check_datasets(request.datasets, self._datasets)
        bound = _bound_to(request, understood)
        request = replace(request, time_range=check_time_range(request.time_range))
        vain = "" if self._personal is None else self._personal.told_in_vain(request.question.text)
        return PreparedSearch(
            request, understood, place, bound, datasets, limits, started_s + limits.time_s, revision, vain
        )

    @property
    def _revision(self) -> Sequence[int | str]:
        return () if self._personal is None else self._personal.revision

    def _revised(self, search: PreparedSearch) -> PreparedSearch:
        """The search, with the tokens of index keys that were made while it waited: records that it will see may have them."""
        if self._revision == search.revision or not search.understood.matched:
            return search
        understood = self._understand(search.request, search.place)
        if search.sets.covers(understood.query):
            return replace(search, understood=understood.filled(search.sets.filled))
        return search  # a dump that is named by a personal value: what the graph told of it holds

    def _understand(self, request: SearchIn, place: Place) -> Understood:
        return understand(request.question, now_ns=place.now_ns, terms=self._terms)

    def _store_query(self, search: PreparedSearch) -> StoreQuery:
        left_s = search.deadline_s - time.monotonic()
        if left_s <= 0:
            raise QueryTimeoutError(search.limits.time_s)
        query = StoreQuery(
            query=search.query,
            time_range=search.request.time_range,
            through=search.place.through or self._visible(),
            datasets=search.datasets,
            order=search.request.order,
            after=search.place.after,
            limits=replace(search.limits, time_s=max(left_s, TIME_S_MIN), result_rows=search.page_rows),
        )
        word_index = self._store.word_index(query.datasets)
        return replace(query, path=choose_path(query, self._store.rollups, word_index=word_index).path)

    def _visible(self) -> Positions:
        """What is visible now, of every shard: one that has nothing yet is bounded, too."""
        visible = self._visibility.visible_through
        return {shard: visible.get(shard, 0) for shard in self._journal.head()}

    async def _wait_visible(self, search: PreparedSearch) -> None:
        head = self._journal.head()
        target = dict(search.place.through)
        if search.request.at_least > head.get(0, 0):
            raise InvalidArgumentError("at_least", "lies beyond the end of the journal")
        target[0] = max(target.get(0, 0), search.request.at_least)
        if search.request.consistent:
            target = {shard: max(target.get(shard, 0), last) for shard, last in head.items()}
        left_s = search.deadline_s - time.monotonic()
        if any(target.values()) and not await self._visibility.wait_through(target, left_s):
            raise QueryTimeoutError(search.limits.time_s)

    async def _answer(self, search: PreparedSearch, result: Result, started_s: float) -> AsyncGenerator[Answer, None]:
        place = replace(search.place, through=result.through or search.place.through)
        shown = [index for index, column in enumerate(result.columns) if not column.hidden]
        schema = pa.schema([result.schema.field(index) for index in shown])
        yield Header(schema, search.understood.canonical_text, place.through)
        keys = result.key_indexes if search.understood.resumable else None
        first = True
        async with aclosing(with_heartbeat(result.batches(), lambda: PROGRESS_S)) as batches:
            async for batch in batches:
                if batch is None:
                    yield Progress(_since(started_s, result.statistics))
                    continue
                if first:
                    metrics.FIRST_ROWS_SECONDS.observe(time.monotonic() - started_s)
                    first = False
                yield Rows(batch.select(shown), self._token_after(search, place, batch, keys))
                place = _behind(place, batch, keys, int(batch.num_rows))
        statistics = _since(started_s, result.statistics)
        yield Done(statistics, search.told(result.plan), *self._end(search, place, statistics))

    def _token_after(
        self, search: PreparedSearch, place: Place, batch: pa.RecordBatch, keys: tuple[int, int, int, int] | None
    ) -> TokenAfter:
        if keys is None:
            return lambda _: b""
        return lambda count: self._tokens.seal(_behind(place, batch, keys, count), bound_to=search.bound_to)

    def _end(self, search: PreparedSearch, place: Place, statistics: Statistics) -> tuple[list[Missing], bytes]:
        """What isn't in the answer, and the token of the next page."""
        request = search.request
        cut = statistics.truncated_by
        missing = []
        if cut:
            metrics.CUT.labels(cut).inc()
            what = _WHAT.get(cut, cut)
            further = "go on with the token" if search.understood.resumable else "narrow the query"
            missing.append(Missing(what, f"the limit on {what} of one answer cut the rows; {further}"))
        if not search.understood.resumable or search.own_rows == place.returned - search.place.returned:
            return missing, b""
        is_full = bool(request.row_limit) and place.returned - search.place.returned >= search.page_rows
        if not cut and not is_full:
            return missing, b""
        return missing, self._tokens.seal(replace(place, page_start=place.returned), bound_to=search.bound_to)


def _bound_to(request: SearchIn, understood: Understood) -> bytes:
    return bound_to(
        "",
        request.question,
        understood,
        request.time_range,
        sorted(request.datasets),
        str(request.order),
        request.row_limit,
    )


def _behind(place: Place, batch: pa.RecordBatch, keys: tuple[int, int, int, int] | None, count: int) -> Place:
    """The place behind the first so many rows of a batch."""
    if keys is None or not count:
        return place
    time_ns, shard, position, row = (batch.column(index)[count - 1] for index in keys)
    key = RowKey(int(time_ns.value), int(shard.as_py()), int(position.as_py()), int(row.as_py()))
    return replace(place, after=key, returned=place.returned + count)


def _since(started_s: float, statistics: Statistics) -> Statistics:
    """Statistics whose time is that of the whole search."""
    return replace(statistics, elapsed_s=time.monotonic() - started_s)
