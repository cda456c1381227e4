"""How far the projection into the graph has come."""

from __future__ import annotations

from dataclasses import dataclass

from heimdall_server.projections.warm import ProjectionState


def never_applied(first: int, last: int) -> str:
    """What is said of positions that the journal let go of too early."""
    return (
        f"the graph misses what journal positions {first} to {last} held: the journal let go of them before they were applied; "
        "`heimdall graph rebuild` makes what the store still has of it"
    )


def lost(first: int, last: int) -> str:
    """What is said of positions that a restored journal hasn't any more, or has anew."""
    return (
        f"the journal was restored from a backup: what it had held at journal positions {first} to {last} stands in the graph, and logs "
        "that came in again count twice; `heimdall graph rebuild` makes it of what is there"
    )


@dataclass(frozen=True, slots=True)
class GraphProgress:
    """How far the projection has come."""

    state: ProjectionState
    applied: int
    """Facts of every frame up to this position are in the graph, or were skipped."""
    lag_positions: int
    lag_s: float
    """Age of the oldest frame that isn't applied; 0: none."""
    vertex_count: int
    """New ones since the start."""
    edge_count: int
    refused_count: int
    """Facts that the graph couldn't keep, since the start."""
    retry_count: int
    problem: str = ""
    """The last failure, while RETRYING or FAILED."""
    notice: str = ""
    """What is missing, if anything is."""
