"""What makes the graph again: after deletions, and when somebody asks for it. Also for a graph that is no longer followed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph_making import GraphRebuilds
from heimdall_server.ports.journal import Deletion, Journal
from heimdall_server.projections.graph.follower import SHARD, GraphProjection
from heimdall_server.projections.graph.making import MakingPorts
from heimdall_server.projections.graph.stored import StoredRecords
from heimdall_server.projections.graph.work import FactWork
from heimdall_server.storage.postgres.graph.rebuilds import PostgresGraphRebuilds
from heimdall_server.storage.postgres.graph.remaking import PostgresGraphSlices
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.tasks import cancel, follow

_OTHERWISE: Final = "the graph isn't brought up to date"


def make_making(privacy: PrivacyParts, parts: Parts) -> MakingPorts:
    """What facts are made again with."""
    pool = privacy.postgres.pool

    async def stored(position: int, timeout_s: float) -> bool:
        return await parts.warm.wait_through({SHARD: position}, timeout_s)

    return MakingPorts(
        stored=StoredRecords(parts.store),
        slices=PostgresGraphSlices(pool.used_by("graph_making")),
        rebuilds=PostgresGraphRebuilds(pool.used_by("graph_making")),
        quiet=PostgresGraphWriter(pool.used_by("graph_writer")),
        wait_stored=stored,
    )


class GraphRunner:
    """Runs the projection, and begins it anew for a rebuild. For one event loop."""

    def __init__(self, projection: GraphProjection, rebuilds: GraphRebuilds, journal: Journal, clock: Clock) -> None:
        self._projection = projection
        self._rebuilds = rebuilds
        self._journal = journal
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def start(self) -> None:
        """Follow the journal in the background."""
        self._task = asyncio.create_task(follow(self._projection.run, _OTHERWISE), name="graph")

    async def stop(self) -> None:
        """Stop following. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel([task])

    async def rebuild(self, actor: str, reason: str) -> Rebuild:
        """Drop what records told and begin to make it again; while a rebuild is under way: tell of that one.

        Args:
            actor: Who asks.
            reason: Why, without personal data.

        Raises:
            StoreError: The store failed. Either nothing was dropped, or the rebuild has begun.
        """
        async with self._turn:
            current = await self._rebuilds.current()
            if current is not None:
                return current
            # While it is dropped nobody may be in the middle of adding to it: what is there then would have no gap before it.
            await self.stop()
            try:
                through, now_ns = self._journal.head()[SHARD], self._clock.now_ns()
                rebuild = Rebuild(uuid.uuid4().hex, actor, reason, through, now_ns)
                await self._rebuilds.begin(rebuild)
            finally:
                self.start()
        return rebuild


class UnfollowedGraph:
    """Takes facts out of a graph that this process doesn't bring up to date."""

    def __init__(self, projection: GraphProjection, work: FactWork, making: MakingPorts, journal: Journal) -> None:
        """Take what it acts on.

        Args:
            projection: Which doesn't run.
            work: What it makes facts with.
            making: What facts are made again with.
            journal: What was followed once.
        """
        self._projection = projection
        self._work = work
        self._making = making
        self._journal = journal

    async def delete(self, deletion: Deletion, position: int) -> bool:
        """Take out what only deleted records told. Raises StoreError."""
        if await self._making.slices.is_empty():
            return True
        missing = await self._making.quiet.missing(self._projection.origin(1, position - 1))
        is_behind = bool(missing) and missing[-1][1] == position - 1
        through = missing[-1][0] - 1 if is_behind else position - 1
        if through:
            try:
                await self._projection.take_out(deletion, position, through=through, patiently=_once)
            finally:
                self._work.close()
        return True


async def _once(act: Callable[[], Awaitable[None]]) -> None:
    await act()
