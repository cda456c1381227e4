"""What the append protocol tells its driver, and what it adds up over all streams of a source."""

from __future__ import annotations

from dataclasses import dataclass, field

from heimdall.ingest.v1 import ingest_service_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client import errors


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream runs; go on writing at `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Acked:
    """Something was acknowledged; `advanced` if a place moved."""

    advanced: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A batch was refused for now; call `pause_until`."""

    error: errors.RpcError


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is going away: wait for the stream's end, then connect again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The source is complete."""

    already_complete: bool = False


Event = Opened | Acked | Refused | Draining | Finished


@dataclass(slots=True)
class Tally:
    """What became of the records so far, over all streams."""

    accepted_count: int = 0
    rejected_count: int = 0
    row_errors: list[ingest_service_pb2.AppendResponse.RowError] = field(default_factory=list)
    """The first 100."""
    position: position_pb2.Position = field(default_factory=position_pb2.Position)
    """Of the newest record."""
