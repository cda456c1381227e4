"""What a query may ask of the graph, and what the graph answers: entities as columns, as many as one question may carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GraphTerm:
    """A name of `expression.fields.GRAPH_FIELDS`, and with what it is asked."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"


@dataclass(frozen=True, slots=True)
class Members:
    """The entities of a term that a reader may see."""

    values: Mapping[str, Sequence[str]] = field(repr=False)
    """Canonical values by type; tokens in brackets, where they are personal. Each once."""
    entity_count: int
    truncated: bool = False
    """There are more than were asked for."""
