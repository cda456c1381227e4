"""How far the projection into the graph has come."""

from __future__ import annotations

from dataclasses import dataclass

from heimdall_server.projections.warm import ProjectionState


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
