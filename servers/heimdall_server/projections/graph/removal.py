"""Takes erased values out of the graph, and sees to it that none comes back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from heimdall_server.ports.graph import GraphEraser
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities

_WAIT_S: Final = 1.0


class GraphRemoval:
    """See the module."""

    def __init__(
        self, eraser: GraphEraser, projection: GraphProjection | None = None, identities: Identities | None = None
    ) -> None:
        """Take what it acts on.

        Args:
            eraser: Of the store.
            projection: What may still bring facts of the erased values; None: nothing follows the journal here.
            identities: What the projection remembers of tokens.
        """
        self._eraser = eraser
        self._projection = projection
        self._identities = identities

    async def erase(self, tokens: Collection[str], *, through: int) -> bool:
        """Delete the entities that tokens stand for. Idempotent.

        Args:
            tokens: In brackets; the vault has no values of them any more.
            through: Position of the journal up to which records may name them.

        Returns:
            False: the graph isn't that far yet; ask again.

        Raises:
            StoreError: The store failed.
        """
        if self._projection is not None and not await self._projection.wait_applied(through, _WAIT_S):
            return False
        # Only now: what was on its way has been applied, and what comes later finds no value behind the token.
        if self._identities is not None:
            self._identities.forget(tokens)
        await self._eraser.erase(tokens)
        return True
