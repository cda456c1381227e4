"""One stream's way through the decoder: holds the incomplete tail, cuts whole records, decodes them.

A lane belongs to the pipeline's worker thread once it is in use; the event loop only reads `dead` and replaces
the whole lane when a stream must go back (a refused batch, a newer stream). It never does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format, FormatKind, RowError
from heimdall_server.domain.errors import InvalidArgumentError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX, RECORD_SCHEMA

WHOLE_PAYLOAD_KINDS = (FormatKind.ARROW, FormatKind.OTLP)
"""Formats whose payloads are self-contained: offsets count records, nothing is ever held."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One payload as it came."""

    offset: int
    next_offset: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Fed:
    """What became of some chunks."""

    decoded: list[Decoded]
    """In source order; row errors carry offsets in the source's unit and rows from the start of this feed."""
    offset: int
    """Where this feed's records began."""
    next_offset: int
    """Everything before it is decided once the records are durable."""
    received_offset: int
    resolved: Format | None
    """Set when this feed told the format."""

    @property
    def accepted_count(self) -> int:
        """Good records."""
        return sum(int(d.batch.num_rows) for d in self.decoded)

    @property
    def errors(self) -> list[RowError]:
        """Bad ones."""
        return [error for d in self.decoded for error in d.errors]


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
    tail: bytes = b""
    skipping: bool = False
    """Inside an over-long record, for which its dead letter stands: what comes is dropped up to its end."""
    skip_bytes: int = 0
    """How much of it is known to be left."""
    skip_ends: bool = False
    """Whether the record ends after `skip_bytes`."""
    dead: bool = field(default=False)
    """The stream went back: what is still queued for this lane must be dropped."""

    def feed(self, chunks: list[Chunk], *, observed_time_ns: int, final: bool, flush: bool = False) -> Fed:
        """Decode what is whole.

        Args:
            chunks: Consecutive, the first one where the last feed ended; may be empty with `final` or `flush`.
            observed_time_ns: For the records of this feed.
            final: The source ends here: the tail is decoded as it is.
            flush: Decode held lines although a continuation might follow; a partial line stays.

        Raises:
            FormatError: The bytes aren't the format, as a whole.
            InvalidArgumentError: The chunk's offsets don't fit its records.
        """
        context = replace(self.context, observed_time_ns=observed_time_ns)
        if self.format is None and self.hint is not None and self.hint.kind in WHOLE_PAYLOAD_KINDS:
            self.format = self.hint
        if self.format is not None and self.format.kind in WHOLE_PAYLOAD_KINDS:
            return self._feed_whole(chunks, context)
        return self._feed_bytes(chunks, context, final=final, flush=flush)

    def _feed_whole(self, chunks: list[Chunk], context: DecodeContext) -> Fed:
        start = self.offset
        decoded: list[Decoded] = []
        for chunk in chunks:
            context = self._numbered(context)
            assert self.format is not None  # noqa: S101 - the caller has looked
            one = dispatch.decode(chunk.payload, self.format, context, at_start=chunk.offset == 0)
            if one.record_count != chunk.next_offset - chunk.offset:
                raise InvalidArgumentError(
                    "batch.next_offset",
                    f"the payload holds {one.record_count} records, so it must be {chunk.offset + one.record_count}",
                )
            done = sum(d.record_count for d in decoded)
            errors = [replace(e, row=e.row + done, offset=chunk.offset + e.row) for e in one.errors]
            decoded.append(Decoded(one.batch, errors))
            self._count(one.record_count)
            self.offset = chunk.next_offset
        return Fed(decoded, start, self.offset, self.offset, None)

    def _feed_bytes(self, chunks: list[Chunk], context: DecodeContext, *, final: bool, flush: bool) -> Fed:
        start = self.offset
        buffer = b"".join([self.tail, *(chunk.payload for chunk in chunks)])
        resolved = None
        if self.format is None:
            hint = self.hint
            resolved = dispatch.resolve(
                hint.kind if hint else None,
                hint.options if hint else {},
                buffer,
                file_name=self.file_name,
                final=final or flush,
            )
            if resolved is None:
                self.tail = buffer
                return Fed([], start, start, start + len(buffer), None)
            self.format = resolved
        decoded: list[Decoded] = []
        rows = 0
        while True:
            buffer = self._pass_over(buffer, final=final)
            try:
                cut = 0 if self.skipping else self._cut(buffer, final=final, flush=flush)
            except RecordTooLargeError as error:
                decoded.append(self._oversized(buffer, rows, error))
                rows += 1
                self.skipping = True
                continue
            if not cut:
                break
            one = dispatch.decode(buffer[:cut], self.format, self._numbered(context), at_start=self.offset == 0)
            errors = [replace(e, row=rows + e.row, offset=self.offset + e.offset) for e in one.errors]
            decoded.append(Decoded(one.batch, errors))
            rows += one.record_count
            self._count(one.record_count)
            buffer = buffer[cut:]
            self.offset += cut
        self.tail = buffer
        return Fed(decoded, start, self.offset, self.offset + len(buffer), resolved)

    def _oversized(self, buffer: bytes, row: int, error: RecordTooLargeError) -> Decoded:
        self._count(1)
        reason = f"a record without an end within the limit of {error.limit_bytes} bytes"
        letter = RowError(row=row, offset=self.offset, reason=reason, raw=buffer[:RECORD_BYTES_MAX])
        return Decoded(RECORD_SCHEMA.empty_table().to_batches()[0], [letter])

    def _cut(self, buffer: bytes, *, final: bool, flush: bool) -> int:
        assert self.format is not None  # noqa: S101 - resolved by the caller
        at_start = self.offset == 0
        by_line = self.format.kind in (FormatKind.TEXT, FormatKind.SYSLOG, FormatKind.NDJSON)
        if flush and not final and by_line and self.format.options.get("framing") != "octet":
            whole_lines = buffer.rfind(b"\n") + 1
            return dispatch.complete_length(buffer[:whole_lines], self.format, at_start=at_start, final=True)
        return dispatch.complete_length(buffer, self.format, at_start=at_start, final=final)

    def _pass_over(self, buffer: bytes, *, final: bool) -> bytes:
        """Drop what is left of an over-long record."""
        assert self.format is not None  # noqa: S101 - resolved by the caller
        while self.skipping and buffer:
            if not self.skip_bytes:
                self.skip_bytes, self.skip_ends = dispatch.oversize_prefix(buffer, self.format, final=final)
            dropped = min(self.skip_bytes, len(buffer))
            self.skip_bytes -= dropped
            self.offset += dropped
            buffer = buffer[dropped:]
            if not self.skip_bytes:
                self.skipping = not self.skip_ends
            if not dropped:
                break
        return buffer

    def _numbered(self, context: DecodeContext) -> DecodeContext:
        return replace(context, first_record_number=self.context.first_record_number)

    def _count(self, records: int) -> None:
        if self.context.first_record_number:
            self.context = replace(self.context, first_record_number=self.context.first_record_number + records)
