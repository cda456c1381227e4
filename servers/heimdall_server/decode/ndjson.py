"""NDJSON: one JSON object a line, whatever its keys. A malformed line costs only itself."""

from __future__ import annotations

from heimdall_server.decode.json_lines import decode_lines
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format


def complete_length(buffer: bytes, *, final: bool) -> int:
    """How many bytes at the start of a buffer are whole records.

    Args:
        buffer: The source's next bytes, starting at a record.
        final: No more bytes follow: a last line without newline is whole, too.
    """
    return len(buffer) if final else buffer.rfind(b"\n") + 1


def decode(chunk: bytes, format: Format, context: DecodeContext) -> Decoded:  # noqa: A002, ARG001 - as all decoders
    """Decode whole lines.

    Nested objects become dotted attributes, arrays JSON text, integers beyond 2^53 text; null is as good as absent,
    and of a repeated key the last counts.

    Args:
        chunk: What `complete_length` allowed.
        format: Of kind NDJSON; has no options.
        context: What the source says about its records.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    return decode_lines(chunk, context)
