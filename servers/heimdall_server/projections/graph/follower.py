"""Follows the journal into the graph, behind everything else: what records hold becomes facts, batch by batch.

The store notes the positions of each batch with its facts, so a batch that comes again changes nothing, and a start asks what is missing. The
projection is optional: nothing waits for it, and it may lag; when the journal must go on without it, what it missed is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.graph_batches import ROWS_MAX, Applied, GraphBatch, Origin
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph import GraphWriter
from heimdall_server.ports.journal import Frame, Journal
from heimdall_server.projections.graph.deletions import DeletedRecords
from heimdall_server.projections.graph.extraction import Facts, look
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.observations import TEXT_TYPES
from heimdall_server.projections.optional import OptionalProjection
from heimdall_server.projections.read_ahead import ReadAhead, ReadLimits
from heimdall_server.projections.warm import ProjectionState, RetryPolicy

LOG: Final = logging.getLogger(__name__)
SHARD: Final = 0
DEFAULT_READ: Final = ReadLimits(batch_rows=65_536, linger_s=1.0, held_rows_max=131_072, held_bytes_max=64 << 20)
_PART_ROWS: Final = 8_192
"""Records of one part of a frame that has more facts than a batch may hold."""


@dataclass(frozen=True, slots=True)
class GraphProgress:
    """How far the projection has come."""

    state: ProjectionState
    applied: int
    """Facts of every frame up to this position are in the graph, or were skipped."""
    lag_positions: int
    lag_s: float
    """Age of the oldest frame that isn't applied; 0: none."""
    vertex_count: int
    """New ones since the start."""
    edge_count: int
    refused_count: int
    """Facts that the graph couldn't keep, since the start."""
    retry_count: int
    problem: str = ""
    """The last failure, while RETRYING or FAILED."""
    notice: str = ""
    """What is missing, if anything is."""


class GraphProjection(OptionalProjection):
    """The projection into the graph. One `run` at a time."""

    def __init__(
        self,
        journal: Journal,
        writer: GraphWriter,
        identities: Identities,
        clock: Clock,
        *,
        types: Collection[str] = TEXT_TYPES,
        read: ReadLimits = DEFAULT_READ,
        retry: RetryPolicy | None = None,
        on_applied: Callable[[Applied, float], None] = lambda *_: None,
    ) -> None:
        """Take its parts.

        Args:
            journal: What it follows.
            writer: Keeps the facts.
            identities: Say whose values are.
            clock: For ages.
            types: What is looked for in texts.
            read: How much is taken at once.
            retry: How long it waits for a store that fails.
            on_applied: After each batch: what became of it, seconds it took.
        """
        super().__init__(retry)
        self._journal = journal
        self._writer = writer
        self._identities = identities
        self._clock = clock
        self._types = types
        self._limits = read
        self._on_applied = on_applied
        self._deleted = DeletedRecords(journal)
        self._notice = ""
        self._oldest_ns = 0
        self._vertices = self._edges = self._refused = 0

    @property
    def progress(self) -> GraphProgress:
        """State and lag, now. Cheap."""
        lag = max(0, self._journal.head()[SHARD] - self._applied)
        return GraphProgress(
            state=self._state,
            applied=self._applied,
            lag_positions=lag,
            lag_s=max(0, self._clock.now_ns() - self._oldest_ns) / 1e9 if lag and self._oldest_ns else 0.0,
            vertex_count=self._vertices,
            edge_count=self._edges,
            refused_count=self._refused,
            retry_count=self._retries,
            problem=self._problem,
            notice=self._notice,
        )

    async def run(self) -> None:
        """Ask the store what is missing, then follow the journal until cancelled.

        Raises:
            CorruptionError: The journal is damaged at the next position.
        """
        self._state = ProjectionState.STARTING
        try:
            while True:
                after = await self._begin()
                try:
                    await self._follow(after)
                except NotFoundError:
                    self._state = ProjectionState.STARTING  # frames went while we were behind
        except asyncio.CancelledError:
            self._state = ProjectionState.STOPPED
            raise
        except Exception as error:
            self._state, self._problem = ProjectionState.FAILED, str(error)
            raise

    async def _begin(self) -> int:
        """Where to go on. What the journal no longer has is passed over, and said."""
        head, tail = self._journal.head()[SHARD], self._journal.tail()[SHARD]
        missing = await self._missing(tail, head)
        gone = await self._missing(1, tail - 1)
        if gone:
            first, last = gone[0][0], gone[-1][1]
            self._notice = f"the graph misses what journal positions {first} to {last} held: the journal let go of them before they were applied"
            LOG.warning("graph is left behind", extra={"first": first, "last": last})
        first = missing[0][0] if missing else head + 1
        self._deleted.begin(first - 1)
        await self._passed(first - 1)
        return first - 1

    async def _missing(self, first: int, last: int) -> Sequence[tuple[int, int]]:
        if last < first:
            return ()
        return await self._patiently(lambda: self._writer.missing(self._origin(first, last)))

    async def _follow(self, after: int) -> None:
        reader = ReadAhead(self._journal, SHARD, self._clock, self._limits)
        async with _running(reader, after):
            self._state, self._problem = ProjectionState.RUNNING, ""
            while True:
                frames = await reader.take()
                self._oldest_ns = frames[0].time_ns
                await self._take(frames)
                await self._passed(frames[-1].position)

    async def _take(self, frames: Sequence[Frame]) -> None:
        """Apply frames, in as many batches as they need."""
        first, last = frames[0].position, frames[-1].position
        await self._deleted.learn()
        found = [(frame.position, frame.entry.batch) for frame in frames if frame.entry.batch is not None]
        batches = [
            (position, await asyncio.to_thread(self._deleted.without, batch, position)) for position, batch in found
        ]
        facts = await self._facts(batches, last)
        if max(len(facts.vertices), len(facts.edges)) <= ROWS_MAX:
            await self._apply(self._origin(first, last), facts)
        elif len(frames) > 1:
            middle = len(frames) // 2
            await self._take(frames[:middle])
            await self._take(frames[middle:])
        else:
            await self._take_in_parts(first, batches[0][1])

    async def _take_in_parts(self, position: int, records: pa.RecordBatch) -> None:
        """Apply a frame that has too many facts: its parts are streams of their own, and the last one says that the frame is done."""
        starts = range(0, len(records), _PART_ROWS)
        for part, start in enumerate(starts):
            facts = await self._facts([(position, records.slice(start, _PART_ROWS))], position)
            is_last = start == starts[-1]
            await self._apply(self._origin(position, position, part="" if is_last else f"/{part}"), facts)

    async def _facts(self, batches: Sequence[tuple[int, pa.RecordBatch]], through: int) -> Facts:
        looked = await asyncio.to_thread(look, batches, instance=self._journal.journal_id, types=self._types)
        tokens = looked.tokens()
        learned = await self._patiently(lambda: self._identities.learn(tokens, through=through))
        return await asyncio.to_thread(looked.facts, lambda name, values: self._identities.of(name, values, learned))

    async def _apply(self, origin: Origin, facts: Facts) -> None:
        began_s = self._clock.monotonic_s()
        batch = GraphBatch(origin, facts.provenances, facts.vertices, facts.edges)
        applied = await self._patiently(lambda: self._writer.apply(batch))
        self._vertices += applied.new_vertex_count
        self._edges += applied.new_edge_count
        self._refused += len(applied.refused)
        for refused in applied.refused[:1]:
            LOG.warning(
                "facts were refused",
                extra={"count": len(applied.refused), "reason": refused.reason, "position": origin.first},
            )
        self._on_applied(applied, self._clock.monotonic_s() - began_s)

    async def _passed(self, position: int) -> None:
        self._applied = max(self._applied, position)
        await self._tell()

    def _origin(self, first: int, last: int, *, part: str = "") -> Origin:
        return Origin(f"journal/{self._journal.journal_id}/{SHARD}{part}", first, last)


@contextlib.asynccontextmanager
async def _running(reader: ReadAhead, after: int) -> AsyncIterator[None]:
    """Let it read while the block lasts."""
    task = asyncio.create_task(reader.run(after), name="graph-read")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
