"""One door to all decoders: cut and decode bytes of any resolved format.

All functions are stateless: what they need besides the bytes is in the resolved format, so any stream goes on in its
middle. Arrow and OTLP aren't cut: a payload of theirs is whole.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from heimdall_server.decode import arrow, csv, detect, json_document, lines, ndjson, otlp, oversize, syslog, text
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format, FormatKind
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX

FIRST_BYTES_MAX: Final = detect.FIRST_BYTES_MAX
resolve = detect.resolve
CHUNK_RECORDS_MAX: Final = 262_144
"""Records of one chunk: a column of records takes 300 bytes each, however short their lines."""
_SPREAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes that the names in a CSV header may become when each row of a chunk gets its own."""
_ARROW_HEADER: Final = 8
_ARROW_TRAILER: Final = 4 + len(detect.ARROW_FILE)


def complete_length(buffer: bytes, format: Format, *, at_start: bool, final: bool) -> int:  # noqa: A002 - the field's own name
    """How many leading bytes of a buffer are whole records.

    Args:
        buffer: The source's next bytes, from where the last chunk ended.
        format: Resolved.
        at_start: The buffer is the source's beginning.
        final: Nothing comes after the buffer: in the end all of it is whole.

    Returns:
        What `decode` takes; with more than `CHUNK_RECORDS_MAX` records in the buffer only about so many of them, so ask
        again with the rest (while `final`, until nothing is left). 0: more bytes are needed. A record that is held is never larger than `RECORD_BYTES_MAX`.

    Raises:
        FormatError: The format's options can't be used.
        RecordTooLargeError: The buffer begins with an unfinished record over `RECORD_BYTES_MAX`. The caller makes it
            one dead letter and passes over it by `oversize_prefix`; its neighbours are unaffected.
    """
    if format.kind in (FormatKind.ARROW, FormatKind.OTLP):
        return len(buffer)
    length = 0
    marks_max = CHUNK_RECORDS_MAX
    if format.kind is FormatKind.CSV:
        marks_max = max(1, min(marks_max, _SPREAD_BYTES_MAX // (len(format.options.get("header", "")) + 1)))
    while length == 0 and len(front := _front(buffer, format, marks_max)) < len(buffer):
        # A quoted cell may have more line ends than that.
        length = _complete_length(front, format, at_start=at_start, final=False)
        marks_max *= 2
    length = length or _complete_length(buffer, format, at_start=at_start, final=final)
    if length == 0 and len(buffer) > RECORD_BYTES_MAX:
        raise RecordTooLargeError(len(buffer), RECORD_BYTES_MAX)
    return length


def oversize_prefix(buffer: bytes, format: Format, *, final: bool) -> tuple[int, bool]:  # noqa: A002 - as above
    """After `RecordTooLargeError`: how many bytes to pass over, and whether the record then ends.

    Ask again with what comes next until it ends. No state is needed in between, so a caller that starts again in the
    middle of the record only needs to know that it was passing over one.

    Args:
        buffer: From the record's beginning, or from where the last answer left off.
        format: Resolved.
        final: Nothing comes after the buffer.

    Returns:
        Bytes to drop (which may be more than the buffer holds: then as many of what comes, too), and whether what
        follows them is a record's beginning. A JSON document can't be entered again in its middle: there the record
        ends with the source.
    """
    if format.kind is FormatKind.SYSLOG:
        return syslog.oversize_prefix(buffer, format, final=final)
    if format.kind is FormatKind.JSON:
        return len(buffer), final
    return lines.oversize_prefix(buffer, final=final)


def decode(chunk: bytes, format: Format, context: DecodeContext, *, at_start: bool) -> Decoded:  # noqa: A002 - as above
    """Decode whole records.

    Args:
        chunk: What `complete_length` allowed; 1 to 16 MiB is the best size.
        format: Resolved.
        context: What the source says about its records.
        at_start: The chunk begins the source.

    Returns:
        Good records and row errors. Thread-safe; releases the GIL for most of its work.

    Raises:
        FormatError: The chunk (or an option) can't be used at all.
        InvalidArgumentError: The context's zone isn't known.
    """
    kind = format.kind
    if kind is FormatKind.CSV:
        return csv.decode(chunk, format, context, at_start=at_start)
    if kind is FormatKind.SYSLOG:
        return syslog.decode(chunk, format, context, at_start=at_start)
    if kind is FormatKind.TEXT:
        return text.decode(chunk, format, context, at_start=at_start)
    if kind is FormatKind.JSON:
        return json_document.decode(chunk, format, context)
    if kind is FormatKind.ARROW:
        return oversize.refuse_oversized(arrow.decode(_stream_of(chunk), format, context))
    if kind is FormatKind.OTLP:
        return oversize.refuse_oversized(otlp.decode([chunk], context).decoded)
    return ndjson.decode(chunk, format, context)


def _stream_of(chunk: bytes) -> bytes:
    """The stream inside an Arrow file: magic and padding, stream, footer, its size (int32), magic."""
    if not chunk.startswith(detect.ARROW_FILE):
        return chunk
    footer_bytes = int.from_bytes(chunk[-_ARROW_TRAILER : -len(detect.ARROW_FILE)], "little", signed=True)
    end = len(chunk) - _ARROW_TRAILER - footer_bytes
    if not chunk.endswith(detect.ARROW_FILE) or footer_bytes <= 0 or end < _ARROW_HEADER:
        raise FormatError("arrow", "the file is cut short or its footer is damaged", len(chunk))
    return chunk[_ARROW_HEADER:end]


def _front(buffer: bytes, format_: Format, marks_max: int) -> bytes:
    """The front of a buffer with no more than so many marks that a record has at least one of."""
    if len(buffer) <= marks_max:
        return buffer
    mark = ord("{") if format_.kind is FormatKind.JSON else ord("\n")
    is_mark = np.frombuffer(buffer, np.uint8) == mark
    if np.count_nonzero(is_mark) <= marks_max:
        return buffer
    return buffer[: int(np.flatnonzero(is_mark)[marks_max])]


def _complete_length(buffer: bytes, format_: Format, *, at_start: bool, final: bool) -> int:
    kind = format_.kind
    if kind is FormatKind.CSV:
        return csv.complete_length(buffer, format_, at_start=at_start, final=final)
    if kind is FormatKind.SYSLOG:
        return syslog.complete_length(buffer, format_, at_start=at_start, final=final, frames_max=CHUNK_RECORDS_MAX)
    if kind is FormatKind.TEXT:
        return text.complete_length(buffer, format_, at_start=at_start, final=final)
    if kind is FormatKind.NDJSON:
        return ndjson.complete_length(buffer, final=final)
    return json_document.complete_length(buffer, format_, at_start=at_start, final=final)
