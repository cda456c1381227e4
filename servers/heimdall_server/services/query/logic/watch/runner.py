"""One watch: where it stands, history first, then the journal.

Theory. Up to `Standing` everything was looked at. Records up to the seam are history: those before `since_ns` don't
count. The standing moves only behind what was put into the outbox, in one step with it, so that a token is right
whenever it is asked for: what came before it was queued before it, what comes behind it wasn't.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from heimdall_server.domain.errors import DrainingError, NotFoundError, TokenError
from heimdall_server.domain.expression.tree import Query
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.log_store import Limits, LogStore, RowKey
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.iterators import with_heartbeat
from heimdall_server.services.query.logic.tokens import Place, TokenCodec
from heimdall_server.services.query.logic.watch.evaluator import (
    AggregateEvaluator,
    Evaluator,
    Matched,
    RowEvaluator,
    Upsert,
)
from heimdall_server.services.query.logic.watch.outbox import Outbox
from heimdall_server.services.query.logic.watch.source import (
    SHARD,
    Piece,
    Standing,
    StoredHistory,
    journal_pieces,
    wanted,
)
from heimdall_server.services.query.model import TokenAfter
from heimdall_server.services.query.watch_model import AggregateRows, Create, Created, Progress, Rows

_EVENT_BYTES: Final = 2 * 1024 * 1024
"""Rows go to the outbox in pieces of about this."""
_R = TypeVar("_R")


def _workers() -> Executor:
    # Its own threads: what ingest hands to threads must not queue behind the questions of watches.
    return ThreadPoolExecutor(2, thread_name_prefix="watch")


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """What every watch works with."""

    journal: Journal
    store: LogStore
    visibility: Visibility
    admission: Admission
    tokens: TokenCodec
    limits: Limits
    workers: Executor = field(default_factory=_workers)


@dataclass(frozen=True, slots=True)
class Asked:
    """A watch's question, understood."""

    query: Query
    """Narrowed to the datasets."""
    evaluator: Evaluator
    canonical_text: str
    bound_to: bytes
    """What tokens are bound to."""
    now_ns: int
    """What `now` meant."""


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
    ) -> None:
        self.request = request
        self._ports = ports
        self._outbox = outbox
        self._clock = clock
        self._asked = asked
        self._standing = Standing(place.through.get(SHARD, 0), place.after)
        self._since_ns = place.since_ns
        self._seam = place.seam
        self._last_count = place.last_count
        self._sent_rows = place.returned
        self._quiet_through = place.counted_through
        self._counted_from = self._standing.cursor
        self._horizon_ns = place.horizon_ns
        self._generation = 0
        self._has_ended = False
        self._busy = asyncio.Lock()
        """Held from a piece's evaluation to the standing behind it: an update must not come in between."""
        self._history = StoredHistory(ports.store, ports.visibility, ports.admission, ports.limits, datasets)

    @property
    def aggregates(self) -> bool:
        """Whether it sends upserts."""
        return self._asked.evaluator.aggregates

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

    async def _follow(self) -> None:
        interval_s = self.request.interval_s
        due_s = time.monotonic() + interval_s

        def wait_s() -> float | None:
            return max(due_s - time.monotonic(), 0.0) if self.aggregates else None

        async with aclosing(with_heartbeat(self._pieces(), wait_s)) as pieces:
            while not self._is_over():
                piece = await anext(pieces)
                async with self._busy:
                    if piece is not None:
                        await self._take(piece)
                    if time.monotonic() >= due_s:
                        await self._tell()
                        due_s = time.monotonic() + interval_s

    async def update(self, asked: Asked, created: Created) -> None:
        """Ask something else from here on; `created` is said between the old rows and the new ones."""
        async with self._busy:
            if self._has_ended:
                return
            await self._outbox.put_patiently(created)
            self._asked = asked
            self._generation += 1
            self._sent_rows = self._quiet_through = self._horizon_ns = 0
            self._counted_from = self._standing.cursor

    def token(self) -> bytes:
        """Resume from here."""
        return self._token_at(self._asked, self._standing, self._sent_rows)

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self.request.watch_id, self.token(), {SHARD: self._standing.cursor})

    def _token_at(self, asked: Asked, standing: Standing, sent_rows: int) -> bytes:
        place = Place(
            {SHARD: standing.cursor},
            standing.after,
            returned=sent_rows,
            now_ns=asked.now_ns,
            since_ns=self._since_ns,
            seam=self._seam,
            last_count=self._last_count,
        )
        if asked.evaluator.aggregates:
            place = replace(
                place,
                through={SHARD: self._counted_from},
                after=None,
                horizon_ns=self._horizon_ns,
                counted_through=max(standing.cursor, self._quiet_through),
            )
        return self._ports.tokens.seal(place, bound_to=asked.bound_to)

    def _is_over(self) -> bool:
        limit = self._asked.evaluator.limit
        return limit is not None and self._sent_rows >= limit

    async def _find_last(self) -> None:
        """Go back to where the last records begin that were asked for."""
        while self._last_count:
            generation, query = self._generation, self._asked.query
            standing = await self._history.place_of_last(query, self._last_count, through=self._seam)
            if generation == self._generation:
                self._standing, self._last_count = standing, 0

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        journal = self._ports.journal
        while True:
            standing = self._standing
            head, tail = journal.head().get(SHARD, 0), journal.tail().get(SHARD, 1)
            if standing.cursor > head:
                raise TokenError("it is of a newer state of the journal")
            is_history = bool(self._since_ns) and standing.cursor < self._seam
            if is_history or standing.cursor + 1 < tail:
                # History by time is cheaper from the store, which has an order by time to skip by.
                generation = self._generation
                piece = await self._history.page(
                    self._asked.query,
                    standing,
                    through=self._seam if standing.cursor < self._seam else head,
                    since_ns=self._since_ns if is_history else None,
                )
                yield replace(piece, generation=generation)
                continue
            try:
                async with aclosing(journal_pieces(journal, standing.cursor, seam=self._seam)) as pieces:
                    async for piece in pieces:
                        yield piece
            except NotFoundError:
                continue  # Trimmed between the look and the read: the store has it.
            raise DrainingError

    async def _take(self, piece: Piece) -> None:
        """Evaluate a piece, send what matches, and only then move on."""
        if piece.generation not in (None, self._generation):
            return  # Read for a question that was changed meanwhile; it is read again.
        evaluator = self._asked.evaluator
        if isinstance(evaluator, AggregateEvaluator):
            await self._count(evaluator, piece)
        else:
            await self._send(evaluator, piece)
        self._standing = piece.standing

    async def _send(self, evaluator: RowEvaluator, piece: Piece) -> None:
        def match() -> Matched | None:
            batches = wanted(piece, self._standing, since_ns=self._since_ns, seam=self._seam)
            return evaluator.take(batches) if batches else None

        matched = await self._in_thread(match)
        if matched is None or not matched.count:
            return
        if evaluator.limit is not None:
            matched = matched.slice(0, evaluator.limit - self._sent_rows)
        step = max(1, matched.count * _EVENT_BYTES // max(int(matched.shown.nbytes), 1))
        for start in range(0, matched.count, step):
            part = matched.slice(start, step)
            end = piece.standing if start + step >= matched.count else _behind(part, part.count)
            history = piece.standing.cursor <= self._seam
            await self._outbox.put(
                Rows(
                    self.request.watch_id,
                    part.shown,
                    self._tokens_of(part, end),
                    history=history,
                    json=self.request.json,
                )
            )
            self._standing = end
            self._sent_rows += part.count
        if piece.time_ns:
            metrics.WATCH_SECONDS.observe(max(0, self._clock.now_ns() - piece.time_ns) / 1e9)

    def _tokens_of(self, part: Matched, end: Standing) -> TokenAfter:
        """Tokens of rows that are being sent; they stay what they are when the question is changed meanwhile."""
        asked, sent = self._asked, self._sent_rows

        def token_after(count: int) -> bytes:
            return self._token_at(asked, end if count == part.count else _behind(part, count), sent + count)

        return token_after

    async def _count(self, evaluator: AggregateEvaluator, piece: Piece) -> None:
        def count() -> list[Upsert]:
            batches = wanted(piece, self._standing, since_ns=self._since_ns, seam=self._seam)
            return evaluator.update(batches, quiet=piece.standing.cursor < self._quiet_through)

        late_count = evaluator.late_count
        upserts = await self._in_thread(count)
        metrics.WATCH_LATE.inc(evaluator.late_count - late_count)
        await self._put(upserts, revision=piece.standing.cursor)
        self._horizon_ns = evaluator.horizon_ns
        if evaluator.by_bucket:
            self._counted_from = evaluator.resume_position(piece.standing.cursor)

    async def _tell(self) -> None:
        """Send what changed since the last time, unless it is being counted again."""
        evaluator = self._asked.evaluator
        if isinstance(evaluator, AggregateEvaluator) and self._standing.cursor >= self._quiet_through:
            await self._put(await self._in_thread(evaluator.upserts), revision=self._standing.cursor)

    async def _put(self, upserts: Sequence[Upsert], *, revision: int) -> None:
        token, watch_id, is_json = self.token(), self.request.watch_id, self.request.json
        for upsert in upserts:
            await self._outbox.put(
                AggregateRows(watch_id, upsert.batch, upsert.bucket_ns, revision, token, json=is_json)
            )

    async def _in_thread(self, function: Callable[[], _R]) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._ports.workers, function)


def _behind(part: Matched, count: int) -> Standing:
    """Behind the first so many rows."""
    position, row = (int(part.keys.column(name)[count - 1].as_py()) for name in ("position", "row"))
    return Standing(position - 1, RowKey(0, SHARD, position, row))
