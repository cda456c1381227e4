"""Values of how the graph is made, and made again: rebuilds, and facts that its store refused."""

from __future__ import annotations

from dataclasses import dataclass

from heimdall_server.domain.graph_batches import Origin

FACT_METHODS = ("dump-field", "log-observable")
"""Methods of the provenances whose facts are made of records: what deletions take out and a rebuild makes again."""
REFUSED_COUNT_MAX = 1_000
"""Refused facts that are kept: the newest."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A making anew of the observed facts."""

    rebuild_id: str
    """32 hexadecimal digits."""
    actor: str
    reason: str
    through: int
    """Journal position up to which facts are made again."""
    create_time_ns: int
    end_time_ns: int = 0
    """0: not yet."""
    notice: str = ""
    """What couldn't be made; empty: nothing that is known."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A fact that the store refused. Its value isn't kept: it may be personal."""

    time_ns: int
    origin: Origin
    """What its batch was made of."""
    kind: str
    """Of the vertex or edge, as `VertexKind` and `EdgeKind` name it."""
    id: bytes
    """Of a vertex; of an edge its start."""
    end_id: bytes
    """Of an edge its end; empty: it is a vertex."""
    source: str
    dump: str
    reason: str
