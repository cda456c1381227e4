"""One stream's way through the decoder: holds the incomplete tail, cuts whole records, decodes them.

A lane belongs to the pipeline's worker thread once it is in use; the event loop only reads `dead` and `tail`, and
replaces the whole lane when a stream must go back (a refused batch, a newer stream). It never does I/O.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format, FormatKind, RowError
from heimdall_server.domain.errors import FormatError, HeimdallError, InvalidArgumentError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX, RECORD_SCHEMA
from heimdall_server.services.ingest.logic.jobs import Room
from heimdall_server.services.ingest.model import Skip

LOG: Final = logging.getLogger(__name__)
WHOLE_PAYLOAD_KINDS: Final = (FormatKind.ARROW, FormatKind.OTLP)
"""Formats whose payloads are self-contained: offsets count records, nothing is ever held."""
_LINES: Final = (FormatKind.TEXT, FormatKind.SYSLOG, FormatKind.NDJSON)
_HALVED_DOWN_TO_BYTES: Final = 64 * 1024
_BUG_REASON: Final = "the decoder failed on these bytes; the server's log has the detail"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One payload as it came."""

    offset: int
    next_offset: int
    payload: bytes


@dataclass(slots=True)
class Fed:
    """What became of some chunks."""

    offset: int
    """Where this feed's records began."""
    next_offset: int
    """Everything before it is decided once the records are durable."""
    received_offset: int
    """Everything before it is in the lane."""
    pieces: list[Decoded] = field(default_factory=list)
    """In source order; row errors carry offsets in the source's unit and rows from the start of this feed."""
    resolved: Format | None = None
    """Set when this feed told the format."""
    failure: BaseException | None = None
    """Why the source can't go on behind `next_offset`."""
    unfed: list[Chunk] = field(default_factory=list)
    """Chunks for which there was no room."""
    more: bool = False
    """Whether the lane holds whole records for which there was no room."""
    skip: Skip | None = None
    """The over-long record in whose middle the feed ended."""

    @property
    def accepted_count(self) -> int:
        """Good records."""
        return sum(int(piece.batch.num_rows) for piece in self.pieces)

    @property
    def errors(self) -> list[RowError]:
        """Bad ones."""
        return [error for piece in self.pieces for error in piece.errors]


@dataclass(slots=True)
class Lane:
    """See the module."""

    context: DecodeContext
    """`first_record_number` is that of the next record, or 0 where the source isn't a dump."""
    offset: int
    """Where the held tail begins."""
    format: Format | None
    hint: Format | None = None
    file_name: str = ""
    skip: Skip | None = None
    """Inside an over-long record, for which its dead letter stands: what comes is dropped up to its end."""
    tail: bytes = b""
    failed: bool = False
    """It can't go on: what comes behind is left alone until the stream has gone back."""
    dead: bool = False
    """The stream went back: what is still queued for this lane must be dropped."""

    def feed(
        self, chunks: list[Chunk], *, observed_time_ns: int, final: bool, flush: bool = False, room: Room | None = None
    ) -> Fed:
        """Decode what is whole. Never raises: a problem is in `Fed.failure`, and what came before it is kept.

        Args:
            chunks: Consecutive, the first one where the last feed ended; may be empty.
            observed_time_ns: For the records of this feed.
            final: The source ends here: the tail is decoded as it is.
            flush: Decode held lines although a continuation might follow; a partial line stays.
            room: How much may be decoded; None: all.
        """
        context = replace(self.context, observed_time_ns=observed_time_ns)
        room = room or Room(1 << 62, 1 << 62)
        fed = Fed(self.offset, self.offset, self.offset)
        if self.format is None and self.hint is not None and self.hint.kind in WHOLE_PAYLOAD_KINDS:
            self.format = self.hint
        try:
            if self.format is not None and self.format.kind in WHOLE_PAYLOAD_KINDS:
                self._feed_whole(fed, chunks, context, self.format, room)
            else:
                self._feed_bytes(fed, chunks, context, room, final=final, flush=flush)
        except BaseException as error:  # a native library's panic is no Exception
            if not isinstance(error, HeimdallError):
                LOG.error("decoder failed", extra={"event": "ingest.decoder_failed"}, exc_info=error)
            fed.failure = error
            self.failed = True
        fed.next_offset, fed.skip = self.offset, self.skip
        fed.received_offset = self.offset + len(self.tail)
        return fed

    def _feed_whole(self, fed: Fed, chunks: list[Chunk], context: DecodeContext, format_: Format, room: Room) -> None:
        rows = 0
        for index, chunk in enumerate(chunks):
            if room.full:
                fed.unfed, fed.more = chunks[index:], True
                return
            context = self._numbered(context)
            one = dispatch.decode(chunk.payload, format_, context, at_start=chunk.offset == 0)
            if one.record_count != chunk.next_offset - chunk.offset:
                if one.errors and not one.batch.num_rows:
                    raise FormatError(format_.kind.value, one.errors[0].reason)
                raise InvalidArgumentError(
                    "batch.next_offset",
                    f"the payload holds {one.record_count} records, so it must be {chunk.offset + one.record_count}",
                )
            errors = [RowError(e.row + rows, e.row + chunk.offset, e.reason, e.field, e.raw) for e in one.errors]
            self._keep(fed, one.batch, errors, room)
            rows += one.record_count
            self._count(one.record_count)
            self.offset = chunk.next_offset

    def _feed_bytes(
        self, fed: Fed, chunks: list[Chunk], context: DecodeContext, room: Room, *, final: bool, flush: bool
    ) -> None:
        # Joining a single one copies nothing.
        pieces = [chunk.payload for chunk in chunks]
        buffer = self.tail = b"".join([self.tail, *pieces] if self.tail else pieces)
        if final and not buffer:
            return
        if self.format is None:
            self.format = fed.resolved = self._resolve(buffer, final=final or flush)
            if self.format is None:
                return
        format_, rows = self.format, 0
        while True:
            buffer = self.tail = self._pass_over(buffer, format_, final=final)
            if room.full and buffer:
                fed.more = True
                return
            try:
                part = buffer[: room.piece_bytes_max]
                whole = len(part) == len(buffer)
                cut = 0 if self.skip else self._cut(part, format_, final=final and whole, flush=flush and whole)
                if not cut and not self.skip and not whole:
                    cut = self._cut(buffer, format_, final=final, flush=flush)
            except RecordTooLargeError as error:
                self._keep(fed, _no_records(), [self._oversized(buffer, format_, rows, error)], room)
                rows += 1
                self.skip = Skip()
                continue
            if not cut:
                return
            for piece in self._decode(buffer[:cut], format_, context):
                self._keep(fed, piece.batch, _moved(piece.errors, rows, 0), room)
                rows += piece.record_count
            buffer = self.tail = buffer[cut:]
            self.offset += cut

    def _resolve(self, buffer: bytes, *, final: bool) -> Format | None:
        hint = self.hint
        kind, options = (hint.kind, hint.options) if hint else (None, {})
        resolved = dispatch.resolve(kind, options, buffer, file_name=self.file_name, final=final)
        if resolved is not None and resolved.kind in WHOLE_PAYLOAD_KINDS:
            problem = "its offsets count records: name the format in open, and send whole streams"
            raise FormatError(resolved.kind.value, problem)
        return resolved

    def _decode(self, data: bytes, format_: Format, context: DecodeContext) -> list[Decoded]:
        """Decode whole records from `offset` on; errors carry offsets of the source and rows from here."""
        try:
            one = dispatch.decode(data, format_, self._numbered(context), at_start=self.offset == 0)
        except HeimdallError:
            raise
        except BaseException as error:  # a native library's panic is no Exception
            LOG.error("decoder failed", extra={"event": "ingest.decoder_failed"}, exc_info=error)
            return self._decode_halves(data, format_, context)
        self._count(one.record_count)
        return [Decoded(one.batch, _moved(one.errors, 0, self.offset))]

    def _decode_halves(self, data: bytes, format_: Format, context: DecodeContext) -> list[Decoded]:
        """A bug must not stop a source: find the records that it fails on, and make them dead letters."""
        start, pieces, rows = self.offset, list[Decoded](), 0
        half = 0
        if len(data) > _HALVED_DOWN_TO_BYTES:
            with contextlib.suppress(RecordTooLargeError):
                half = dispatch.complete_length(data[: len(data) // 2], format_, at_start=start == 0, final=False)
        if not half:
            self._count(1)
            return [Decoded(_no_records(), [RowError(0, start, _BUG_REASON, raw=data[:RECORD_BYTES_MAX])])]
        for part in (data[:half], data[half:]):
            for piece in self._decode(part, format_, context):
                pieces.append(Decoded(piece.batch, _moved(piece.errors, rows, 0)))
                rows += piece.record_count
            self.offset += len(part)
        self.offset = start
        return pieces

    def _keep(self, fed: Fed, batch: pa.RecordBatch, errors: list[RowError], room: Room) -> None:
        fed.pieces.append(Decoded(batch, errors))
        room.take(batch)
        # A row error costs about as much as a record.
        room.row_count -= len(errors)

    def _oversized(self, buffer: bytes, format_: Format, row: int, error: RecordTooLargeError) -> RowError:
        self._count(1)
        reason = f"a record without an end within the limit of {error.limit_bytes} bytes"
        if format_.kind is FormatKind.JSON:
            reason += "; what follows it in the document was passed over"
        return RowError(row, self.offset, reason, raw=buffer[:RECORD_BYTES_MAX])

    def _cut(self, buffer: bytes, format_: Format, *, final: bool, flush: bool) -> int:
        at_start = self.offset == 0
        by_line = format_.kind in _LINES and format_.options.get("framing") != "octet"
        if flush and not final and by_line:
            whole_lines = buffer.rfind(b"\n") + 1
            return dispatch.complete_length(buffer[:whole_lines], format_, at_start=at_start, final=True)
        return dispatch.complete_length(buffer, format_, at_start=at_start, final=final)

    def _pass_over(self, buffer: bytes, format_: Format, *, final: bool) -> bytes:
        """Drop what is left of an over-long record."""
        while self.skip is not None and buffer:
            skip = self.skip
            if not skip.left_bytes:
                skip = Skip(*dispatch.oversize_prefix(buffer, format_, final=final))
            dropped = min(skip.left_bytes, len(buffer))
            left = Skip(skip.left_bytes - dropped, skip.ends)
            self.skip = None if left == Skip(0, ends=True) else left
            self.offset += dropped
            buffer = buffer[dropped:]
            if not dropped:
                break
        return buffer

    def _numbered(self, context: DecodeContext) -> DecodeContext:
        return replace(context, first_record_number=self.context.first_record_number)

    def _count(self, records: int) -> None:
        if self.context.first_record_number:
            self.context = replace(self.context, first_record_number=self.context.first_record_number + records)


def _no_records() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], RECORD_SCHEMA)


def _moved(errors: list[RowError], rows: int, offset: int) -> list[RowError]:
    if not (rows or offset):
        return errors
    return [RowError(error.row + rows, error.offset + offset, error.reason, error.field, error.raw) for error in errors]
