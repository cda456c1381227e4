"""One watch: where it stands, history first, then the journal.

Theory. `cursor` is the journal position up to which everything was looked at. Records up to `seam` are history: those
before `since_ns` don't count. What the journal still holds is read from it; what it no longer holds, and history that
is bounded by time, comes from the store, asked for (cursor, P] once the projection has passed P. Both orders are the
journal's, so there is no gap and no repeat where one goes over into the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import NotFoundError, QueryTimeoutError
from heimdall_server.domain.expression.tree import Query, TimeRange
from heimdall_server.domain.records import with_position
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.log_store import Limits, LogStore, Order, RowKey, StoreQuery
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.tokens import Place, TokenCodec, digest
from heimdall_server.services.query.logic.watch.evaluator import AggregateEvaluator, Evaluator
from heimdall_server.services.query.logic.watch.outbox import Outbox
from heimdall_server.services.query.watch_model import AggregateRows, Create, Progress, Rows, Start

SHARD: Final = 0
VISIBLE_WAIT_S: Final = 60.0
"""How long history waits for the projection to pass the seam."""


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """What every watch reads from."""

    journal: Journal
    store: LogStore
    visibility: Visibility
    admission: Admission
    tokens: TokenCodec
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some records of one frame, in order; without a batch: everything up to the position was looked at."""

    batch: pa.RecordBatch | None
    position: int
    whole: bool
    """Nothing of the frame comes after it."""


class WatchRunner:
    """See the module. `run` is the watch's task; `update` and `token` may be called beside it."""

    def __init__(
        self,
        ports: WatchPorts,
        outbox: Outbox,
        *,
        caller: str,
        request: Create,
        query: Query,
        evaluator: Evaluator,
        canonical_text: str,
        place: Place,
    ) -> None:
        self.request = request
        self._ports = ports
        self._outbox = outbox
        self._caller = caller
        self._query = query
        self._evaluator = evaluator
        self._bound_to = bound_to(canonical_text, request)
        self._cursor = place.through.get(SHARD, 0)
        self._after = place.after
        self._since_ns = place.since_ns
        self._seam = place.seam
        self._started_at = self._cursor
        self._sent_rows = 0
        self._busy = asyncio.Lock()
        """Held while a batch is evaluated: an update or a tick must not come in between."""

    @property
    def aggregates(self) -> bool:
        """Whether it sends upserts."""
        return self._evaluator.aggregates

    async def run(self) -> None:
        """Follow until cancelled, or until the query's own limit is reached.

        Raises:
            StreamLaggedError: The reader is too slow.
            HeimdallError: The store or the journal failed.
        """
        ticking = asyncio.create_task(self._tick()) if self._evaluator.aggregates else None
        try:
            if self.request.start.last_count and not self.request.start.resume_token:
                await self._last_rows(self.request.start.last_count)
            async for piece in self._pieces():
                async with self._busy:
                    done = await self._take(piece)
                if done:
                    return
                if ticking is not None and ticking.done():
                    ticking.result()
        finally:
            if ticking is not None:
                ticking.cancel()
                await asyncio.wait([ticking])

    async def update(self, query: Query, evaluator: Evaluator, canonical_text: str) -> None:
        """Ask something else from here on."""
        async with self._busy:
            self._query = query
            self._evaluator = evaluator
            self._started_at = self._cursor
            self._bound_to = bound_to(canonical_text, self.request)

    def token(self) -> bytes:
        """Resume from here."""
        return self._token_at(self._cursor, self._after)

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self.request.watch_id, self.token(), {SHARD: self._cursor})

    def _token_at(self, cursor: int, after: RowKey | None) -> bytes:
        place = Place({SHARD: cursor}, after, since_ns=self._since_ns, seam=self._seam)
        evaluator = self._evaluator
        if isinstance(evaluator, AggregateEvaluator):
            if evaluator.by_bucket:
                horizon_ns = max(self._since_ns, evaluator.horizon_ns)
                place = Place({SHARD: evaluator.resume_position(cursor)}, since_ns=horizon_ns, seam=self._seam)
            else:
                place = Place({SHARD: self._started_at}, since_ns=self._since_ns, seam=self._seam)
        return self._ports.tokens.seal(place, bound_to=self._bound_to)

    async def _pieces(self) -> AsyncIterator[_Piece]:
        journal = self._ports.journal
        while True:
            head = journal.head().get(SHARD, 0)
            gone = self._cursor + 1 < journal.tail().get(SHARD, 1)
            if gone or (self._since_ns and self._cursor < self._seam):
                # History by time is cheaper from the store, which has an order by time to skip by.
                through = self._seam if self._cursor < self._seam else head
                async for piece in self._stored(through):
                    yield piece
                continue
            try:
                async for frame in journal.read(SHARD, after=self._cursor):
                    batch = frame.entry.batch
                    if batch is not None:
                        batch = with_position(batch, shard=SHARD, position=frame.position)
                    yield _Piece(batch, frame.position, whole=True)
                return
            except NotFoundError:
                continue  # trimmed between the look and the read: the store has it

    async def _stored(self, through: int) -> AsyncIterator[_Piece]:
        """Everything in (cursor, through] from the store; it may give a frame in parts."""
        ports = self._ports
        if not await ports.visibility.wait_through({SHARD: through}, VISIBLE_WAIT_S):
            raise QueryTimeoutError(VISIBLE_WAIT_S)
        query = StoreQuery(
            query=Query(self._query.filter),
            time_range=TimeRange(self._since_ns if self._since_ns and through <= self._seam else None),
            through={SHARD: through},
            after_positions={SHARD: self._cursor},
            order=Order.JOURNAL,
            limits=replace(ports.limits, time_s=max(ports.limits.time_s, VISIBLE_WAIT_S), result_rows=1 << 40),
        )
        async with ports.admission.admit(self._caller), ports.store.query(query) as result:
            async for batch in result.batches():
                positions = batch.column("position")
                for position in pc.unique(positions).to_pylist():
                    yield _Piece(batch.filter(pc.equal(positions, position)), position, whole=False)
        yield _Piece(None, through, whole=True)

    async def _take(self, piece: _Piece) -> bool:
        """Evaluate a piece, send what matches, and only then move on.

        Returns:
            True: the query's limit is reached.
        """
        cursor, after = piece.position, None
        batch = self._wanted(piece)
        if not piece.whole and piece.batch is not None:
            last_row = int(piece.batch.column("row")[-1].as_py())
            cursor, after = piece.position - 1, RowKey(0, SHARD, piece.position, last_row)
        done = False
        evaluator = self._evaluator
        if batch is None or not batch.num_rows:
            pass
        elif isinstance(evaluator, AggregateEvaluator):
            await asyncio.to_thread(evaluator.update, batch, piece.position)
        else:
            rows = await asyncio.to_thread(evaluator.take, batch)
            if evaluator.limit is not None:
                rows = rows.slice(0, evaluator.limit - self._sent_rows)
            if rows.num_rows:
                token = self._token_at(cursor, after)
                history = piece.position <= self._seam
                await self._outbox.put(
                    Rows(self.request.watch_id, rows, token, history=history, json=self.request.json)
                )
            self._sent_rows += int(rows.num_rows)
            done = evaluator.limit is not None and self._sent_rows >= evaluator.limit
        self._cursor, self._after = max(self._cursor, cursor), after
        return done

    def _wanted(self, piece: _Piece) -> pa.RecordBatch | None:
        """The piece's records that count."""
        batch = piece.batch
        if batch is None:
            return None
        if self._after is not None and self._after.position == piece.position:
            batch = batch.filter(pc.greater(batch.column("row"), self._after.row))
        if self._since_ns and piece.position <= self._seam:
            batch = batch.filter(pc.greater_equal(batch.column("time").cast(pa.int64()), self._since_ns))
        return batch

    async def _last_rows(self, count: int) -> None:
        """The newest matching records up to the seam, oldest of them first."""
        ports = self._ports
        if not await ports.visibility.wait_through({SHARD: self._seam}, VISIBLE_WAIT_S):
            raise QueryTimeoutError(VISIBLE_WAIT_S)
        query = StoreQuery(
            query=Query(self._query.filter),
            time_range=TimeRange(),
            through={SHARD: self._seam},
            order=Order.JOURNAL_REVERSED,
            limits=replace(ports.limits, result_rows=count),
        )
        async with ports.admission.admit(self._caller), ports.store.query(query) as result:
            batches = [batch async for batch in result.batches()]
        if not batches or isinstance(self._evaluator, AggregateEvaluator):
            return
        table = pa.Table.from_batches(batches).sort_by([("position", "ascending"), ("row", "ascending")])
        rows = self._evaluator.take(table.combine_chunks().to_batches()[0])
        await self._outbox.put(Rows(self.request.watch_id, rows, self.token(), history=True, json=self.request.json))

    async def _tick(self) -> None:
        """Send what changed, every interval."""
        while True:
            await asyncio.sleep(self.request.interval_s)
            async with self._busy:
                evaluator = self._evaluator
                if not isinstance(evaluator, AggregateEvaluator):
                    continue
                upserts = await asyncio.to_thread(lambda one: list(one.upserts()), evaluator)
                token, revision = self.token(), self._cursor
            for upsert in upserts:
                await self._outbox.put(
                    AggregateRows(
                        self.request.watch_id, upsert.batch, upsert.bucket_ns, revision, token, json=self.request.json
                    )
                )


def bound_to(canonical_text: str, request: Create) -> bytes:
    """What a watch's token is bound to."""
    return digest("watch", canonical_text, sorted(request.datasets))


def first_place(start: Start, journal: Journal) -> Place:
    """Where a new watch without a token begins."""
    head = journal.head().get(SHARD, 0)
    if start.since_ns is not None:
        return Place({SHARD: 0}, since_ns=max(start.since_ns, 1), seam=head)
    return Place({SHARD: head}, seam=head)
