"""What a watch stream is asked and what it says, as values that wire translation and logic share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from heimdall_server.domain.errors import HeimdallError
from heimdall_server.ports.journal import Positions
from heimdall_server.services.query.model import Question, TokenAfter


@dataclass(frozen=True, slots=True)
class Start:
    """Where a watch begins; nothing set: now."""

    resume_token: bytes = b""
    since_ns: int | None = None
    last_count: int | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """Add a watch."""

    watch_id: str
    question: Question
    start: Start = field(default_factory=Start)
    json: bool = False
    interval_s: float = 5.0
    datasets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """Change a watch's question; it goes on from where it is."""

    watch_id: str
    question: Question


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a watch."""

    watch_id: str


@dataclass(frozen=True, slots=True)
class AskProgress:
    """Every watch shall say how far it is."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A watch or an update whose question breaks a rule of the language: ends the watch, not the stream."""

    watch_id: str
    error: HeimdallError
    update: bool
    resume_token: bytes = b""


Request = Create | Update | Cancel | AskProgress | Refused


@dataclass(frozen=True, slots=True)
class Created:
    """A watch runs (again, after an update)."""

    watch_id: str
    schema: pa.Schema
    canonical_text: str
    aggregates: bool
    json: bool


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows as the body of an Arrow message, which is what most clients get."""

    schema: pa.Schema
    row_count: int
    message: pa.Buffer

    @property
    def size_bytes(self) -> int:
        """What they weigh."""
        return int(self.message.size)

    def batch(self) -> pa.RecordBatch:
        """The rows; they lie where the bytes do."""
        return pa.ipc.read_record_batch(self.message, self.schema)


@dataclass(frozen=True, slots=True)
class Rows:
    """Matching records, in journal order."""

    watch_id: str
    batch: pa.RecordBatch | Packed
    token_after: TokenAfter
    history: bool
    json: bool
    size_bytes: int = 0
    """What the batch weighs, where that is known: asking a batch costs more than sending a small one."""


@dataclass(frozen=True, slots=True)
class AggregateRows:
    """Upserts of one bucket's groups."""

    watch_id: str
    batch: pa.RecordBatch
    bucket_ns: int | None
    revision: int
    through: bytes
    json: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a watch is."""

    watch_id: str
    through: bytes
    positions: Positions


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A watch ended: on demand (no error), or because of one."""

    watch_id: str
    error: BaseException | None
    through: bytes


Event = Created | Rows | AggregateRows | Progress | Cancelled


def size_of(event: Event) -> int:
    """Bytes of the rows of an event; 0: it has none."""
    if not isinstance(event, Rows | AggregateRows):
        return 0
    if isinstance(event, Rows) and event.size_bytes:
        return event.size_bytes
    return event.batch.size_bytes if isinstance(event.batch, Packed) else int(event.batch.nbytes)
