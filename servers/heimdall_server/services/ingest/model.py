"""What ingest is told and what it says, as values that wire translation and logic share."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from heimdall_server.domain.decoding import Format, RowError
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
    tlp: str | None = None
    """How its records are marked; empty: they aren't. None: it was taken in before this was kept."""

    def to_json(self) -> str:
        """For a journal mark."""
        return json.dumps(asdict(self), separators=(",", ":"))


REPEAT_WINDOW_COUNT: Final = 64
"""Settled client batches a source whose CRC is remembered."""
ROW_ERRORS_MAX: Final = 100
"""Row errors that an acknowledgement tells."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The middle of an over-long record: what is left of it is passed over."""

    left_bytes: int = 0
    """How much of it is known to be left; 0: its end isn't known."""
    ends: bool = False
    """Whether the record ends after `left_bytes`."""


@dataclass(slots=True)
class SourceState:
    """One source, as the journal has it."""

    key: SourceKey
    next_offset: int = 0
    """Everything before it is decided and durable."""
    epoch: int = 0
    format: Format | None = None
    skip: Skip | None = None
    """`next_offset` is in the middle of an over-long record."""
    accepted_count: int = 0
    rejected_count: int = 0
    position: int = 0
    finished: bool = False
    dump: DumpFacts | None = None
    batches: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=REPEAT_WINDOW_COUNT))
    """(offset, next_offset, crc32c) of the newest settled batches, oldest first."""
    row: bytes = b""
    """The state as a snapshot has it; made when it changes, so that a snapshot of many sources takes no time."""

    @property
    def record_count(self) -> int:
        """Records decided, good and bad."""
        return self.accepted_count + self.rejected_count


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
    """The first `ROW_ERRORS_MAX`."""
    format: Format | None = None
    repeated: bool = False

    def joined(self, later: Acked) -> Acked | None:
        """One acknowledgement that says both; None: they don't go together."""
        if self.repeated != later.repeated:
            return None
        # The later one's rows count from its own range's beginning.
        shift = self.accepted_count + self.rejected_count
        moved = [RowError(e.row + shift, e.offset, e.reason, e.field) for e in later.errors]
        return Acked(
            next_offset=max(self.next_offset, later.next_offset),
            received_offset=max(self.received_offset, later.received_offset),
            position=max(self.position, later.position),
            accepted_count=shift - self.rejected_count + later.accepted_count,
            rejected_count=self.rejected_count + later.rejected_count,
            errors=[*self.errors, *moved][:ROW_ERRORS_MAX],
            format=later.format or self.format,
            repeated=self.repeated,
        )


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

    error: BaseException


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is going away."""


Event = Acked | Nacked | Finished | Ended | Draining


@dataclass(frozen=True, slots=True)
class BatchIn:
    """A batch as the client sent it."""

    offset: int
    next_offset: int
    crc32c: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class FlushIn:
    """Decode what is held and whole."""


@dataclass(frozen=True, slots=True)
class FinishIn:
    """The source has no more bytes."""


RequestIn = OpenIn | BatchIn | FlushIn | FinishIn
"""A message of the client's half of an Append stream."""


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
    deleted_count: int = 0
    """Records that a deletion means, and that aren't stored."""
    error: BaseException | None = None
