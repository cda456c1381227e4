"""Whole requests on their way through the pipeline: those of one sender that wait together are decoded together.

A door (`doors.py`) says how a request's bytes are read; all else is the same for OTLP, Elasticsearch and Loki.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.decode import otlp, oversize
from heimdall_server.domain.decoding import DecodeContext, RowError
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.domain.records import RECORD_BYTES_MAX, TimeFlag
from heimdall_server.ports.journal import DeadLetter, RequestMark, SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.dead_letters import context_to_json, letters_of
from heimdall_server.services.ingest.logic.doors import Door
from heimdall_server.services.ingest.logic.format_text import format_to_json
from heimdall_server.services.ingest.logic.jobs import Job, Notes, OwnProtection, Room
from heimdall_server.services.ingest.logic.state import Counts

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an Export is answered."""

    accepted_count: int
    rejected_count: int = 0
    message: str = ""
    errors: Sequence[RowError] = ()
    """Of each rejected record; `row` counts within the request. A repeat is told their number only."""


@dataclass(slots=True, eq=False)
class Export:
    """One request."""

    principal: str
    payload: bytes
    digest: bytes
    answer: asyncio.Future[Exported]
    """Cancelled while it waits: the caller is gone, and it needn't be done."""
    received_s: float = field(default_factory=time.monotonic)
    taken: bool = False
    """It is being worked on, so it will be stored whoever waits for it."""
    record_count: int = 0
    """Good ones."""
    errors: list[RowError] = field(default_factory=list)
    """Records that were rejected; `row` counts within the request."""
    all_timed: bool = False
    """Whether each of its records carries a time; only then a repeat is told from a second equal request."""
    problem: BaseException | None = None
    """Why it can't be decoded."""

    def result(self) -> Exported:
        """The answer, once decoded."""
        message = f"record {self.errors[0].row}: {self.errors[0].reason}" if self.errors else ""
        return Exported(self.record_count, len(self.errors), message, self.errors)


@dataclass(slots=True, eq=False)
class ExportJob:
    """See the module and `Job`."""

    door: Door
    context: DecodeContext
    exports: list[Export]
    counts: Counts
    keep_raw: bool = field(kw_only=True)
    left: list[Export] = field(default_factory=list)
    """Those for which there was no room."""
    observed_time_ns: int = 0

    @property
    def size_bytes(self) -> int:
        """See `Job`."""
        return sum(len(export.payload) for export in self.exports)

    @property
    def turn(self) -> Hashable:
        """See `Job`: one exporter is one turn, however many requests it sends at once."""
        return self.door.name, self.exports[0].principal

    @property
    def own_protection(self) -> OwnProtection | None:
        """See `Job`."""
        return None

    def absorb(self, later: Job) -> bool:
        """See `Job`."""
        if not isinstance(later, ExportJob):
            return False
        self.exports += later.exports
        return True

    def stale(self) -> bool:
        """See `Job`: an export that is being worked on is no longer taken back."""
        return all(export.answer.cancelled() and not export.taken for export in self.exports)

    def taken(self) -> None:
        """See `Job`."""
        for export in self.exports:
            export.taken = True

    def decode(self, observed_time_ns: int, room: Room) -> Sequence[pa.RecordBatch]:
        """See `Job`. Doesn't raise for what the payloads hold: that is each one's `problem`."""
        self.observed_time_ns = observed_time_ns
        context = replace(self.context, observed_time_ns=observed_time_ns)
        batches: list[pa.RecordBatch] = []
        done = 0
        for piece in _pieces(self.exports):
            if room.full:
                break
            for batch in _decode(self.door, piece, context):
                room.take(batch)
                batches.append(batch)
            done += len(piece)
        self.left = self.exports[done:]
        return batches

    def split(self) -> Job | None:
        """See `Job`."""
        if not self.left:
            return None
        rest = replace(self, exports=self.left, left=[])
        self.exports, self.left = self.exports[: -len(self.left)], []
        return rest

    def describe(self, notes: Notes, first_row: int, observed_time_ns: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        for export in self.exports:
            if export.problem is not None:
                ours = isinstance(export.problem, HeimdallError)
                reason = str(export.problem) if ours else "the decoder failed on it; the server's log has the detail"
                notes.dead_letters.append(self._letter(export, reason))
                continue
            notes.dead_letters += letters_of(
                export.errors,
                key=SourceKey(export.principal, self.context.source),
                format_=self.door.format,
                context=replace(self.context, observed_time_ns=observed_time_ns),
                keep_raw=self.keep_raw,
            )
            if export.all_timed and (export.record_count or export.errors):
                result = export.result()
                notes.requests.append(
                    RequestMark(
                        export.principal,
                        export.digest,
                        observed_time_ns,
                        result.accepted_count,
                        result.rejected_count,
                        result.message,
                    )
                )

    def _letter(self, export: Export, reason: str) -> DeadLetter:
        """For a request that can't be read at all."""
        context = replace(self.context, observed_time_ns=self.observed_time_ns)
        return DeadLetter(
            key=SourceKey(export.principal, context.source),
            offset=0,
            row=0,
            reason=reason,
            time_ns=self.observed_time_ns,
            raw=export.payload[:RECORD_BYTES_MAX] if self.keep_raw else b"",
            format=format_to_json(self.door.format),
            context=context_to_json(context),
        )

    def begin_commit(self) -> None:
        """See `Job`."""

    def committed(self, position: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        now_s = time.monotonic()
        accepted, rejected = (
            metrics.RECORDS.labels(outcome, self.door.format.kind.value) for outcome in ("accepted", "rejected")
        )
        for export in self.exports:
            metrics.ACK_SECONDS.labels(self.door.name).observe(now_s - export.received_s)
            if export.problem is not None:
                rejected.inc()
                self.counts.rejected += 1
                _answer(export, export.problem)
                continue
            result = export.result()
            accepted.inc(result.accepted_count)
            rejected.inc(result.rejected_count)
            self.counts.accepted += result.accepted_count
            self.counts.rejected += result.rejected_count
            _answer(export, result)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        for export in self.exports:
            _answer(export, error)

    def dropped(self) -> None:
        """See `Job`: all callers are gone already."""


def _answer(export: Export, answer: Exported | BaseException) -> None:
    if export.answer.done():
        return
    if isinstance(answer, BaseException):
        export.answer.set_exception(answer)
    else:
        export.answer.set_result(answer)


def _decode(door: Door, exports: Sequence[Export], context: DecodeContext) -> list[pa.RecordBatch]:
    try:
        decoded = door.decode([export.payload for export in exports], context)
    except BaseException as error:  # a native library's panic is no Exception, and must cost its own request only
        if len(exports) > 1:
            return [batch for export in exports for batch in _decode(door, [export], context)]
        LOG.error("decoder failed", extra={"event": "ingest.decoder_failed"}, exc_info=error)
        exports[0].problem = error
        return []
    untimed = np.asarray(decoded.decoded.batch.column("time_flags")) & np.uint8(TimeFlag.MISSING)
    kept = oversize.refuse_oversized(decoded.decoded)
    unread = [error.row for error in decoded.decoded.errors]
    refused = [error.row for error in kept.errors]
    first = row = 0
    for export, count, problem in zip(exports, decoded.counts, decoded.problems, strict=True):
        export.problem = problem
        # A request that isn't one counts as one row among the errors.
        end = row + (count if problem is None else 1)
        in_batch = 0
        if problem is None:
            in_batch = count - (bisect.bisect_left(unread, end) - bisect.bisect_left(unread, row))
            errors = kept.errors[bisect.bisect_left(refused, row) : bisect.bisect_left(refused, end)]
            export.errors = [replace(error, row=error.row - row, offset=error.row - row) for error in errors]
        export.all_timed = not untimed[first : first + in_batch].any()
        export.record_count = count - len(export.errors)
        first, row = first + in_batch, end
    return [kept.batch]


def _pieces(exports: Sequence[Export]) -> Iterator[list[Export]]:
    """What is decoded at once."""
    piece: list[Export] = []
    size = 0
    for export in exports:
        if piece and size + len(export.payload) > otlp.SLICE_BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(export)
        size += len(export.payload)
    yield piece
