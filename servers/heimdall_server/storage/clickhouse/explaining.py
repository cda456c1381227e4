"""How a statement would be answered, and how much it would read: the engine's plan and its own estimate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from heimdall_server.storage.clickhouse.connection import Connection, Parameters
from heimdall_server.storage.clickhouse.schema import Tables

# Lines that name tables, indexes and how much of them is left. Conditions are left out: they quote values.
_TOLD: Final = re.compile(
    r"^(ReadFrom\w+.*|Read type: .*|Min-Max|Partition|PrimaryKey|Skip|Name: .*|Parts: .*|Granules: .*)$"
)
_DRAWING: Final = re.compile(r"^[\s│├└─]+")
_WORD: Final = re.compile(r"\w+")


def plan_lines(connection: Connection, sql: str, parameters: Parameters) -> list[str]:
    """Lines of the engine's plan that name tables, indexes, parts and granules."""
    plan = connection.table(f"EXPLAIN indexes = 1 {sql}", parameters)
    # A condition quotes its values as they are, and an id's sixteen bytes aren't UTF-8.
    texts = (line.decode("utf-8", "replace") for line in plan.column(0).cast(pa.binary()).to_pylist())
    lines = (_DRAWING.sub("", text) for text in texts)
    return [line for line in lines if _TOLD.match(line)]


def estimated_rows(connection: Connection, sql: str, parameters: Parameters) -> dict[str, int]:
    """Rows that the indexes leave to read, by table. The statement must name tables, not `merge`."""
    estimate = connection.table(f"EXPLAIN ESTIMATE {sql}", parameters).to_pylist()
    rows: dict[str, int] = {}
    for line in estimate:
        rows[line["table"]] = rows.get(line["table"], 0) + int(line["rows"])
    return rows


def bytes_a_row(connection: Connection, tables: Tables, names: Sequence[str], sql: str) -> dict[str, float]:
    """Uncompressed bytes a row of the columns that a statement names, by table."""
    words = set(_WORD.findall(sql))
    columns = connection.table(
        "SELECT table, column, sum(column_data_uncompressed_bytes) AS size, sum(rows) AS n, "
        "sumIf(data_uncompressed_bytes, part_type = 'Compact') AS compact FROM system.parts_columns "
        "WHERE active AND database = {database:String} AND table IN {tables:Array(String)} GROUP BY table, column",
        {"database": tables.database, "tables": list(names)},
    ).to_pylist()
    sizes: dict[str, float] = {}
    for line in columns:
        if line["column"] in words and line["n"]:
            # Small parts keep no sizes by column: there a column is an even share of the row.
            share = int(line["compact"]) / len(columns)
            sizes[line["table"]] = sizes.get(line["table"], 0.0) + (int(line["size"]) + share) / int(line["n"])
    return sizes
