"""Where a watch's records come from: the journal where it still holds them, the store where it doesn't.

Both give them in journal order, so there is no gap and no repeat where one goes over into the other. The store is asked
page by page, and no connection of it is held while a page is being delivered: a slow reader must not keep others out.
A page spans as many journal positions as its rows allow, since positions are what the store's index prunes by.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import OverloadedError, QueryCostError, QueryTimeoutError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Extract, Fields, Limit, Query, TimeRange, Where
from heimdall_server.domain.records import POSITIONED_SCHEMA, with_position
from heimdall_server.ports.journal import Frame, JournalReader
from heimdall_server.ports.log_store import Limits, LogStore, Order, RowKey, StoreQuery
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.freshness import Visibility
from heimdall_server.services.query.logic.iterators import closed_behind

SHARD: Final = 0
VISIBLE_WAIT_S: Final = 60.0
"""How long history waits for the store to hold what the journal does."""
_PAGE_ROWS: Final = 16_384
_PAGE_BYTES: Final = 16 * 1024 * 1024
_FIRST_SPAN: Final = 256
_GROUP_ROWS: Final = 32_768
_GROUP_FRAMES: Final = 256
NEAR_FRAMES: Final = _GROUP_FRAMES
"""Who is no farther from the head than this is at the head in a moment."""
_JOINED_BYTES: Final = 64 * 1024 * 1024
"""Batches are joined up to about this."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a watch has looked."""

    cursor: int
    """Every record up to this position was looked at."""
    after: RowKey | None = None
    """So were those of the next position, up to this row."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some records in journal order, and where they lead to."""

    standing: Standing
    """Behind them."""
    frames: Sequence[Frame] = ()
    page: pa.RecordBatch | None = None
    """From the store instead: only records that the query may want, by the question of `generation`."""
    generation: int | None = None
    time_ns: int = 0
    """When the oldest frame was appended; 0: from the store."""

    @property
    def is_full(self) -> bool:
        """It is as large as pieces get, so there is probably more."""
        return len(self.frames) >= _GROUP_FRAMES or sum(frame.row_count for frame in self.frames) >= _GROUP_ROWS

    def batches(self) -> list[pa.RecordBatch]:
        """The records with their positions. Call it in a thread."""
        if self.page is not None:
            return [self.page] if self.page.num_rows else []
        return [
            with_position(frame.entry.batch, shard=SHARD, position=frame.position)
            for frame in self.frames
            if frame.entry.batch is not None and frame.entry.batch.num_rows
        ]


@dataclass(slots=True)
class StoredHistory:
    """Reads the store for one watch."""

    store: LogStore
    visibility: Visibility
    admission: Admission
    limits: Limits
    datasets: Sequence[str]
    span: int = field(default_factory=lambda: _FIRST_SPAN)
    """Positions of the next page."""

    async def page(self, query: Query, standing: Standing, *, through: int, since_ns: int | None) -> Piece:
        """The next records in (standing, through].

        Raises:
            OverloadedError: The store is too far behind the journal.
            QueryTimeoutError, QueryCostError: Even one frame can't be searched within the limits.
            StoreError: The store failed.
        """
        await self._wait_visible(through)
        while True:
            last = min(standing.cursor + self.span, through)
            try:
                return await self._read(query, standing, last, since_ns)
            except (QueryTimeoutError, QueryCostError):
                if last - standing.cursor <= 1:
                    raise
                self.span = max(1, (last - standing.cursor) // 8)

    async def place_of_last(self, query: Query, count: int, *, through: int) -> Standing:
        """Where the last so many matching records begin.

        Raises:
            OverloadedError, QueryTimeoutError, QueryCostError, StoreError: As `page`.
        """
        await self._wait_visible(through)
        keys = Fields((FieldRef(Scope.CORE, "position"), FieldRef(Scope.CORE, "row")))
        asked = StoreQuery(
            query=Query(query.filter, (*_filtering(query), keys, Limit(count))),
            time_range=TimeRange(),
            through={SHARD: through},
            datasets=self.datasets,
            order=Order.JOURNAL_REVERSED,
            limits=replace(self.limits, result_rows=count),
        )
        first = Standing(through)
        async with self.admission.admit_history(), self.store.query(asked) as result:
            async with closed_behind(result.batches()) as batches:
                async for batch in batches:
                    position, row = (int(batch.column(name)[-1].as_py()) for name in ("position", "row"))
                    first = Standing(position - 1, RowKey(0, SHARD, position, row - 1) if row else None)
            if result.statistics.truncated_by not in ("", "result_rows"):
                raise QueryTimeoutError(self.limits.time_s)
        return first

    async def _wait_visible(self, through: int) -> None:
        if not await self.visibility.wait_through({SHARD: through}, VISIBLE_WAIT_S):
            raise OverloadedError(retry_after_s=5.0)

    async def _read(self, query: Query, standing: Standing, last: int, since_ns: int | None) -> Piece:
        asked = StoreQuery(
            query=Query(query.filter, _filtering(query)),
            time_range=TimeRange(since_ns),
            through={SHARD: last},
            after_positions={SHARD: standing.cursor},
            datasets=self.datasets,
            order=Order.JOURNAL,
            after=standing.after,
            limits=replace(self.limits, result_rows=_PAGE_ROWS),
        )
        found: list[pa.RecordBatch] = []
        size_bytes = 0
        async with self.admission.admit_history(), self.store.query(asked) as result:
            async with closed_behind(result.batches()) as batches:
                async for batch in batches:
                    found.append(batch.select(POSITIONED_SCHEMA.names))
                    size_bytes += int(batch.nbytes)
                    if size_bytes > _PAGE_BYTES:
                        break
            is_cut = bool(result.statistics.truncated_by) or size_bytes > _PAGE_BYTES
        rows = sum(batch.num_rows for batch in found)
        if is_cut:
            self.span = max(1, self.span // 2)
            position, row = (int(found[-1].column(name)[-1].as_py()) for name in ("position", "row"))
            end = Standing(position - 1, RowKey(0, SHARD, position, row))
        else:
            self.span *= 4 if rows < _PAGE_ROWS // 4 else 1
            end = Standing(last)
        return Piece(end, page=pa.concat_batches(found) if found else None)


async def journal_pieces(journal: JournalReader, cursor: int, *, seam: int) -> AsyncGenerator[Piece, None]:
    """The journal from a position on: what has come meanwhile comes together. Ends when the journal is closed.

    A piece is either history or live: it doesn't reach over the seam.

    Raises:
        NotFoundError: The frames behind the cursor are gone; the store has them.
        CorruptionError: A frame is damaged.
    """
    async with closed_behind(journal.read(SHARD, after=cursor)) as frames:
        group: list[Frame] = []
        rows = 0
        async for frame in frames:
            group.append(frame)
            rows += frame.row_count
            is_last = frame.position in (seam, journal.head().get(SHARD, 0))
            if not is_last and rows < _GROUP_ROWS and len(group) < _GROUP_FRAMES:
                continue
            yield Piece(Standing(frame.position), frames=tuple(group), time_ns=group[0].time_ns)
            group, rows = [], 0


def wanted(piece: Piece, standing: Standing, *, since_ns: int, seam: int) -> list[pa.RecordBatch]:
    """The records of a piece that a watch hasn't looked at and that aren't too old for it. Call it in a thread."""
    after = standing.after
    batches = []
    for batch in piece.batches():
        kept = batch
        if after is not None:
            is_behind = pc.or_(
                pc.not_equal(kept.column("position"), after.position), pc.greater(kept.column("row"), after.row)
            )
            kept = kept.filter(is_behind)
        if since_ns:
            is_live = pc.greater(kept.column("position"), seam)
            is_recent = pc.greater_equal(kept.column("time").cast(pa.int64()), since_ns)
            kept = kept.filter(pc.or_(is_live, is_recent))
        if kept.num_rows:
            batches.append(kept)
    return batches


def joined(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The same records in as few batches as is good: what is done with a batch costs most for small ones."""
    if len(batches) <= 1:
        return list(batches)
    groups: list[list[pa.RecordBatch]] = []
    size_bytes = _JOINED_BYTES
    for batch in batches:
        size_bytes += int(batch.nbytes)
        if size_bytes > _JOINED_BYTES:
            groups.append([])
            size_bytes = int(batch.nbytes)
        groups[-1].append(batch)
    return [pa.concat_batches(group) for group in groups]


def behind(batch: pa.RecordBatch, position: int) -> pa.RecordBatch:
    """The records of a batch, in journal order, that stand behind a position."""
    return batch.slice(int(np.searchsorted(batch.column("position").to_numpy(), position, side="right")))


def _filtering(query: Query) -> tuple[Where | Extract, ...]:
    """The stages that decide which records match."""
    stages: list[Where | Extract] = []
    for stage in query.stages:
        if isinstance(stage, Where | Extract):
            stages.append(stage)
        elif not isinstance(stage, Fields | Limit):
            break
    return tuple(stages)
