"""What the graph holds on a subject that only its tokens name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_imports import ImportedEntity


@dataclass(frozen=True, slots=True)
class NamedImport:
    """A row of the log of imports."""

    number: int
    """In the log's order."""
    source: str
    actor: str
    """Who brought it in."""
    create_time_ns: int
    tlp: Tlp
    entities: Sequence[ImportedEntity]
    """All that it speaks of."""
    kept: str = field(repr=False)
    """The object as it was told, JSON, protected; empty: all of it is in the facts."""


class GraphSubjects(Protocol):
    """Finds subjects.

    All raise StoreError when the engine fails or is too slow.
    """

    async def entities(self, tokens: Collection[str]) -> Sequence[bytes] | None:
        """The entities that tokens (in brackets) stand for, by their ids; None: the database never held a graph."""
        ...

    async def imports(
        self, tokens: Collection[str], ids: Collection[bytes], *, after: int, count_max: int
    ) -> Sequence[NamedImport]:
        """Rows of the log of imports that name some of them.

        Args:
            tokens: In brackets.
            ids: Of the entities.
            after: Only rows of greater numbers.
            count_max: At most so many, in their order.
        """
        ...
