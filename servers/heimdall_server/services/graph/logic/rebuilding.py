"""Making the graph again, and what its store refused: for whoever runs the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError, NotFoundError
from heimdall_server.domain.graph_making import Rebuild, RefusedRow
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.graph_making import GraphRebuilds, RefusedFacts
from heimdall_server.services.graph.model import Curator

PERMISSION: Final = "graph.rebuild"
REFUSED_COUNT: Final = 100
"""Refused facts that are listed where nobody says how many."""


@dataclass(frozen=True, slots=True)
class RebuildState:
    """A rebuild, and how far it is."""

    rebuild: Rebuild
    done: int
    """Positions that are made again."""
    problem: str = ""
    """What it fails at, and tries again."""


@dataclass(frozen=True, slots=True)
class RebuildingPorts:
    """What rebuilding needs."""

    begin: Callable[[str, str], Awaitable[Rebuild]]
    """Begins one, by whom and why, or tells of the one that is under way. Raises StoreError."""
    rebuilds: GraphRebuilds
    refused: RefusedFacts
    progress: Callable[[], tuple[int, str]]
    """Position up to which the graph is made, and what it fails at."""
    audit: AuditLog
    mask_text: Callable[[str], str]
    """Puts classes in place of personal data. Runs in a thread."""


class GraphRebuilding:
    """See the module. All methods raise StoreError when the store or the audit log fails."""

    def __init__(self, ports: RebuildingPorts) -> None:
        self._ports = ports

    async def rebuild(self, caller: Curator, reason: str) -> RebuildState:
        """Begin to make the graph again, or tell of the rebuild that is under way.

        Raises:
            InvalidArgumentError: The reason holds a NUL.
        """
        if "\0" in reason:
            raise InvalidArgumentError("reason", "it must not hold a NUL character")
        masked = await asyncio.to_thread(self._ports.mask_text, reason) if reason else ""
        details = {"method": caller.method}
        await self._ports.audit.append(Act(caller.actor, PERMISSION, "allowed", reason, "", details, caller.request_id))
        return self._state(await self._ports.begin(caller.actor, masked))

    async def state(self, rebuild_id: str) -> RebuildState:
        """How far a rebuild is; empty: the newest one.

        Raises:
            NotFoundError: There is none.
        """
        rebuilds = self._ports.rebuilds
        rebuild = await (rebuilds.get(rebuild_id) if rebuild_id else rebuilds.last())
        if rebuild is None:
            raise NotFoundError("rebuild", rebuild_id or "of the graph")
        return self._state(rebuild)

    async def refused(self, count_max: int) -> Sequence[RefusedRow]:
        """What the store refused, the newest first."""
        return await self._ports.refused.list(count_max=count_max or REFUSED_COUNT)

    def _state(self, rebuild: Rebuild) -> RebuildState:
        if rebuild.end_time_ns:
            return RebuildState(rebuild, rebuild.through)
        done, problem = self._ports.progress()
        return RebuildState(rebuild, min(done, rebuild.through), problem)
