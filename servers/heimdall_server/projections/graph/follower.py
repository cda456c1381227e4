"""Follows the journal into the graph, behind everything else: what records hold becomes facts, batch by batch.

The store notes the positions of each batch with its facts, so a batch that comes again changes nothing, and a start asks what is missing. The
projection is optional: nothing waits for it, and it may lag; when the journal must go on without it, what it missed is said.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.graph_batches import ROWS_MAX, Applied, GraphBatch, Origin, RecordMarks
from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph import GraphWriter
from heimdall_server.ports.journal import Deletion, Frame, Journal
from heimdall_server.projections.graph.deletions import DeletedRecords
from heimdall_server.projections.graph.dump_records import besides, fresh_records
from heimdall_server.projections.graph.extraction import Facts
from heimdall_server.projections.graph.fitting import Fitting
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.making import DeletionOfFacts, MakingPorts, Patiently
from heimdall_server.projections.graph.one_ahead import OneAhead
from heimdall_server.projections.graph.progress import GraphProgress, lost, never_applied
from heimdall_server.projections.graph.stored import Found
from heimdall_server.projections.graph.work import LARGE_FACTS, FactWork, give_back
from heimdall_server.projections.optional import OptionalProjection
from heimdall_server.projections.read_ahead import ReadAhead, ReadLimits
from heimdall_server.projections.warm import ProjectionState, RetryPolicy

LOG: Final = logging.getLogger(__name__)
SHARD: Final = 0
DEFAULT_READ: Final = ReadLimits(batch_rows=65_536, linger_s=1.0, held_rows_max=131_072, held_bytes_max=8 << 20)
_ROWS_END: Final = 2**40
_NEVER: Final = 2**62
_ROWS: Final = "/rows/"
"""Before a frame's position: the part of the stream that its rows are."""
_PART_ROWS: Final = 8_192
"""Records of one part of a frame that has more facts than a batch may hold."""


class GraphProjection(OptionalProjection):
    """The projection into the graph. One `run` at a time."""

    def __init__(
        self,
        journal: Journal,
        writer: GraphWriter,
        identities: Identities,
        clock: Clock,
        *,
        work: FactWork | None = None,
        making: MakingPorts | None = None,
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
            work: Makes facts of records; None: one without budgets and warninglists.
            making: What facts are made again with, after deletions and in rebuilds; None: they aren't.
            read: How much is taken at once.
            retry: How long it waits for a store that fails.
            on_applied: After each batch: what became of it, seconds it took.
        """
        super().__init__(retry)
        self._journal = journal
        self._writer = writer
        self._identities = identities
        self._clock = clock
        self._work = work or FactWork(journal.journal_id)
        self._making = making
        self._rebuild: Rebuild | None = None
        self._knew_through = 0
        self._may_be_begun = True
        self._limits = read
        self._on_applied = on_applied
        self._deleted = DeletedRecords(journal)
        self._notice = ""
        self._end: int | None = None
        """Where the journal ended before anything came in, however long the graph is away; `_NEVER` once the graph has heard of it."""
        self._oldest_ns = 0
        self._vertices = self._edges = self._refused = 0
        self._worked_s = 0.0
        self._fitting = Fitting()
        self._ahead = OneAhead()
        self._under_way: tuple[RecordMarks, ...] = ()
        """Of what `_ahead` may still be keeping."""
        self._taken = 0
        """What is applied once that is kept."""

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
            notice="; ".join(filter(None, (self._rebuilding(), self._notice, self._work.notice))),
        )

    async def run(self) -> None:
        """Ask the store what is missing, then follow the journal until cancelled.

        Raises:
            CorruptionError: The journal is damaged at the next position.
        """
        self._state = ProjectionState.STARTING
        self._end = self._journal.head()[SHARD] if self._end is None else self._end
        try:
            while True:
                try:
                    await self._follow(await self._begin(self._end))
                except NotFoundError:
                    self._state = ProjectionState.STARTING  # frames went while we were behind
        except asyncio.CancelledError:
            self._state = ProjectionState.STOPPED
            raise
        except Exception as error:
            self._state, self._problem = ProjectionState.FAILED, str(error)
            raise
        finally:
            await self._ahead.drop()
            self._under_way, self._taken = (), 0
            self._work.close()

    async def take_out(self, deletion: Deletion, position: int, *, through: int, patiently: Patiently) -> None:
        """Take out of the graph what only deleted records told. Idempotent; not while `run` does it.

        Args:
            deletion: Which.
            position: Where it stands in the journal.
            through: The last position that the graph has applied.
            patiently: For what the stores may fail at.
        """
        if self._making is not None:
            instance = self._journal.journal_id
            work = DeletionOfFacts(self._making, instance, make=self._pieces, apply=self._apply_again)
            await work.take_out(deletion, position, through=through, patiently=patiently)

    async def _begin(self, end: int) -> int:
        """Where to go on. What the journal no longer has is made from the store in a rebuild; else it is passed over, and said."""
        stream, parts = self.origin(0, 0).stream, self.origin(0, 0, part=_ROWS).stream
        gone = await self._patiently(lambda: self._writer.rewind(stream, end, parts=parts))
        self._end = _NEVER
        notices = [lost(gone[0][0], gone[-1][1])] if gone else []
        if self._making is not None:
            self._rebuild = await self._patiently(self._making.rebuilds.current)
        if self._rebuild is not None:
            self._rebuild = replace(self._rebuild, through=min(self._rebuild.through, self._journal.head()[SHARD]))
            self._applied = 0
        head, tail = self._journal.head()[SHARD], self._journal.tail()[SHARD]
        if self._making is not None and await self._patiently(self._making.slices.is_empty):
            # Nothing is there yet, no part of a frame either, so no deletion up to here will find anything to take out.
            self._deleted.begin(tail - 1)
            await self._deleted.learn()
            self._knew_through = head
        gone = await self._refilled()
        head, tail = self._journal.head()[SHARD], self._journal.tail()[SHARD]
        missing = await self._missing(tail, head)
        if gone:
            notices.append(never_applied(gone[0][0], gone[-1][1]))
        self._notice = "; ".join(notices)
        if notices:
            LOG.warning("graph isn't what the journal held", extra={"notice": self._notice})
        first = missing[0][0] if missing else head + 1
        self._deleted.begin(first - 1)
        self._may_be_begun = True
        await self._passed(first - 1)
        return first - 1

    async def _refilled(self) -> Sequence[tuple[int, int]]:
        """In a rebuild, make from the store what the journal has let go of; tells what is missing then."""
        while True:
            tail = self._journal.tail()[SHARD]
            gone = await self._missing(1, tail - 1)
            if not gone or self._making is None or self._rebuild is None:
                return gone
            self._state, stored = ProjectionState.RUNNING, self._making.stored
            self._may_be_begun = True
            self._deleted.begin(tail - 1)
            for first, last in gone:
                after = first - 1
                while after < last:
                    page = await self._patiently(functools.partial(stored.page, after + 1, last))
                    await self._deleted.learn()
                    await self._take_found(page.first, page.last, page.found)
                    await self._passed(page.last)
                    after = page.last

    async def _missing(self, first: int, last: int) -> Sequence[tuple[int, int]]:
        if last < first:
            return ()
        return await self._patiently(lambda: self._writer.missing(self.origin(first, last)))

    async def _follow(self, after: int) -> None:
        reader = ReadAhead(self._journal, SHARD, self._clock, self._limits)
        async with reader.running(after):
            self._state, self._problem = ProjectionState.RUNNING, ""
            while True:
                frames = await reader.take()
                self._oldest_ns = frames[0].time_ns
                await self._take(frames)
                last = frames[-1].position
                if reader.held_rows and (self._rebuild is None or last < self._rebuild.through):
                    self._taken = last  # facts of the next ones are made while the last of these are kept
                else:
                    await self._passed(last)

    async def _take(self, frames: Sequence[Frame]) -> None:
        """Apply frames, in as many batches as they need."""
        await self._deleted.learn()
        for place, group in enumerate(self._groups(frames)):
            position = group[0].position
            if place or group[0].entry.deletions:
                await self._passed(position - 1)
            if position > self._knew_through:
                for deletion in group[0].entry.deletions:
                    await self.take_out(deletion, position, through=position - 1, patiently=self._patiently)
            found = [(frame.position, frame.entry.batch) for frame in group if frame.entry.batch is not None]
            await self._take_found(position, group[-1].position, found)

    def _groups(self, frames: Sequence[Frame]) -> list[list[Frame]]:
        """Frames, cut before each that deletes something and behind the last one of a rebuild."""
        end = self._rebuild.through if self._rebuild is not None else 0
        groups: list[list[Frame]] = []
        for frame in frames:
            if not groups or frame.entry.deletions or frame.position == end + 1:
                groups.append([])
            groups[-1].append(frame)
        return groups

    async def _take_found(self, first: int, last: int, found: Found) -> None:
        """Apply the records of some positions, which say nothing else."""
        if found and await self._is_begun(found[0][0]):
            # It was begun in parts, so it must end so, even if deletions have made it small.
            position = found[0][0]
            await self._take_in_parts(first, position, *found[0])
            if position < last:
                await self._take_found(position + 1, last, found[1:])
            return
        kept = [(position, await asyncio.to_thread(self._deleted.without, one, position)) for position, one in found]
        facts = await self._facts(kept, last)
        if facts is not None:
            await self._apply(self.origin(first, last), facts)
        elif len(found) > 1:
            middle = len(found) // 2
            begin = found[middle][0]
            await self._take_found(first, begin - 1, found[:middle])
            await self._take_found(begin, last, found[middle:])
        else:
            await self._take_in_parts(first, last, *found[0])

    async def _is_begun(self, position: int) -> bool:
        """Whether some rows of a frame were applied and others weren't: only the first one behind a start may be so."""
        if not self._may_be_begun:
            return False
        self._may_be_begun = False
        whole = self.origin(0, _ROWS_END, part=f"{_ROWS}{position}")
        return await self._patiently(lambda: self._writer.missing(whole)) != [(0, _ROWS_END)]

    async def _take_in_parts(self, first: int, last: int, position: int, records: pa.RecordBatch) -> None:
        """Apply a frame that has too many facts: its rows are a stream of their own, and an empty batch says that the frame is done.

        Rows are counted with those that are deleted, so that parts are the same ones whenever a deletion comes.
        """
        rows = f"{_ROWS}{position}"
        missing = await self._patiently(lambda: self._writer.missing(self.origin(0, len(records) - 1, part=rows)))
        size = _PART_ROWS
        for begin, end in missing:
            start = begin
            while start <= end:
                part = records.slice(start, min(size, end + 1 - start))
                kept = await asyncio.to_thread(self._deleted.without, part, position, first_row=start)
                facts = await self._facts([(position, kept)], position)
                if facts is None:
                    size = max(1, len(part) // 2)
                    continue
                await self._apply(self.origin(start, start + len(part) - 1, part=rows), facts)
                start += len(part)
        nothing = await self._facts([], position)
        if nothing is not None:
            await self._apply(self.origin(first, last), nothing)

    async def _pieces(self, found: Found, through: int) -> AsyncIterator[Facts]:
        """Facts of some records, in as many pieces as they need."""
        facts = await self._facts(found, through)
        if facts is not None:
            yield facts
            return
        position, records = found[0]
        middle = len(found) // 2 or len(records) // 2
        halves = (
            (found[:middle], found[middle:])
            if len(found) > 1
            else ([(position, records.slice(0, middle))], [(position, records.slice(middle))])
        )
        for half in halves:
            async for piece in self._pieces(half, through):
                yield piece

    async def _apply_again(self, found: Found, origin: Callable[[], Origin]) -> None:
        async for facts in self._pieces(found, found[-1][0]):
            await self._apply(origin(), facts, is_news=False)
        await self._settle()

    async def _facts(self, batches: Sequence[tuple[int, pa.RecordBatch]], through: int) -> Facts | None:
        """Facts of some records; None: they are too many for one batch."""
        await self._work.rest()
        began_s = self._clock.monotonic_s()
        instance, ask = self._journal.journal_id, besides(self._writer.knows, self._under_way)
        fresh = await self._patiently(lambda: fresh_records(batches, instance, ask))
        row_count = sum(len(batch) for _, batch in fresh.batches)
        if row_count > self._fitting.rows_max:
            return None
        looked = await self._work.look(fresh.batches)
        if len(looked.observations) > self._work.values_max and row_count > 1:
            return None
        tokens = looked.tokens()
        learned = await self._patiently(lambda: self._identities.learn(tokens, through=through))
        facts = await self._work.facts(looked, lambda name, values: self._identities.of(name, values, learned))
        self._worked_s += self._clock.monotonic_s() - began_s
        fact_count = max(len(facts.vertices), len(facts.edges))
        self._fitting.learn(row_count, fact_count)
        return replace(facts, records=fresh.marks) if fact_count <= ROWS_MAX else None

    async def _apply(self, origin: Origin, facts: Facts, *, is_news: bool = True) -> None:
        """Keep facts, behind those that came before; `_ahead` knows when it is done."""
        await self._ahead.put(self._keep(origin, facts, is_news=is_news))
        self._under_way = facts.records
        if self._taken > self._applied:
            self._applied = self._taken  # what came before is kept
            await self._tell()

    async def _settle(self) -> None:
        """Wait until everything is kept. The graph may be asked for all of it then, and may be changed by others."""
        await self._ahead.settle()
        self._under_way = ()

    async def _keep(self, origin: Origin, facts: Facts, *, is_news: bool) -> None:
        began_s = self._clock.monotonic_s()
        batch = GraphBatch(
            origin, facts.provenances, facts.vertices, facts.edges, profiles=facts.profiles, records=facts.records
        )
        is_known = self._rebuild is not None or not is_news
        writer = self._making.quiet if self._making is not None and is_known else self._writer
        applied = await self._patiently(lambda: writer.apply(batch))
        if max(len(facts.vertices), len(facts.edges)) >= LARGE_FACTS:
            await asyncio.to_thread(give_back)
        self._vertices += applied.new_vertex_count
        self._edges += applied.new_edge_count
        self._refused += len(applied.refused)
        for refused in applied.refused[:1]:
            LOG.warning(
                "facts were refused",
                extra={"count": len(applied.refused), "reason": refused.reason, "position": origin.first},
            )
        took_s = self._clock.monotonic_s() - began_s
        self._on_applied(applied, took_s)
        worked_s, self._worked_s = self._worked_s + took_s, 0.0
        self._work.worked(worked_s)

    async def _passed(self, position: int) -> None:
        await self._settle()
        self._applied, self._taken = max(self._applied, position), 0
        rebuild, making = self._rebuild, self._making
        if rebuild is not None and making is not None and self._applied >= rebuild.through:
            now_ns = self._clock.now_ns()
            await self._patiently(lambda: making.rebuilds.end(rebuild.rebuild_id, time_ns=now_ns, notice=""))
            self._rebuild = None
        await self._tell()

    def _rebuilding(self) -> str:
        rebuild = self._rebuild
        if rebuild is None:
            return ""
        return f"the graph is being made again: {self._applied:,} of {rebuild.through:,} journal positions"

    def origin(self, first: int, last: int, *, part: str = "") -> Origin:
        """Of the facts of some positions; of the rows of one of them, if a part is named."""
        return Origin(f"journal/{self._journal.journal_id}/{SHARD}{part}", first, last)
