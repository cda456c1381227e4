from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.expression.check import check_query
from heimdall_server.language.format import format_query
from heimdall_server.language.live import LiveAggregate
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.parser import parse
from heimdall_server.storage.clickhouse.compile import Parameters
from heimdall_server.storage.clickhouse.embedded import ChdbConnection, ChdbEngine
from heimdall_server.storage.clickhouse.schema import Tables, create_records, hot_column, identifier
from heimdall_server.storage.clickhouse.stages import compile_query
from tests.contract import conformance
from tests.contract.conformance import Case

DATASET = Dataset("logs", hot_keys=("user",))
HOT = {("attributes", "user"): identifier(hot_column("user"))}


@pytest.fixture(scope="module")
def connection(chdb_engine: ChdbEngine, chdb_database: str) -> Iterator[ChdbConnection]:
    connection = chdb_engine.connect()
    tables = Tables(chdb_database)
    connection.command(create_records(tables, DATASET))
    connection.insert(tables.records("logs"), [conformance.records()], {"async_insert": 0})
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def in_store(connection: ChdbConnection, chdb_database: str) -> Callable[..., pa.Table]:
    source = Tables(chdb_database).records("logs")

    def run(case: Case, hot: dict[tuple[str, str], str] | None = None) -> pa.Table:
        parameters = Parameters()
        select = compile_query(case.query, parameters, source=source, order_by="time, row", hot=hot)
        table = connection.table(select.sql, parameters.values)
        return table.rename_columns([output.name for output in select.outputs])

    return run


def same(case: Case, found: list[dict[str, Any]]) -> None:
    assert case.table is not None
    if case.ordered:
        assert found == case.table
    else:
        assert sorted(found, key=repr) == sorted(case.table, key=repr)


@pytest.mark.parametrize("case", conformance.row_cases(), ids=lambda case: case.name)
def test_predicate_gives_the_rows_of(case: Case) -> None:
    matched = RowPipeline(case.query)(conformance.records())
    assert [conformance.ids()[row] for row in matched.column("row").to_pylist()] == case.rows


@pytest.mark.parametrize("hot", [None, HOT], ids=["maps", "hot keys"])
@pytest.mark.parametrize("case", conformance.row_cases(), ids=lambda case: case.name)
def test_clickhouse_gives_the_rows_of(
    case: Case, hot: dict[tuple[str, str], str] | None, in_store: Callable[..., pa.Table]
) -> None:
    table = in_store(case, hot)
    assert [conformance.ids()[row] for row in table.column("row").to_pylist()] == case.rows


@pytest.mark.parametrize("case", conformance.table_cases(), ids=lambda case: case.name)
def test_live_aggregate_gives_the_table_of(case: Case) -> None:
    aggregate = LiveAggregate(case.query)
    records = conformance.records()
    for start in range(0, records.num_rows, 3):
        aggregate.update(records.slice(start, 3))
    same(case, conformance.table_of(aggregate.rows().batch))


@pytest.mark.parametrize("case", conformance.table_cases(), ids=lambda case: case.name)
def test_clickhouse_gives_the_table_of(case: Case, in_store: Callable[..., pa.Table]) -> None:
    same(case, conformance.table_of(in_store(case)))


@pytest.mark.parametrize("case", [*conformance.row_cases(), *conformance.table_cases()], ids=lambda case: case.name)
def test_canonical_text_says_the_same_as(case: Case) -> None:
    check_query(case.query)
    assert parse(format_query(case.query), now_ns=0) == case.query
