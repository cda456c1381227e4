"""What an operator is shown, as values that wire translation and logic share."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heimdall_server.domain.datasets import Dataset
from heimdall_server.ports.journal import JournalState
from heimdall_server.ports.log_store import DatasetUsage


class Health(enum.Enum):
    """How a part is."""

    SERVING = "serving"
    DEGRADED = "degraded"
    NOT_SERVING = "not_serving"


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """One reader of the journal."""

    name: str
    required: bool
    state: str
    """`running`, `retrying`, `needs_rebuild`, `stopped`."""
    applied: Mapping[int, int]
    lag_frames: int
    lag_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class IngestState:
    """Counts of ingest since the process started."""

    accepted_count: int
    rejected_count: int
    dead_letter_count: int
    stream_count: int
    source_count: int


@dataclass(frozen=True, slots=True)
class StoreState:
    """One engine."""

    name: str
    engine: str
    health: Health
    problem: str
    record_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """How the instance is."""

    instance_id: str
    version: str
    start_time_ns: int
    services: Mapping[str, Health]
    stores: Sequence[StoreState]
    journal: JournalState | None
    projections: Sequence[ProjectionState]
    ingest: IngestState | None
    watch_count: int
    resident_bytes: int
    certificate_expire_ns: int
    notices: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DatasetState:
    """A dataset and what it holds."""

    dataset: Dataset
    usage: DatasetUsage | None
