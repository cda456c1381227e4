"""What a decoder is told and what it answers: formats, context, decoded records, row errors."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import pyarrow as pa


class FormatKind(enum.StrEnum):
    """The shapes of input that Heimdall reads."""

    NDJSON = "ndjson"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    OTLP = "otlp"
    SYSLOG = "syslog"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Format:
    """A format with all that is needed to go on in the middle of a source.

    It is *resolved* once (from a hint and the source's first bytes), told to the client, and sent
    back by the client when it resumes: decoding never depends on bytes it can't see any more.
    """

    kind: FormatKind
    options: dict[str, str] = field(default_factory=dict)
    """By kind. csv: `delimiter`, `quote`, `header` (JSON list of names). text: `pattern` (name of a
    catalogue entry, or `custom`), `regex` for custom. syslog: `framing` (newline or octet).
    json: `depth` (container nesting of the records) and `wrapper`."""


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """What a source says about its records besides their bytes."""

    source: str
    dataset: str
    observed_time_ns: int
    service: str = ""
    """Default where a record names none."""
    host: str = ""
    """Default where a record names none."""
    zone: str = "UTC"
    """IANA name, for stamps that carry no zone."""
    reference_time_ns: int = 0
    """A year-less stamp takes the latest year that isn't after this (file mtime); 0: observed time."""
    dump: str = ""
    first_record_number: int = 0
    """Number of the chunk's first record in its dump, from 1; 0: not a dump."""
    tlp: str = ""
    principal: str = ""
    """URI of the identity that brought it in, as the door proved it; empty: none was proved."""


@dataclass(frozen=True, slots=True)
class RowError:
    """One record that couldn't be decoded."""

    row: int
    """Index, from 0, among the chunk's records, bad ones counted."""
    offset: int
    """Byte offset in the chunk; for formats that count records, the record's index."""
    reason: str
    """A sentence without values of the record: it goes to clients and logs."""
    field: str = ""
    raw: bytes = b""
    """The record as it came, for the dead letters; cut at `RECORD_BYTES_MAX`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one chunk."""

    batch: pa.RecordBatch
    """Columns of `RECORD_SCHEMA`, the good records in source order."""
    errors: list[RowError] = field(default_factory=list)
    """Ascending by row."""

    @property
    def record_count(self) -> int:
        """Records seen, good and bad."""
        return int(self.batch.num_rows) + len(self.errors)
