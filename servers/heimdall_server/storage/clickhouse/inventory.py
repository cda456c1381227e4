"""What a store holds, asked from the engine's own books: fields, sizes, partitions; and dropping the latter."""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from heimdall_server.domain.datasets import Dataset, PartitionUnit
from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope, resolve
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.ports.log_store import DatasetUsage, FieldInfo
from heimdall_server.storage.clickhouse.compile import Compiler, Parameters
from heimdall_server.storage.clickhouse.connection import Connection
from heimdall_server.storage.clickhouse.schema import ROLLUPS, Tables, rollup_table
from heimdall_server.storage.clickhouse.select import time_conditions

SAMPLE_ROWS: Final = 20_000
_MAP_TYPES: Final = {"": "keyword", "_number": "number", "_bool": "bool"}
_KIND_TYPES: Final = {FieldKind.SEVERITY: "number"}
_SECOND_NS: Final = 1_000_000_000


def sampled_fields(
    connection: Connection, tables: Tables, datasets: Sequence[str], time_range: TimeRange
) -> list[FieldInfo]:
    """Fields of the newest records: core ones first, then attributes by coverage."""
    parameters = Parameters()
    where = " AND ".join(time_conditions(time_range, parameters)) or "true"
    maps = [f"{scope}{suffix}" for scope in ("attributes", "resource") for suffix in _MAP_TYPES]
    sample = f"FROM {tables.over(datasets)} WHERE {where} ORDER BY time DESC LIMIT {SAMPLE_ROWS}"
    compiler = Compiler(parameters)
    counts = ", ".join(
        f"countIf({compiler.exists(FieldRef(Scope.CORE, name))}) AS n{index}" for index, name in enumerate(CORE_FIELDS)
    )
    core = connection.table(
        f"SELECT count() AS total, {counts} FROM (SELECT {', '.join(CORE_FIELDS)} {sample})", parameters.values
    ).to_pylist()[0]
    total = int(core["total"])
    fields = [
        FieldInfo(name, _KIND_TYPES.get(kind, str(kind)), int(core[f"n{index}"]), total)
        for index, (name, kind) in enumerate(CORE_FIELDS.items())
        if core[f"n{index}"]
    ]
    keys = ", ".join(f"arrayMap(key -> ('{name}', key), mapKeys({name}))" for name in maps)
    found = connection.table(
        f"SELECT found.1 AS map, found.2 AS key, count() AS n FROM (SELECT arrayJoin(arrayConcat({keys})) AS found "
        f"FROM (SELECT {', '.join(maps)} {sample})) GROUP BY map, key",
        parameters.values,
    ).to_pylist()
    return fields + _attribute_fields(found, total)


def _attribute_fields(found: Sequence[Mapping[str, object]], total: int) -> list[FieldInfo]:
    types: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for row in found:
        scope, _, suffix = str(row["map"]).partition("_")
        key = str(row["key"])
        plain = scope == "attributes" and resolve(key).scope is Scope.ANY
        name = key if plain else f"{scope}.{key}"
        types.setdefault(name, set()).add(_MAP_TYPES[f"_{suffix}" if suffix else ""])
        # A record has a key in one of a scope's maps only.
        counts[name] = counts.get(name, 0) + int(str(row["n"]))
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return [FieldInfo(name, "|".join(sorted(types[name])), counts[name], total) for name in ordered]


def dataset_usage(connection: Connection, tables: Tables, dataset: str) -> DatasetUsage:
    """Rows, bytes (rollups included) and times of a dataset."""
    sizes = connection.table(
        "SELECT sum(bytes_on_disk) AS size, sum(data_uncompressed_bytes) AS uncompressed FROM system.parts "
        "WHERE active AND database = {database:String} AND table IN {tables:Array(String)}",
        {"database": tables.database, "tables": _table_names(dataset)},
    ).to_pylist()[0]
    facts = connection.table(
        "SELECT count() AS n, toUnixTimestamp64Nano(min(time)) AS oldest, toUnixTimestamp64Nano(max(time)) AS newest "
        f"FROM {tables.records(dataset)}"
    ).to_pylist()[0]
    return DatasetUsage(
        dataset=dataset,
        record_count=int(facts["n"]),
        size_bytes=int(sizes["size"]),
        uncompressed_bytes=int(sizes["uncompressed"]),
        oldest_time_ns=int(facts["oldest"]),
        newest_time_ns=int(facts["newest"]),
    )


def expired_periods(
    connection: Connection,
    tables: Tables,
    dataset: Dataset,
    *,
    before_ns: int | None,
    size_bytes_max: int | None,
) -> dict[str, int]:
    """Periods of a dataset that may go, oldest first, and the records of each.

    The newest period stays, however large: what just came in is never forgotten for its size. A period of old records
    that came in lately isn't old: whoever takes last year's log in today wants to search it tomorrow.
    """
    rows = connection.table(
        "SELECT partition AS period, sum(bytes_on_disk) AS size, sumIf(rows, table = {dataset:String}) AS records "
        "FROM system.parts WHERE active AND database = {database:String} AND table IN {tables:Array(String)} "
        "GROUP BY period ORDER BY period",
        {"database": tables.database, "tables": _table_names(dataset.name), "dataset": dataset.name},
    ).to_pylist()
    left_bytes = sum(int(row["size"]) for row in rows)
    expired: dict[str, int] = {}
    for index, row in enumerate(rows):
        too_old = (
            before_ns is not None
            and _period_end_ns(row["period"], dataset.partition_unit) <= before_ns
            and _came_in_ns(connection, tables, dataset.name, row["period"]) <= before_ns
        )
        too_large = size_bytes_max is not None and left_bytes > size_bytes_max and index < len(rows) - 1
        if too_old or too_large:
            expired[row["period"]] = int(row["records"])
            left_bytes -= int(row["size"])
    return expired


def _came_in_ns(connection: Connection, tables: Tables, dataset: str, period: str) -> int:
    """When the youngest record of a period came in."""
    (row,) = connection.table(
        f"SELECT toUnixTimestamp64Nano(max(observed_time)) AS ns FROM {tables.records(dataset)} "
        "WHERE _partition_id IN (SELECT partition_id FROM system.parts WHERE active AND database = {database:String} "
        "AND table = {dataset:String} AND partition = {period:String})",
        {"database": tables.database, "dataset": dataset, "period": period},
    ).to_pylist()
    return int(row["ns"] or 0)


def drop_period(connection: Connection, tables: Tables, dataset: str, period: str) -> None:
    """Forget a period, counts first: cut short, it is found and dropped again."""
    for rollup in ROLLUPS:
        connection.command(f"ALTER TABLE {tables.rollup(dataset, rollup)} DROP PARTITION '{period}'")
    connection.command(f"ALTER TABLE {tables.records(dataset)} DROP PARTITION '{period}'")


def _table_names(dataset: str) -> list[str]:
    return [dataset, *(rollup_table(dataset, rollup) for rollup in ROLLUPS)]


def _period_end_ns(period: str, unit: PartitionUnit) -> int:
    first = dt.date.fromisoformat(period)
    if unit is PartitionUnit.DAY:
        end = first + dt.timedelta(days=1)
    else:
        end = (first.replace(day=28) + dt.timedelta(days=4)).replace(day=1)
    return int(dt.datetime.combine(end, dt.time(), dt.UTC).timestamp()) * _SECOND_NS
