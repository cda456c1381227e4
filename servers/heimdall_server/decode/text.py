"""Plain text logs by a pattern of the catalogue, or by a regex that the user gave.

Options of the resolved format: `pattern` (a name of `patterns.CATALOGUE`, or `custom`) and, for custom, `regex`.

A record is its first line and the lines that join it (stack traces). Which lines join is the pattern's to say:
where messages go over several lines, every line that doesn't match does; elsewhere only what looks like a
continuation. A record whose first line doesn't match keeps the line as body and has no time. Bytes that
aren't UTF-8 become U+FFFD, and the attribute `invalid_utf8` says so: a log line is worth more damaged than lost.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from heimdall_server.decode import lines, logfmt, mapping
from heimdall_server.decode.heads import read_custom, read_heads, read_plain
from heimdall_server.decode.line_records import Fields, decode_records
from heimdall_server.decode.patterns import AUTO_LAYOUT, CATALOGUE, CONTINUATION, CUSTOM, LOGFMT, PLAIN, Pattern
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format
from heimdall_server.domain.errors import FormatError

REGEX_BYTES_MAX: Final = 4096
"""Longest regex that a user may give."""
BOM: Final = b"\xef\xbb\xbf"
_CUSTOM_CACHE: Final = 256


def pattern_of(format_: Format) -> Pattern:
    """The pattern that a resolved format names.

    Raises:
        FormatError: No such pattern, or a regex that can't be used.
    """
    name = format_.options.get("pattern", PLAIN)
    if name == CUSTOM:
        return custom_pattern(format_.options.get("regex", ""))
    if name not in CATALOGUE:
        raise FormatError("text", f"no line pattern is named {name!r}; use one of {', '.join(CATALOGUE)} or {CUSTOM}")
    return CATALOGUE[name]


@lru_cache(_CUSTOM_CACHE)
def custom_pattern(regex: str) -> Pattern:
    """Make a pattern of a user's regex.

    Raises:
        FormatError: It is too long, doesn't compile (Rust's `regex` syntax), or names no group.
    """
    if len(regex.encode()) > REGEX_BYTES_MAX:
        raise FormatError("text pattern", f"the regex is longer than {REGEX_BYTES_MAX} bytes")
    try:
        groups = pl.Series([""]).str.extract_groups(regex).struct.fields
    except pl.exceptions.PolarsError as error:
        problem = "the regex doesn't compile: use the syntax of Rust's regex crate (no look-around, no back-references)"
        raise FormatError("text pattern", problem) from error
    names = [name for name in groups if not name.isdigit()]
    if not names:
        raise FormatError("text pattern", "the regex has no named group, as in (?P<time>...)")
    timed = any(mapping.target_of(name) == "time" for name in names)
    return Pattern(CUSTOM, regex, AUTO_LAYOUT if timed else "", multiline=timed)


def complete_length(buffer: bytes, format_: Format, *, at_start: bool, final: bool) -> int:
    """How many leading bytes of `buffer` are whole records; see `lines.complete_length`.

    Raises:
        FormatError: The format's pattern can't be used.
        RecordTooLargeError: As there.
    """
    test = start_test(pattern_of(format_))
    skipped = len(BOM) if at_start and buffer.startswith(BOM) else 0
    whole = lines.complete_length(buffer[skipped:], test, final=final)
    return skipped + whole if whole or final else 0


def decode(chunk: bytes, format_: Format, context: DecodeContext, *, at_start: bool) -> Decoded:
    """Decode whole records.

    Args:
        chunk: As `complete_length` cut it.
        format_: Resolved.
        context: What the source says.
        at_start: The chunk begins the source (and may begin with a byte order mark).

    Returns:
        A line over `RECORD_BYTES_MAX` is an error, everything else a record; blank lines are neither.

    Raises:
        FormatError: The format's pattern can't be used.
        InvalidArgumentError: The context's zone isn't known.

    Cost:
        2 to 4 µs a record of 110 to 160 bytes.
    """
    pattern = pattern_of(format_)
    shift = len(BOM) if at_start and chunk.startswith(BOM) else 0
    records = lines.split(chunk[shift:], start_test(pattern))
    return decode_records(records, chunk, context, lambda part: _read(part, pattern, context), shift=shift)


def start_test(pattern: Pattern) -> lines.StartTest:
    """Tells the lines that begin a record under a pattern."""
    # Most patterns match a head and don't care how the line ends.
    needs_end = "$" in pattern.start_regex

    def begins(text: pl.Series) -> npt.NDArray[np.bool_]:
        if pattern.name == PLAIN:
            return ~_matches(text, CONTINUATION)
        starts = _matches(text.str.strip_chars_end("\r\n") if needs_end else text, pattern.start_regex)
        if pattern.multiline or starts.all():
            return starts
        rest = np.flatnonzero(~starts)
        starts[rest] = ~_matches(text.gather(rest), CONTINUATION)
        return starts

    return begins


def _matches(text: pl.Series, regex: str) -> npt.NDArray[np.bool_]:
    return text.str.contains(regex).to_numpy(writable=True)


def _read(records: lines.Records, pattern: Pattern, context: DecodeContext) -> Fields:
    if pattern.name == PLAIN:
        return read_plain(records)
    if pattern.name == CUSTOM:
        return read_custom(records, pattern, is_dump=bool(context.dump))
    if pattern.name == LOGFMT:
        return logfmt.read_pairs(records, is_dump=bool(context.dump))
    return read_heads(records, pattern, context)
