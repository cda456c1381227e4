"""The tables of a dataset, made from the one Arrow schema of a record.

A dataset has three tables: the records, and per-minute counts by (source, service, severity) and by
(source, host). All three are partitioned alike, so that forgetting a period is three cheap statements.
Nothing here talks to an engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.records import POSITIONED_SCHEMA

STORE_SCHEMA_VERSION: Final = 3
"""Goes up when an older program could no longer read or write the tables rightly.

2 added `tokens`: a program that doesn't write it would leave records that a search for a personal value misses. 3 added `principal`: they
would be nobody's.
"""

META_TABLE: Final = "meta:facts"
"""Facts about the folder itself. A colon can't be in a dataset's name, so no dataset collides."""

PARTITIONS_PER_INSERT_MAX: Final = 50
"""The engine refuses 100, and each is a part with a dozen fsyncs: more are split into several inserts."""

LOW_CARDINALITY: Final = frozenset(
    {
        "severity_text",
        "service",
        "host",
        "source",
        "event_name",
        "scope_name",
        "scope_version",
        "dataset",
        "dump",
        "tlp",
        "principal",
    }
)
"""Columns that the tables keep as dictionaries."""
# T64 packs what hardly varies into the bits that do: times of a granule, positions, row numbers.
_CODECS: Final[Mapping[str, str]] = {
    "time": "T64, LZ4",
    "observed_time": "T64, LZ4",
    "record_number": "T64, LZ4",
    "position": "T64, LZ4",
    "row": "T64, LZ4",
    "body": "ZSTD(1)",
    "overflow": "ZSTD(1)",
    "tokens": "ZSTD(1)",
}
_SCALARS: Final[Mapping[pa.DataType, str]] = {
    pa.uint8(): "UInt8",
    pa.uint16(): "UInt16",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.float64(): "Float64",
    pa.bool_(): "Bool",
    pa.string(): "String",
}
TEXT_INDEX: Final = "words"
"""The name of the index of a body's words."""
TOKEN_INDEX: Final = "token_words"  # noqa: S105 - a name
"""The name of the index of the words of tokens that stand outside the body."""
WORD_INDEXES: Final = frozenset({TEXT_INDEX, TOKEN_INDEX})
"""What a dataset without a text index lacks."""

_INDEXES: Final[Mapping[str, str]] = {
    # Needles are lowered by whoever builds the statement; the expression here must be the one they use.
    TEXT_INDEX: "lower(body) TYPE text(tokenizer = splitByNonAlpha)",
    TOKEN_INDEX: "lower(tokens) TYPE text(tokenizer = splitByNonAlpha)",
    "trace": "trace_id TYPE bloom_filter(0.01) GRANULARITY 1",
    # What a frame range holds is asked at recovery and by watches; positions of a part are a narrow range.
    "positions": "position TYPE minmax GRANULARITY 1",
}
# A merge drops its sources after `old_parts_lifetime`: without fsync of what it made, a power loss
# would lose records that were durable before it.
_TABLE_SETTINGS: Final = (
    "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 10"
)

TUNING: Final[Mapping[str, str]] = {
    # A part of separate columns is a file or several for each, all made and synced: what was just inserted is one file
    # instead, and the first merge takes it apart.
    "min_level_for_wide_part": "1",
    # No file of lengths beside each text: fewer files, and no larger ones.
    "string_serialization_version": "'single_stream'",
    # Statistics of columns, which no plan of ours asks for.
    "auto_statistics_types": "''",
    # Parts grow twelvefold with each merge instead of fivefold, so that a record is merged less often. A part more costs a
    # query a third of a millisecond.
    "merge_selector_base": "12",
}
"""Settings of every table that make it cheaper (`adr/0005`), as literals. An engine that lacks one does without it."""


@dataclass(frozen=True, slots=True)
class Rollup:
    """A per-minute count of records by some of their columns."""

    name: str
    dimensions: tuple[str, ...]
    """Core columns. Whatever scopes restrict is among them."""


ROLLUPS: Final = (
    Rollup("by_service", ("source", "service", "severity")),
    Rollup("by_host", ("source", "host")),
)


def identifier(name: str) -> str:
    """A name as the engine's grammar quotes it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


@dataclass(frozen=True, slots=True)
class Tables:
    """Names, quoted and qualified, of what a database holds."""

    database: str

    def records(self, dataset: str) -> str:
        """The records of a dataset."""
        return f"{identifier(self.database)}.{identifier(dataset)}"

    def rollup(self, dataset: str, rollup: Rollup) -> str:
        """A rollup of a dataset."""
        return f"{identifier(self.database)}.{identifier(rollup_table(dataset, rollup))}"

    @property
    def meta(self) -> str:
        """The table of facts."""
        return f"{identifier(self.database)}.{identifier(META_TABLE)}"

    def over(self, datasets: Sequence[str], rollup: Rollup | None = None) -> str:
        """What a FROM names to read several datasets (or one rollup of each) as one table."""
        names = [name if rollup is None else rollup_table(name, rollup) for name in datasets]
        if len(names) == 1:
            return f"{identifier(self.database)}.{identifier(names[0])}"
        pattern = "|".join(re.escape(name) for name in names)
        return f"merge({text(self.database)}, {text(f'^({pattern})$')})"


def rollup_table(dataset: str, rollup: Rollup) -> str:
    """The table of a rollup, unquoted."""
    return f"{dataset}:{rollup.name}"


def text(value: str) -> str:
    """A string literal. For names from configuration and schema; what users type travels as a parameter."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def period_expression(dataset: Dataset) -> str:
    """The partition key: the first day of the period that a record belongs to."""
    function = "toDate" if dataset.partition_unit is PartitionUnit.DAY else "toStartOfMonth"
    column = "time" if dataset.age_from is AgeFrom.TIME else "observed_time"
    return f"{function}({column})"


def hot_column(key: str) -> str:
    """The column of a hot attribute key, unquoted."""
    return f"attributes:{key}"


def column_type(kind: pa.DataType, name: str = "") -> str:
    """The engine's type of an Arrow type."""
    if name in LOW_CARDINALITY:
        return "LowCardinality(String)"
    if pa.types.is_timestamp(kind):
        return "DateTime64(9, 'UTC')"
    if pa.types.is_fixed_size_binary(kind):
        return f"FixedString({kind.byte_width})"
    if pa.types.is_map(kind):
        return f"Map({column_type(kind.key_type)}, {column_type(kind.item_type)})"
    return _SCALARS[kind]


def record_columns(dataset: Dataset) -> dict[str, str]:
    """Every column of a records table and its declaration behind the name, in order."""
    columns = {}
    for field in POSITIONED_SCHEMA:
        codec = _CODECS.get(field.name, "ZSTD(1)" if pa.types.is_map(field.type) else "")
        columns[field.name] = column_type(field.type, field.name) + (f" CODEC({codec})" if codec else "")
    columns["minute"] = "DateTime('UTC') MATERIALIZED toStartOfMinute(time) CODEC(Delta, ZSTD(1))"
    for key in dataset.hot_keys:
        columns[hot_column(key)] = f"LowCardinality(String) MATERIALIZED attributes[{text(key)}]"
    return columns


def record_indexes(dataset: Dataset) -> dict[str, str]:
    """Every index of a records table besides its order, by name."""
    return {name: what for name, what in _INDEXES.items() if name not in WORD_INDEXES or dataset.text_index}


def create_records(tables: Tables, dataset: Dataset) -> str:
    """The statement that makes a dataset's records table."""
    columns = [f"{identifier(name)} {declaration}" for name, declaration in record_columns(dataset).items()]
    indexes = [f"INDEX {name} {what}" for name, what in record_indexes(dataset).items()]
    return (
        f"CREATE TABLE IF NOT EXISTS {tables.records(dataset.name)} (\n  "
        + ",\n  ".join([*columns, *indexes])
        + f"\n) ENGINE = MergeTree PARTITION BY {period_expression(dataset)} ORDER BY time SETTINGS {_TABLE_SETTINGS}"
    )


def create_rollup(tables: Tables, dataset: Dataset, rollup: Rollup) -> str:
    """The statement that makes one of a dataset's rollups.

    `period` is the partition of the records that are counted, which `minute` needn't follow.
    """
    types = [f"{name} {column_type(POSITIONED_SCHEMA.field(name).type, name)}" for name in rollup.dimensions]
    return (
        f"CREATE TABLE IF NOT EXISTS {tables.rollup(dataset.name, rollup)} (\n  period Date,\n  "
        "minute DateTime('UTC') CODEC(Delta, ZSTD(1)),\n  "
        + ",\n  ".join(types)
        + ",\n  count UInt64 CODEC(T64, ZSTD(1))\n) ENGINE = SummingMergeTree(count) PARTITION BY period "
        + f"ORDER BY (minute, {', '.join(rollup.dimensions)}) SETTINGS {_TABLE_SETTINGS}"
    )


def create_meta(tables: Tables) -> str:
    """The statement that makes the table of facts."""
    return (
        f"CREATE TABLE IF NOT EXISTS {tables.meta} (name String, value String, written DateTime64(9, 'UTC')) "
        f"ENGINE = ReplacingMergeTree(written) ORDER BY name SETTINGS {_TABLE_SETTINGS}"
    )
