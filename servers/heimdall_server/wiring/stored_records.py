"""The stored records, as deletions, erasures and exports ask for them: all that were acknowledged before, and none left out in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import QuerySyntaxError, StoreBehindError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Aggregate, Expression, Function, Or, Query, Stats, TimeRange, Words
from heimdall_server.domain.personal import TokenName
from heimdall_server.language.format import normalise
from heimdall_server.language.parser import parse
from heimdall_server.language.shapes import shape_text
from heimdall_server.planner.graph_terms import graph_terms
from heimdall_server.planner.personal_terms import PersonalTerms
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.keys import Tokeniser
from heimdall_server.ports.log_store import Limits, LogStore, Order, RowKey, StoreQuery
from heimdall_server.services.privacy.model import DeletionPlan
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.question import check_datasets, check_time_range, with_tokens
from heimdall_server.services.query.translate.json_rows import json_rows

DELETION_FILTER: Final = "deletion_filter"
"""What the ledger's sealed texts are, and the domain of the digests by which they are told apart."""
_COUNT: Final = "record_count"
_VISIBLE_WAIT_S: Final = 10.0
_RETRY_S: Final = 5.0
_BODY: Final = FieldRef(Scope.CORE, "body")
_TOKENS: Final = FieldRef(Scope.CORE, "tokens")


class StoredRecords:
    """See the module."""

    def __init__(
        self,
        *,
        store: LogStore,
        visibility: Visibility,
        head: Callable[[], Positions],
        admission: Admission,
        clock: Clock,
        terms: PersonalTerms,
        tokeniser: Tokeniser,
        datasets: Collection[str],
        limits: Limits,
        visible_wait_s: float = _VISIBLE_WAIT_S,
    ) -> None:
        """Take what it asks.

        Args:
            store: Has the records.
            visibility: How far it is.
            head: How far the journal is.
            admission: Lets one statement in at a time.
            clock: What `-1h` in a filter counts from.
            terms: Put tokens in place of personal values.
            tokeniser: Makes the digests by which filters are told apart.
            datasets: That there are.
            limits: Of one statement; what is more than it may give comes by further ones.
            visible_wait_s: How long the store may take to be as far as the journal was.
        """
        self._store = store
        self._visibility = visibility
        self._head = head
        self._admission = admission
        self._clock = clock
        self._terms = terms
        self._tokeniser = tokeniser
        self._datasets = datasets
        self._limits = limits
        self._visible_wait_s = visible_wait_s

    async def plan(self, query: str, time_range: TimeRange, datasets: Sequence[str]) -> DeletionPlan:
        """See `DeletionPlanner`."""
        parsed = parse(query, now_ns=self._clock.now_ns())
        if parsed.stages:
            raise QuerySyntaxError(query, max(query.find("|"), 0), "a deletion takes a filter without pipes")
        if hidden := self._terms.never_stored(query):
            # The filter is kept for as long as the journal: such a value would come to rest nowhere but in it.
            problem = f"this holds a value of class {hidden[0].data_class}, of which records have none"
            raise QuerySyntaxError("…", 0, problem, "say by other words which records are meant")
        if asked := graph_terms(parsed):
            # What is deleted is kept as it was asked, and applied again by every store: a set that grows would delete more each time.
            problem = f"a deletion can't ask the graph, as {asked[0].name} does: what it tells changes"
            raise QuerySyntaxError(
                query, 0, problem, "search with it, and delete by the values or tokens that are meant"
            )
        # Who may delete may name what he deletes by its value: the operation and the audit log know it by its tokens.
        epochs = list(self._terms.epochs)
        understood = await asyncio.to_thread(with_tokens, Query(parsed.filter), self._terms)
        filter_, text = understood.query.filter, understood.canonical_text
        if not _can_be_kept(filter_, text):
            # It is read again from the journal, and a projection must not stumble over it there.
            raise QuerySyntaxError(query, 0, "this filter can't be kept as text; write it in another way")
        if datasets:
            check_datasets(datasets, self._datasets)
        time_range = check_time_range(time_range)
        parameters: dict[str, object] = {
            "start_time_ns": time_range.start_ns_inclusive,
            "end_time_ns": time_range.end_ns_exclusive,
            "datasets": list(datasets),
        }
        identity = ""
        if understood.binding is not None:
            parameters["epochs"] = epochs
            identity = repr(understood.binding)
        count = await self._count(filter_, time_range, datasets)
        (digest,) = self._tokeniser.digests(DELETION_FILTER, [identity or text])
        return DeletionPlan(text, shape_text(filter_), digest, count, parameters, len(understood.matched))

    async def count(self, names: Sequence[TokenName]) -> int:
        """Records that name one of some tokens."""
        return await self._count(_naming(names), TimeRange(), ()) if names else 0

    async def search(self, names: Sequence[TokenName], time_range: TimeRange) -> AsyncGenerator[Sequence[str], None]:
        """See `RecordSearch`. A statement that reaches a limit is followed by another one, which goes on behind its last record."""
        if not names:
            return
        asked = StoreQuery(
            Query(_naming(names)),
            check_time_range(time_range),
            await self._through(),
            order=Order.OLDEST_FIRST,
            limits=self._limits,
        )
        is_cut = True
        while is_cut:
            async with self._admission.admit_history(), self._store.query(asked) as result:
                async for batch in result.batches():
                    if batch.num_rows:
                        asked = replace(asked, after=_last_key(batch, result.key_indexes))
                        yield (await asyncio.to_thread(json_rows, batch)).to_pylist()
                is_cut = bool(result.statistics.truncated_by)

    async def _count(self, filter_: Expression, time_range: TimeRange, datasets: Sequence[str]) -> int:
        stage = Stats((Aggregate(Function.COUNT, None, _COUNT),))
        asked = StoreQuery(
            Query(filter_, (stage,)), time_range, await self._through(), datasets=datasets, limits=self._limits
        )
        async with self._admission.admit_history(), self._store.query(asked) as result:
            return sum([sum(batch.column(0).to_pylist()) async for batch in result.batches()])

    async def _through(self) -> Positions:
        if not await self._visibility.wait_through(self._head(), self._visible_wait_s):
            raise StoreBehindError(_RETRY_S)
        return self._visibility.visible_through


def _last_key(batch: pa.RecordBatch, places: tuple[int, int, int, int] | None) -> RowKey:
    """The place of a batch's last record."""
    if places is None:
        msg = "rows that aren't records have no place"
        raise ValueError(msg)
    return RowKey(*(int(batch.column(at).cast(pa.int64())[-1].as_py()) for at in places))


def _can_be_kept(filter_: Expression, text: str) -> bool:
    """Whether the text of a filter is read as that filter again."""
    try:
        return normalise(parse(text, now_ns=0).filter) == normalise(filter_)
    except QuerySyntaxError:
        return False


def _naming(names: Sequence[TokenName]) -> Expression:
    return Or(tuple(Words(ref, (name.word,)) for name in names for ref in (_BODY, _TOKENS)))
