"""Makes a database fit this program: tables, new columns, and the refusal of what a newer one wrote."""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.storage.clickhouse.connection import Connection
from heimdall_server.storage.clickhouse.schema import (
    META_TABLE,
    ROLLUPS,
    STORE_SCHEMA_VERSION,
    TEXT_INDEX,
    TUNING,
    WORD_INDEXES,
    Tables,
    create_meta,
    create_records,
    create_rollup,
    identifier,
    period_expression,
    record_columns,
    record_indexes,
    rollup_table,
)

_VERSION_FACT = "schema_version"


def migrate(connection: Connection, tables: Tables, datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Make or change the tables.

    Args:
        connection: Blocks on it.
        tables: Names.
        datasets: As configured.

    Returns:
        Every dataset that has tables: the configured ones, and those that an earlier configuration had.

    Raises:
        ConfigurationError: A newer program wrote the database, or a dataset that holds records is to be
            partitioned otherwise. Nothing was changed.
        EngineError: The engine failed.
    """
    connection.command(f"CREATE DATABASE IF NOT EXISTS {identifier(tables.database)}")
    connection.command(create_meta(tables))
    _refuse_newer(connection, tables)
    found = _found_partitioning(connection, tables)
    problems = [
        f"dataset {dataset.name}: it holds records partitioned by {found[dataset.name]}; "
        f"restore its partition_unit and age_from, or use another dataset"
        for dataset in datasets
        if dataset.name in found and found[dataset.name] != period_expression(dataset)
    ]
    if problems:
        raise ConfigurationError(tuple(problems))
    configured = {dataset.name: dataset for dataset in datasets}
    indexed = _indexed_datasets(connection, tables)
    left = {name: _from_partitioning(name, key, indexed) for name, key in found.items() if name not in configured}
    wanted = {**configured, **left}
    for dataset in wanted.values():
        connection.command(create_records(tables, dataset))
        for rollup in ROLLUPS:
            connection.command(create_rollup(tables, dataset, rollup))
        _add_columns(connection, tables, dataset)
        _fit_indexes(connection, tables, dataset)
        tune(connection, tables, dataset.name)
    connection.command(
        f"INSERT INTO {tables.meta} (name, value, written) VALUES "
        f"('{_VERSION_FACT}', '{STORE_SCHEMA_VERSION}', now64(9))"
    )
    return wanted


def tune(connection: Connection, tables: Tables, dataset: str) -> None:
    """Give a dataset's tables the settings that make them cheaper, as far as the engine knows them."""
    names = [dataset, *(rollup_table(dataset, rollup) for rollup in ROLLUPS)]
    found = connection.table(
        "SELECT name, engine_full FROM system.tables WHERE database = {database:String} AND name IN {names:Array(String)}",
        {"database": tables.database, "names": names},
    )
    known = connection.table(
        "SELECT name FROM system.merge_tree_settings WHERE name IN {names:Array(String)}", {"names": list(TUNING)}
    )
    wanted = {name: f"{name} = {TUNING[name]}" for name in known.column("name").to_pylist()}
    for name, engine in zip(found.column("name").to_pylist(), found.column("engine_full").to_pylist(), strict=True):
        lacking = [setting for setting in wanted.values() if setting not in engine]
        if lacking:
            table = f"{identifier(tables.database)}.{identifier(name)}"
            connection.command(f"ALTER TABLE {table} MODIFY SETTING {', '.join(lacking)}")


def filled_datasets(connection: Connection, tables: Tables) -> set[str]:
    """Datasets that hold records."""
    parts = connection.table(
        "SELECT DISTINCT table FROM system.parts WHERE active AND rows > 0 AND database = {database:String}",
        {"database": tables.database},
    )
    return {name for name in parts.column("table").to_pylist() if ":" not in name}


def _refuse_newer(connection: Connection, tables: Tables) -> None:
    facts = connection.table(
        f"SELECT max(toUInt32OrZero(value)) AS version FROM {tables.meta} WHERE name = '{_VERSION_FACT}'"
    )
    version = int(facts.column("version")[0].as_py())
    if version > STORE_SCHEMA_VERSION:
        problem = f"the warm store has schema version {version}, this server knows up to {STORE_SCHEMA_VERSION}"
        raise ConfigurationError((f"{problem}; upgrade the server",))


def _found_partitioning(connection: Connection, tables: Tables) -> dict[str, str]:
    """Dataset → partition key, of the records tables that exist."""
    found = connection.table(
        "SELECT name, partition_key FROM system.tables WHERE database = {database:String} AND name != {meta:String}",
        {"database": tables.database, "meta": META_TABLE},
    )
    rows: Mapping[str, str] = dict(
        zip(found.column("name").to_pylist(), found.column("partition_key").to_pylist(), strict=True)
    )
    return {name: key for name, key in rows.items() if rollup_table(name, ROLLUPS[0]) in rows}


def _indexed_datasets(connection: Connection, tables: Tables) -> set[str]:
    """Names of the tables that have a text index."""
    found = connection.table(
        "SELECT table FROM system.data_skipping_indices WHERE database = {database:String} AND name = {index:String}",
        {"database": tables.database, "index": TEXT_INDEX},
    )
    return set(found.column("table").to_pylist())


def _from_partitioning(name: str, key: str, indexed: set[str]) -> Dataset:
    for unit in PartitionUnit:
        for age_from in AgeFrom:
            dataset = Dataset(name, unit, age_from=age_from, text_index=name in indexed)
            if period_expression(dataset) == key:
                return dataset
    raise ConfigurationError((f"dataset {name}: its table is partitioned by {key}, which this server never made",))


def _add_columns(connection: Connection, tables: Tables, dataset: Dataset) -> None:
    found = connection.table(
        "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String}",
        {"database": tables.database, "table": dataset.name},
    )
    have = set(found.column("name").to_pylist())
    for name, declaration in record_columns(dataset).items():
        if name not in have:
            records = tables.records(dataset.name)
            connection.command(f"ALTER TABLE {records} ADD COLUMN IF NOT EXISTS {identifier(name)} {declaration}")


def _fit_indexes(connection: Connection, tables: Tables, dataset: Dataset) -> None:
    """Add the indexes that a table lacks, and drop those of words that it shall not have.

    An added one is built for the records that are there in the background; until then they are read as if there
    were none, and queries are as right as before.
    """
    records = tables.records(dataset.name)
    found = connection.table(
        "SELECT name FROM system.data_skipping_indices WHERE database = {database:String} AND table = {table:String}",
        {"database": tables.database, "table": dataset.name},
    )
    have, wanted = set(found.column("name").to_pylist()), record_indexes(dataset)
    for name in wanted.keys() - have:
        connection.command(f"ALTER TABLE {records} ADD INDEX IF NOT EXISTS {name} {wanted[name]}")
        connection.command(f"ALTER TABLE {records} MATERIALIZE INDEX {name} SETTINGS mutations_sync = 0")
    for name in WORD_INDEXES & (have - wanted.keys()):
        connection.command(f"ALTER TABLE {records} DROP INDEX IF EXISTS {name} SETTINGS mutations_sync = 0")
