"""What ingest is told and what it says, as values that wire translation and logic share."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from heimdall_server.domain.decoding import Format, RowError
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.ports.journal import SourceKey


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """What a dump's opener said."""

    name: str
    content_sha256: str
    """Hex."""
    file_name: str = ""
    origin: str = ""
    actor: str = ""
    time_ns: int = 0

    def to_json(self) -> str:
        """For a journal mark."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(slots=True)
class SourceState:
    """One source, as the journal has it."""

    key: SourceKey
    next_offset: int = 0
    """Everything before it is decided and durable."""
    epoch: int = 0
    format: Format | None = None
    accepted_count: int = 0
    rejected_count: int = 0
    position: int = 0
    finished: bool = False
    dump: DumpFacts | None = None
    batches: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=REPEAT_WINDOW_COUNT))
    """(offset, next_offset, crc32c) of the newest settled batches, oldest first."""

    @property
    def record_count(self) -> int:
        """Records decided, good and bad."""
        return self.accepted_count + self.rejected_count


REPEAT_WINDOW_COUNT: Final = 64


@dataclass(frozen=True, slots=True)
class OpenIn:
    """What a client opens."""

    source: str
    format: Format | None
    service: str = ""
    host: str = ""
    time_zone: str = ""
    reference_time_ns: int = 0
    dataset: str = ""
    tlp: str = ""
    file_name: str = ""
    dump: DumpFacts | None = None


@dataclass(frozen=True, slots=True)
class Acked:
    """Everything before `next_offset` is decided."""

    next_offset: int
    received_offset: int
    position: int
    accepted_count: int = 0
    rejected_count: int = 0
    errors: Sequence[RowError] = ()
    format: Format | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Nacked:
    """Nothing of the batch at `offset` was kept; go back there."""

    offset: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Finished:
    """The source is complete."""

    accepted_count: int
    rejected_count: int
    next_offset: int
    position: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream must end with an error."""

    error: HeimdallError


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The client sends nothing more."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is going away."""


Event = Acked | Nacked | Finished | Ended | HalfClosed | Draining


@dataclass(frozen=True, slots=True)
class BatchIn:
    """A batch as the client sent it."""

    offset: int
    next_offset: int
    crc32c: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class LetterInfo:
    """A dead letter without its bytes."""

    letter_id: str
    """`<position>-<index in the frame>`."""
    position: int
    index: int
    key: SourceKey
    offset: int
    row: int
    reason: str
    field: str
    time_ns: int
    raw_size_bytes: int
    format: str
    """Name of the format kind."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter."""

    letter_id: str
    accepted_count: int = 0
    error: BaseException | None = None
