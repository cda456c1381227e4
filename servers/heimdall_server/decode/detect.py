"""What a source is, from a hint, its file's name and its first bytes; and the options to go on with in its middle.

What is sure comes first: magic bytes, JSON's braces, syslog's `<PRI>`. Then text logs by the catalogue of line patterns, then
delimited text (a row of names and rows of the same width), and last plain lines. A file's ending decides between what the bytes
leave open; it isn't believed against them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

from heimdall_server.decode import csv_sniff, json_document, syslog, text
from heimdall_server.decode.patterns import PLAIN
from heimdall_server.decode.text_sniff import choose_pattern
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import FormatError

ARROW_FILE: Final = b"ARROW1"
"""First and last bytes of an Arrow IPC file; a stream has none."""
FIRST_BYTES_MAX: Final = 64 * 1024
"""With this many bytes a source is always told apart. Only a longer CSV header asks for more."""

_PLAIN_LINES_MIN: Final = 20
"""Whole lines after which text that follows no pattern is called plain."""
_BOM: Final = b"\xef\xbb\xbf"
_OTHER_UNICODE: Final = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_ARROW_STREAM: Final = re.compile(rb"\xff\xff\xff\xff..[\x00-\x3f]\x00", re.DOTALL)
_ARROW_PREFIX: Final = 8
_OCTET: Final = re.compile(rb"[1-9][0-9]{0,8} <[0-9]{1,3}>")
_PRIORITY: Final = re.compile(rb"<[0-9]{1,3}>")
_SYSLOG_PREFIX: Final = 16
_BINARY_SHARE: Final = 20
_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code not in b"\t\n\v\f\r\x1b")
"""What text hardly ever holds; escape sequences of terminals are common in logs."""
_PACKED: Final = (".gz", ".zst", ".zstd")
_LINES_OF_JSON: Final = (".ndjson", ".jsonl", ".ldjson")


def resolve(
    hint: FormatKind | None, options: Mapping[str, str], first_bytes: bytes, *, file_name: str = "", final: bool
) -> Format | None:
    """Decide a source's format.

    Args:
        hint: What the source is said to be; None: find out.
        options: What is said about it; given options are kept. A resolved format's options resolve to themselves
            without looking at the bytes.
        first_bytes: The source's beginning, unpacked.
        file_name: Of the file it comes from, if any.
        final: There is no more.

    Returns:
        None: it takes more bytes to tell (up to `FIRST_BYTES_MAX`).

    Raises:
        FormatError: The bytes can't be the hinted format, or are of no known kind.
    """
    ending = _ending(file_name)
    given = dict(options)
    if hint is None:
        hint = _sniff(first_bytes, ending, final=final or len(first_bytes) >= FIRST_BYTES_MAX)
        if hint is None:
            return None
        if hint is FormatKind.CSV and ending == ".tsv":
            given.setdefault("delimiter", "\t")
    completed = _complete(hint, given, first_bytes, final=final)
    return None if completed is None else Format(hint, completed)


def _complete(kind: FormatKind, options: dict[str, str], first_bytes: bytes, *, final: bool) -> dict[str, str] | None:
    if kind is FormatKind.CSV:
        return csv_sniff.resolve_options(options, first_bytes, final=final)
    enough = final or len(first_bytes) >= FIRST_BYTES_MAX
    if kind is FormatKind.TEXT:
        return _text_options(options, first_bytes, final=enough)
    if kind is FormatKind.SYSLOG:
        return _syslog_options(options, first_bytes, final=enough)
    if kind is FormatKind.JSON and "depth" not in options:
        # Where the list of records begins may lie behind other members.
        return {**json_document.resolve_options(first_bytes), **options} if enough else None
    return options


def _sniff(first_bytes: bytes, ending: str, *, final: bool) -> FormatKind | None:
    """The kind, or None if it takes more bytes."""
    if first_bytes.startswith(ARROW_FILE) or _ARROW_STREAM.match(first_bytes):
        return FormatKind.ARROW
    if first_bytes.startswith(_OTHER_UNICODE):
        raise FormatError("UTF-8", "the text is UTF-16 or UTF-32; convert it to UTF-8")
    if len(first_bytes) < _ARROW_PREFIX and not final:
        return None
    start = first_bytes.removeprefix(_BOM).lstrip()
    if not start:
        return FormatKind.TEXT if final else None
    if start[:1] in (b"{", b"["):
        kind = _sniff_json(start, ending, final=final)
        if kind is not FormatKind.TEXT:
            return kind
    if _PRIORITY.match(start) or _OCTET.match(start):
        return FormatKind.SYSLOG
    if len(start) < _SYSLOG_PREFIX and not final and start[:1] in b"<123456789":
        return None
    controls = len(first_bytes) - len(first_bytes.translate(None, _CONTROLS))
    if controls * _BINARY_SHARE > len(first_bytes):
        raise FormatError("log data", "these are binary data of no known kind")
    return _sniff_lines(first_bytes.removeprefix(_BOM), ending, final=final)


def _sniff_json(start: bytes, ending: str, *, final: bool) -> FormatKind | None:
    if start[:1] == b"[":
        following = start[1:].lstrip()[:1]
        if not following and not final:
            return None
        # A text log's line may begin with a bracket, too: `[2024-01-01 …]`, `[error] …`, `[ 12.3] …`.
        return FormatKind.JSON if following in (b"{", b"]", b"[") else FormatKind.TEXT
    if ending in _LINES_OF_JSON:
        return FormatKind.NDJSON
    line, newline, rest = start.partition(b"\n")
    if not newline and not final:
        return None
    if not _is_object(line):
        # Cut short by the limit of what is looked at, or spread over lines, or no JSON at all.
        following = start[1:].lstrip()[:1]
        if following not in (b'"', b"}"):
            return FormatKind.TEXT
        return FormatKind.NDJSON if not newline and not _is_wrapped(start) else FormatKind.JSON
    if not rest.strip():
        if not final:
            return None
        return FormatKind.JSON if _is_wrapped(start) else FormatKind.NDJSON
    return FormatKind.NDJSON


def _is_wrapped(start: bytes) -> bool:
    """Whether an object's records are in a list inside it."""
    return json_document.resolve_options(start)["depth"] != "0"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
    except RecursionError:
        return True


def _sniff_lines(start: bytes, ending: str, *, final: bool) -> FormatKind | None:
    pattern, judged = choose_pattern(start, final=final)
    if pattern != PLAIN:
        return FormatKind.TEXT
    if ending in (".csv", ".tsv"):
        return FormatKind.CSV
    if csv_sniff.looks_delimited(start, final=final):
        return FormatKind.CSV
    return FormatKind.TEXT if final or judged >= _PLAIN_LINES_MIN else None


def _text_options(options: dict[str, str], first_bytes: bytes, *, final: bool) -> dict[str, str] | None:
    if options.get("regex"):
        options = {**options, "pattern": "custom"}
    if not options.get("pattern"):
        pattern, judged = choose_pattern(first_bytes.removeprefix(_BOM), final=final)
        if not final and (not judged or (pattern == PLAIN and judged < _PLAIN_LINES_MIN)):
            return None
        options = {**options, "pattern": pattern}
    text.pattern_of(Format(FormatKind.TEXT, options))
    return options


def _syslog_options(options: dict[str, str], first_bytes: bytes, *, final: bool) -> dict[str, str] | None:
    if not options.get("framing"):
        start = first_bytes.lstrip()
        if len(start) < _SYSLOG_PREFIX and not final:
            return None
        options = {**options, "framing": syslog.OCTET if _OCTET.match(start) else syslog.NEWLINE}
    syslog.framing_of(Format(FormatKind.SYSLOG, options))
    return options


def _ending(file_name: str) -> str:
    path = PurePath(file_name)
    return (PurePath(path.stem).suffix if path.suffix.lower() in _PACKED else path.suffix).lower()
