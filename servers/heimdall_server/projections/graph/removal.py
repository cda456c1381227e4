"""Takes what was erased or deleted out of the graph, and sees to it that none of it comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from heimdall_server.ports.graph import GraphEraser
from heimdall_server.ports.journal import Deletion
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.identities import Identities

_WAIT_S: Final = 1.0


class GraphRemoval:
    """See the module."""

    def __init__(
        self,
        eraser: GraphEraser,
        projection: GraphProjection | None = None,
        identities: Identities | None = None,
        delete_unfollowed: Callable[[Deletion, int], Awaitable[bool]] | None = None,
    ) -> None:
        """Take what it acts on.

        Args:
            eraser: Of the store.
            projection: What may still bring facts of the erased values; None: nothing follows the journal here.
            identities: What the projection remembers of tokens.
            delete_unfollowed: Takes out what deleted records told, where nothing follows the journal here.
        """
        self._eraser = eraser
        self._projection = projection
        self._identities = identities
        self._delete_unfollowed = delete_unfollowed

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

    async def delete(self, deletion: Deletion, position: int) -> bool:
        """Take out what only deleted records told. Idempotent.

        Args:
            deletion: Which.
            position: Where it stands in the journal.

        Returns:
            False: the graph isn't that far yet; ask again.

        Raises:
            StoreError: A store failed; some may be gone.
        """
        if self._projection is not None:  # it does so itself when it comes by there
            return await self._projection.wait_applied(position, _WAIT_S)
        return self._delete_unfollowed is None or await self._delete_unfollowed(deletion, position)
