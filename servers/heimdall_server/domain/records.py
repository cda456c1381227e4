"""The one Arrow schema of a log record, which every decoder produces and every store maps.

It follows the OpenTelemetry log data model. Every column is non-null and has a default: an empty
string, zero, or an empty map means "the record doesn't carry it". Where a record stands
(`shard`, `position`, `row`) isn't part of what a decoder makes: the journal decides it, and
`with_position` adds it when a frame is read.

What isn't here: how bytes become columns (`decode/`), how columns are asked (`language/`).
"""

from __future__ import annotations

import enum
from typing import Final

import numpy as np
import pyarrow as pa

SCHEMA_VERSION: Final = 3
"""Goes up with each change of `RECORD_SCHEMA`; changes only add columns that have a default.

2 added `tokens`, 3 `principal`.
"""

ATTRIBUTE_COUNT_MAX: Final = 128
"""Attributes a record; the rest goes as one JSON object to `overflow`."""
DUMP_ATTRIBUTE_COUNT_MAX: Final = 1_000
"""The same of a dump's records, whose columns are classified, joined and compared one by one: none of a table that people made is left out."""
ATTRIBUTE_KEY_BYTES_MAX: Final = 256
ATTRIBUTE_VALUE_BYTES_MAX: Final = 32 * 1024
RECORD_BYTES_MAX: Final = 1024 * 1024
"""Largest record in its source form. An incomplete one is held up to this size, too."""
SAFE_INTEGER_MAX: Final = 2**53
"""Integers beyond this (either sign) lose digits as Float64, so they are kept as text."""
OBSERVED_SKEW_NS_MAX: Final = 24 * 3600 * 1_000_000_000
"""A record's time may lie this far after the moment it was observed."""
ORIGINAL_TIME_ATTRIBUTE: Final = "time.original"
"""Attribute that keeps the text (or number) of a time that couldn't be used."""

TIME_TYPE: Final = pa.timestamp("ns", tz="UTC")


class TimeFlag(enum.IntFlag):
    """What had to be assumed about a record's time (column `time_flags`)."""

    MISSING = 1
    """No usable time: `time` is the observed time."""
    INFERRED_YEAR = 2
    """The stamp has no year: the latest one that isn't after the source's reference time."""
    INFERRED_ZONE = 4
    """The stamp has no zone: the source's (default UTC) was taken."""
    OUT_OF_RANGE = 8
    """Before 1970 or after observed + 24 h: `time` is the observed time."""


class Severity(enum.IntEnum):
    """The first number of each OpenTelemetry severity range; 0 is unspecified."""

    UNSPECIFIED = 0
    TRACE = 1
    DEBUG = 5
    INFO = 9
    WARN = 13
    ERROR = 17
    FATAL = 21


SEVERITY_NAMES: Final[dict[str, int]] = {
    "trace": 1,
    "verbose": 1,
    "v": 1,
    "finest": 1,
    "finer": 2,
    "debug": 5,
    "dbg": 5,
    "d": 5,
    "fine": 5,
    "config": 8,
    "info": 9,
    "information": 9,
    "informational": 9,
    "i": 9,
    "notice": 10,
    "warn": 13,
    "warning": 13,
    "w": 13,
    "error": 17,
    "err": 17,
    "e": 17,
    "severe": 17,
    "failure": 17,
    "critical": 18,
    "crit": 18,
    "alert": 19,
    "fatal": 21,
    "f": 21,
    "panic": 21,
    "emerg": 24,
    "emergency": 24,
}
"""Severity words, lower case, to numbers (OpenTelemetry logs data model, appendix B)."""


def _map(value: pa.DataType) -> pa.MapType:
    return pa.map_(pa.field("key", pa.string(), nullable=False), pa.field("value", value, nullable=False))


MAP_STRING: Final = _map(pa.string())
MAP_NUMBER: Final = _map(pa.float64())
MAP_BOOL: Final = _map(pa.bool_())

RECORD_SCHEMA: Final = pa.schema(
    [
        pa.field("time", TIME_TYPE, nullable=False),
        pa.field("observed_time", TIME_TYPE, nullable=False),
        pa.field("time_flags", pa.uint8(), nullable=False),
        pa.field("severity", pa.uint8(), nullable=False),
        pa.field("severity_text", pa.string(), nullable=False),
        pa.field("service", pa.string(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("body", pa.string(), nullable=False),
        pa.field("trace_id", pa.binary(16), nullable=False),
        pa.field("span_id", pa.binary(8), nullable=False),
        pa.field("flags", pa.uint32(), nullable=False),
        pa.field("event_name", pa.string(), nullable=False),
        pa.field("scope_name", pa.string(), nullable=False),
        pa.field("scope_version", pa.string(), nullable=False),
        pa.field("attributes", MAP_STRING, nullable=False),
        pa.field("attributes_number", MAP_NUMBER, nullable=False),
        pa.field("attributes_bool", MAP_BOOL, nullable=False),
        pa.field("resource", MAP_STRING, nullable=False),
        pa.field("resource_number", MAP_NUMBER, nullable=False),
        pa.field("resource_bool", MAP_BOOL, nullable=False),
        pa.field("overflow", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("dump", pa.string(), nullable=False),
        pa.field("record_number", pa.uint64(), nullable=False),
        pa.field("policy_version", pa.uint32(), nullable=False),
        pa.field("tlp", pa.string(), nullable=False),
        pa.field("tokens", pa.string(), nullable=False),
        pa.field("principal", pa.string(), nullable=False),
    ]
)
"""What a decoder makes, a protector rewrites and a journal frame carries.

`resource*` are the resource attributes. `record_number` counts a dump's records from 1; 0 elsewhere.
`trace_id` and `span_id` are raw bytes; all zero means none. `tokens` are the words of the tokens that stand elsewhere
than in the body, and those of the networks of tokenised addresses, with blanks between: what a search for a personal value
reads besides the body. No decoder fills it: whoever protects does. `principal` is the URI of the identity that brought the record in,
as the door proved it, never what its content says; empty: none was proved, or an older program took it in.
"""

HIDDEN_COLUMNS: Final = frozenset({"tokens"})
"""Columns that rows show only to those who name them."""

POSITIONED_SCHEMA: Final = pa.schema(
    [
        *RECORD_SCHEMA,
        pa.field("shard", pa.uint16(), nullable=False),
        pa.field("position", pa.uint64(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
    ]
)
"""What a projection reads: the record and where it stands in the journal."""


def with_position(batch: pa.RecordBatch, *, shard: int, position: int, first_row: int = 0) -> pa.RecordBatch:
    """Add where the records stand in the journal.

    Args:
        batch: Columns of `RECORD_SCHEMA`, in journal order.
        shard: The journal's shard.
        position: The frame's position in the shard.
        first_row: Row number, within the frame, of the batch's first record.

    Returns:
        The same columns (not copied) with `shard`, `position` and `row` behind them.
    """
    count = batch.num_rows
    return pa.RecordBatch.from_arrays(
        [
            *batch.columns,
            pa.array(np.full(count, shard, np.uint16)),
            pa.array(np.full(count, position, np.uint64)),
            pa.array(np.arange(first_row, first_row + count, dtype=np.uint32)),
        ],
        schema=POSITIONED_SCHEMA,
    )


def repeat(value: pa.Scalar | str | int, count: int, type_: pa.DataType) -> pa.Array:
    """A column of `count` equal values."""
    scalar = value if isinstance(value, pa.Scalar) else pa.scalar(value, type_)
    return pa.repeat(scalar, count)


def default_column(name: str, count: int) -> pa.Array:
    """The column that says "no record carries this".

    Args:
        name: A field of `RECORD_SCHEMA`, other than the two times.
        count: Rows.
    """
    kind = RECORD_SCHEMA.field(name).type
    if pa.types.is_map(kind):
        offsets = pa.array(np.zeros(count + 1, np.int32))
        return pa.MapArray.from_arrays(offsets, pa.array([], pa.string()), pa.array([], kind.item_type), type=kind)
    if pa.types.is_fixed_size_binary(kind):
        return repeat(pa.scalar(bytes(kind.byte_width), kind), count, kind)
    return repeat("" if pa.types.is_string(kind) else 0, count, kind)
