"""What was sent without anyone waiting for an answer, on its way through the pipeline: many senders in one job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.decode import syslog, syslog_senders
from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind, RowError
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.ports.journal import SourceKey
from heimdall_server.services.ingest.logic.dead_letters import letters_of
from heimdall_server.services.ingest.logic.jobs import Job, Notes, OwnProtection, Room

LOG: Final = logging.getLogger(__name__)
_SLICE_BYTES_MAX: Final = 1024 * 1024
"""What is decoded at once: it bounds what a job holds as columns, together with `Room`."""
DECODER_FAILED: Final = "the decoder failed on it; the server's log has the detail"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent it."""

    source: str
    address: str = ""
    """Of the sender, without the port."""
    principal: str = ""
    """URI of the identity that was proved; empty: none was."""

    @property
    def sender(self) -> str:
        """Who it is, for bounds: an identity, however many machines it has, else a machine."""
        return self.principal or self.address


@dataclass(slots=True, eq=False)
class Push:
    """Whole messages from one sender."""

    origin: Origin
    framing: str
    """`octet` or `newline`."""
    payload: bytes
    release: Callable[[Push], None]
    """Called once with this, when it is no longer held."""
    problem: str = ""
    """Why it can't be decoded: it becomes a dead letter as it is."""
    errors: list[RowError] = field(default_factory=list)
    received_s: float = field(default_factory=time.monotonic)


class Owner(Protocol):
    """Who hears what became of a job."""

    keep_raw: bool
    generation: int
    """Grows when jobs must come again: those of before aren't wanted any more."""

    def split_off(self) -> None:
        """One more job is under way."""

    def committed(self, job: PushJob) -> None:
        """It is durable."""

    def refused(self, job: PushJob, error: BaseException) -> None:
        """Nothing of it was kept."""

    def dropped(self, job: PushJob) -> None:
        """It was stale."""


@dataclass(slots=True, eq=False)
class PushJob:
    """See the module and `Job`. Senders keep their order in each framing."""

    owner: Owner
    pushes: list[Push]
    context: DecodeContext
    number: tuple[int, ...]
    """Jobs come in this order."""
    generation: int = 0
    accepted_count: int = 0
    left: list[Push] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """See `Job`."""
        return sum(len(push.payload) for push in self.pushes)

    @property
    def rejected_count(self) -> int:
        """Records that became dead letters."""
        return sum(1 if push.problem else len(push.errors) for push in self.pushes)

    @property
    def turn(self) -> Hashable:
        """See `Job`: the owner is fair to senders; together they are one turn."""
        return id(self.owner)

    @property
    def own_protection(self) -> OwnProtection | None:
        """See `Job`."""
        return None

    def absorb(self, later: Job) -> bool:  # noqa: ARG002 - as `Job`
        """See `Job`: the owner makes jobs as large as is good."""
        return False

    def stale(self) -> bool:
        """See `Job`: one before it was refused, and goes first."""
        return self.generation != self.owner.generation

    def taken(self) -> None:
        """See `Job`."""

    def decode(self, observed_time_ns: int, room: Room) -> Sequence[pa.RecordBatch]:
        """See `Job`. Doesn't raise for what the payloads hold: that is each one's `problem` or `errors`."""
        self.context = replace(self.context, observed_time_ns=observed_time_ns)
        batches: list[pa.RecordBatch] = []
        done = 0
        for piece in _slices(self.pushes):
            if room.full:
                break
            for batch in self._decode(piece):
                room.take(batch)
                batches.append(batch)
            done += len(piece)
        self.left = self.pushes[done:]
        self.accepted_count = sum(int(batch.num_rows) for batch in batches)
        return batches

    def _decode(self, pushes: Sequence[Push]) -> Iterator[pa.RecordBatch]:
        for framing in (syslog.OCTET, syslog.NEWLINE):
            same = [push for push in pushes if push.framing == framing and not push.problem]
            for group in _joinable(same):
                yield from self._decode_group(group, framing)

    def _decode_group(self, pushes: Sequence[Push], framing: str) -> Iterator[pa.RecordBatch]:
        sent = [
            syslog_senders.Sent(push.origin.source, push.origin.address, push.payload, push.origin.principal)
            for push in pushes
        ]
        try:
            decoded = syslog_senders.decode(sent, framing, self.context)
        except BaseException as error:  # a native library's panic is no Exception, and must cost its own payload only
            if len(pushes) > 1:
                for push in pushes:
                    yield from self._decode_group([push], framing)
                return
            LOG.error("decoder failed", extra={"event": "ingest.decoder_failed"}, exc_info=error)
            pushes[0].problem = str(error) if isinstance(error, HeimdallError) else DECODER_FAILED
            return
        for push in pushes:
            push.errors = []
        for index, row_error in decoded.errors:
            pushes[index].errors.append(row_error)
        yield decoded.batch

    def split(self) -> Job | None:
        """See `Job`."""
        if not self.left:
            return None
        rest = replace(self, pushes=self.left, left=[], number=(*self.number, 1))
        self.pushes, self.left = self.pushes[: -len(self.left)], []
        self.owner.split_off()
        return rest

    def describe(self, notes: Notes, first_row: int, observed_time_ns: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        bad: dict[tuple[Origin, str], list[RowError]] = {}
        for push in self.pushes:
            errors = push.errors
            if push.problem:
                errors = [RowError(row=0, offset=0, reason=push.problem, raw=push.payload)]
            if errors:
                bad.setdefault((push.origin, push.framing), []).extend(errors)
        for (origin, framing), errors in bad.items():
            notes.dead_letters += letters_of(
                errors,
                key=SourceKey(origin.principal, origin.source),
                format_=Format(FormatKind.SYSLOG, {"framing": framing}),
                context=replace(self.context, source=origin.source, host=origin.address, principal=origin.principal),
                keep_raw=self.owner.keep_raw,
            )

    def begin_commit(self) -> None:
        """See `Job`."""

    def committed(self, position: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        self.owner.committed(self)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        self.owner.refused(self, error)

    def dropped(self) -> None:
        """See `Job`."""
        self.owner.dropped(self)

    def halves(self) -> list[PushJob]:
        """Two jobs of it, to find what in it is bad."""
        middle = len(self.pushes) // 2
        return [
            replace(self, pushes=part, left=[], number=(*self.number, half))
            for half, part in enumerate((self.pushes[:middle], self.pushes[middle:]))
        ]


def _slices(pushes: Sequence[Push]) -> Iterator[list[Push]]:
    """What is decoded at once."""
    piece: list[Push] = []
    size = 0
    for push in pushes:
        if piece and size + len(push.payload) > _SLICE_BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(push)
        size += len(push.payload)
    yield piece


def _joinable(pushes: Sequence[Push]) -> Iterator[list[Push]]:
    """Neighbours that can be decoded as one: a line without a PRI would join the record of another sender."""
    group: list[Push] = []
    for push in pushes:
        if group and push.framing == syslog.NEWLINE and not push.payload.startswith(b"<"):
            yield group
            group = []
        group.append(push)
    if group:
        yield group
