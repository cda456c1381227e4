"""Erasures as the ledger knows them, told to what lies in PostgreSQL: the vault at each start, the graph when a backup came back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from heimdall_server.domain.errors import StoreError
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.operations import OperationLog
from heimdall_server.ports.vault import Tombstone
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.vault import VaultHooks
from heimdall_server.services.privacy.logic import metrics
from heimdall_server.services.privacy.logic.kinds.erasure import erased_by
from heimdall_server.services.privacy.logic.kinds.model import SHARD
from heimdall_server.wiring.tasks import cancel, follow

_RETRY_S: Final = 5.0
_LOG: Final = logging.getLogger(__name__)


class KnownErasures:
    """See the module. For one event loop."""

    def __init__(self, log: OperationLog) -> None:
        """Take the ledger's operations."""
        self._log = log
        self._came_back = asyncio.Event()

    def hooks(self) -> VaultHooks:
        """For the projection into the vault: what it buries first, and who hears that some of it was there again."""
        return VaultHooks(self._tombstones, on_applied=metrics.count_applied, on_back=self._came_back.set)

    def guard(self, graph: GraphRemoval, journal: Journal, stack: contextlib.AsyncExitStack) -> None:
        """Erase in the graph once more, whenever the vault held erased values again: both lie in one database.

        Args:
            graph: Waits for nobody while the vault is fine.
            journal: The graph must have come as far before.
            stack: Ends it.
        """

        async def watch() -> None:
            while True:
                await self._came_back.wait()
                self._came_back.clear()
                _LOG.warning("PostgreSQL came back from a backup with erased values; they go again, from the graph too")
                tokens = sorted({str(one.name) for one in await self._tombstones()})
                through = journal.head().get(SHARD, 0)
                while not await _erased(graph, tokens, through):  # noqa: ASYNC110 - nobody tells when it is there again
                    await asyncio.sleep(_RETRY_S)

        task = asyncio.create_task(follow(watch, "what was erased may be in the graph"), name="erasures")
        stack.push_async_callback(cancel, [task])

    async def _tombstones(self) -> list[Tombstone]:
        return [one for operation in await self._log.load() for one in erased_by(operation)]


async def _erased(graph: GraphRemoval, tokens: list[str], through: int) -> bool:
    try:
        return await graph.erase(tokens, through=through)
    except StoreError:
        return False
