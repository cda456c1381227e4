"""Values about dumps that translation and logic share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heimdall_server.domain.graph_dumps import FieldMatch, MatchMethod


@dataclass(frozen=True, slots=True)
class MatchedDumps:
    """What two dumps have in common."""

    matches: Sequence[FieldMatch]
    """Counterparts first, then those that share most."""
    method: MatchMethod
    """How values were compared."""
    truncated: bool
    row_count_a: int
    row_count_b: int
