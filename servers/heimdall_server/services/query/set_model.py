"""What the graph told for a query, as values that logic and wire translation share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.entity_sets import EntitySet
from heimdall_server.domain.expression.tree import Query
from heimdall_server.domain.graph_sets import GraphTerm
from heimdall_server.planner.graph_terms import graph_terms, with_sets

_DIGEST_BITS: Final = 62


@dataclass(frozen=True, slots=True)
class GraphPosition:
    """How far the graph is."""

    applied: int
    """Records of the journal up to here are in it. (Shard 0.)"""
    lag_s: float
    """Age of the oldest record that isn't; 0: none."""


@dataclass(frozen=True, slots=True)
class FoundSets:
    """The sets of a query's terms, and how far the graph was before it was asked for them."""

    sets: Mapping[GraphTerm, EntitySet] = field(default_factory=dict, repr=False)
    position: GraphPosition = GraphPosition(0, 0.0)

    @property
    def digest(self) -> int:
        """What a resume token names them by; 0: there are none."""
        if not self.sets:
            return 0
        state = hashlib.blake2b(digest_size=8)
        for term in sorted(self.sets, key=str):
            state.update(f"{term}\0".encode("utf-8", "surrogatepass") + self.sets[term].digest)
        return int.from_bytes(state.digest()) >> (64 - _DIGEST_BITS) or 1

    def covers(self, query: Query) -> bool:
        """Whether they are all that a query asks."""
        return self.sets.keys() >= set(graph_terms(query))

    def filled(self, query: Query) -> Query:
        """A query that asks these terms, with the sets in their place."""
        return with_sets(query, self.sets)


NO_SETS: Final = FoundSets()
