"""One watch: where it stands, history first, then the journal, and at its head together with the others (`crowd`).

Where it stands and what it says is in its `Account`. Here is how it gets on: records up to the seam are history, of which
those before `since_ns` don't count; behind it, it joins the crowd as soon as it can. There, what is found for it is
queued where there is room (`deliver`); where there is none, it leaves, waits for room, and catches up.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from heimdall_server.domain.errors import DrainingError, NotFoundError, QueryCostError, TokenError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import JournalReader
from heimdall_server.ports.log_store import Limits, LogStore
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.iterators import with_heartbeat
from heimdall_server.services.query.logic.tokens import Place, TokenCodec
from heimdall_server.services.query.logic.watch.account import Account, Asked
from heimdall_server.services.query.logic.watch.crowd import Crowds
from heimdall_server.services.query.logic.watch.evaluator import (
    AggregateEvaluator,
    Evaluator,
)
from heimdall_server.services.query.logic.watch.meter import Meter
from heimdall_server.services.query.logic.watch.outbox import Outbox
from heimdall_server.services.query.logic.watch.rounds import Found
from heimdall_server.services.query.logic.watch.source import (
    SHARD,
    Piece,
    Standing,
    StoredHistory,
    joined,
    journal_pieces,
    wanted,
)
from heimdall_server.services.query.watch_model import Create, Created, Event, Progress

_R = TypeVar("_R")


def _workers() -> Executor:
    # Its own threads: what ingest hands to threads must not queue behind the questions of watches.
    return ThreadPoolExecutor(2, thread_name_prefix="watch")


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """What every watch works with."""

    journal: JournalReader
    store: LogStore
    visibility: Visibility
    admission: Admission
    tokens: TokenCodec
    limits: Limits
    workers: Executor = field(default_factory=_workers)


class WatchRunner:
    """See the module. `run` is the watch's task; `update` and `token` may be called beside it."""

    def __init__(
        self,
        ports: WatchPorts,
        outbox: Outbox,
        clock: Clock,
        *,
        request: Create,
        asked: Asked,
        place: Place,
        datasets: Sequence[str],
        crowds: Crowds,
    ) -> None:
        self.request = request
        self._ports = ports
        self._outbox = outbox
        self._account = Account(request, asked, place, tokens=ports.tokens, clock=clock)
        self._generation = 0
        self._has_ended = False
        self._crowds = crowds
        self._crowd = crowds.of(asked.evaluator)
        self._left: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._left_over: Iterator[Event] = iter(())
        """What the crowd couldn't say for it."""
        self._meter = Meter(crowds.cost)
        self._is_apart = False
        self._busy = asyncio.Lock()
        """Held from a piece's evaluation to the standing behind it: an update must not come in between."""
        self._history = StoredHistory(ports.store, ports.visibility, ports.admission, ports.limits, datasets)

    @property
    def aggregates(self) -> bool:
        """Whether it sends upserts."""
        return self._account.asked.evaluator.aggregates

    async def run(self) -> None:
        """Follow until cancelled, or until the query's own limit is reached.

        Raises:
            StreamLaggedError: The reader is too slow.
            HeimdallError: The store or the journal failed, or is too far behind.
        """
        try:
            await self._find_last()
            await self._follow()
        finally:
            self._has_ended = True
            self._account.close()

    async def _follow(self) -> None:
        while not self._account.is_over:
            if self._may_join() and self._crowd.join(self):
                await self._together()
            # Also behind that: where everybody was sent away, each finds out alone why.
            await self._alone()

    def _may_join(self) -> bool:
        standing = self._account.standing
        return not self._is_apart and standing.after is None and standing.cursor >= self._account.seam

    async def _together(self) -> None:
        """Be told, until something is left that only this watch can do."""
        self._left = asyncio.get_running_loop().create_future()
        try:
            error = await self._left
        finally:
            self._crowd.discard(self)
        if error is not None:
            raise error
        async with self._busy:
            left_over, self._left_over = self._left_over, iter(())
            for event in left_over:
                await self._outbox.put(event)

    async def _alone(self) -> None:
        """Follow until the others are reached."""
        async with aclosing(with_heartbeat(self._pieces(), self._wait_s)) as pieces:
            while not self._account.is_over:
                piece = await anext(pieces)
                async with self._busy:
                    if piece is not None:
                        await self._take(piece)
                    if time.monotonic() >= self._account.due_s:
                        await self._tell()
                if self._may_join():
                    return

    def _wait_s(self) -> float | None:
        return max(self._account.due_s - time.monotonic(), 0.0) if self.aggregates else None

    async def update(self, asked: Asked, created: Created) -> None:
        """Ask something else from here on; `created` is said between the old rows and the new ones."""
        async with self._busy:
            if self._has_ended:
                return
            # What was found for the old question, and wasn't said, is looked at again.
            self._leave()
            self._left_over = iter(())
            await self._outbox.put_patiently(created)
            self._account.renew(asked)
            self._crowd = self._crowds.of(asked.evaluator)
            self._meter, self._is_apart = Meter(self._crowds.cost), False
            self._generation += 1

    def token(self) -> bytes:
        """Resume from here."""
        return self._account.token()

    def progress(self) -> Progress:
        """How far it is."""
        return self._account.progress()

    async def _find_last(self) -> None:
        """Go back to where the last records begin that were asked for."""
        while self._account.last_count:
            generation, query = self._generation, self._account.asked.query
            standing = await self._history.place_of_last(query, self._account.last_count, through=self._account.seam)
            if generation == self._generation:
                self._account.standing, self._account.last_count = standing, 0

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        journal = self._ports.journal
        while True:
            standing = self._account.standing
            head, tail = journal.head().get(SHARD, 0), journal.tail().get(SHARD, 1)
            if standing.cursor > head:
                raise TokenError("it is of a newer state of the journal")
            is_history = bool(self._account.since_ns) and standing.cursor < self._account.seam
            if is_history or standing.cursor + 1 < tail:
                # History by time is cheaper from the store, which has an order by time to skip by.
                generation = self._generation
                piece = await self._history.page(
                    self._account.asked.query,
                    standing,
                    through=self._account.seam if standing.cursor < self._account.seam else head,
                    since_ns=self._account.since_ns if is_history else None,
                )
                yield replace(piece, generation=generation)
                continue
            try:
                async with aclosing(journal_pieces(journal, standing.cursor, seam=self._account.seam)) as pieces:
                    async for piece in pieces:
                        yield piece
            except NotFoundError:
                continue  # Trimmed between the look and the read: the store has it.
            raise DrainingError

    @property
    def evaluator(self) -> Evaluator:
        """See `Member`."""
        return self._account.asked.evaluator

    @property
    def standing(self) -> Standing:
        """See `Member`."""
        return self._account.standing

    @property
    def quiet_through(self) -> int:
        """See `Member`."""
        return self._account.quiet_through

    @property
    def due_s(self) -> float:
        """See `Member`."""
        evaluator = self._account.asked.evaluator
        is_quiet = self._account.standing.cursor < self._account.quiet_through
        if is_quiet or not isinstance(evaluator, AggregateEvaluator) or not evaluator.has_news:
            return math.inf
        return self._account.due_s

    @property
    def patience_s(self) -> float:
        """See `Member`."""
        return self.request.interval_s / 5 if self.aggregates else math.inf

    def follow_keys(self) -> None:
        """See `Member`."""
        if self._account.follow_keys():
            self._generation += 1

    def deliver(self, found: Found) -> bool:
        """See `Member`."""
        self._charge(found)
        events = self._account.events(found)
        for event in events:
            if not self._outbox.offer(event):
                self._left_over = itertools.chain([event], events)
                return False
        return not self._is_apart and not self._account.is_over

    def sent_away(self, error: Exception | None) -> None:
        """See `Member`."""
        if not self._left.done():
            self._left.set_result(error)

    def _leave(self) -> None:
        self._crowd.discard(self)
        self.sent_away(None)

    async def _take(self, piece: Piece) -> None:
        """Evaluate a piece, send what matches, and only then move on."""
        self.follow_keys()
        if piece.generation not in (None, self._generation):
            return  # Read for a question that was changed meanwhile, or for fewer keys; it is read again.
        found = await self._in_thread(functools.partial(self._found, piece, self._account.asked.evaluator))
        self._charge(found)
        for event in self._account.events(found):
            await self._outbox.put(event)

    def _found(self, piece: Piece, evaluator: Evaluator) -> Found:
        """Evaluate a piece alone. In a thread."""
        started_s = time.thread_time()
        found = Found(evaluator, piece.standing, piece.time_ns)
        batches = joined(
            wanted(piece, self._account.standing, since_ns=self._account.since_ns, seam=self._account.seam)
        )
        if isinstance(evaluator, AggregateEvaluator):
            found.closed = evaluator.update(batches, quiet=piece.standing.cursor < self._account.quiet_through)
        elif batches:
            found.matched = evaluator.take(batches)
        found.cpu_s = time.thread_time() - started_s
        return found

    async def _tell(self) -> None:
        """Send what changed since the last time, unless it is being counted again."""
        account = self._account
        account.told()
        evaluator = account.asked.evaluator
        if isinstance(evaluator, AggregateEvaluator) and account.standing.cursor >= account.quiet_through:
            upserts = await self._in_thread(evaluator.upserts)
            for event in account.upserts(upserts, revision=account.standing.cursor):
                await self._outbox.put(event)

    def _charge(self, found: Found) -> None:
        """Count what finding it cost, where it is of the journal.

        Raises:
            QueryCostError: It costs too much.
        """
        if not found.time_ns:
            return
        self._meter.charge(found.cpu_s, found.time_ns)
        if self._meter.is_over:
            raise QueryCostError(
                "the watch needs more processor time than one may have; filter by a field or a word before patterns"
            )
        self._is_apart = self._is_apart or self._meter.is_dear

    async def _in_thread(self, function: Callable[[], _R]) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._ports.workers, function)
