"""What a query asks of the graph: the entities that something is said of, all at once."""

from __future__ import annotations

from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_sets import GraphTerm, Members


class GraphSets(Protocol):
    """Entities for queries.

    All raise StoreError when the engine fails, QueryTimeoutError when it is too slow.
    """

    async def members(self, term: GraphTerm, *, tlp_max: Tlp, count_max: int) -> Members:
        """The entities that a term means, together with all that they are merged with.

        Args:
            term: What is asked: `planner.graph_terms` accepts it.
            tlp_max: The reader's ceiling: who says so, and the entity itself, must be at or below it.
            count_max: More than these aren't told; then none are.
        """
        ...
