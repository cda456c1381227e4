from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.expression.check import check_query
from heimdall_server.domain.expression.tree import Expression, Query
from heimdall_server.language.live import LiveAggregate
from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.storage.clickhouse.compile import Parameters, compile_filter
from heimdall_server.storage.clickhouse.embedded import ChdbConnection, ChdbEngine
from heimdall_server.storage.clickhouse.schema import Tables, create_records
from heimdall_server.storage.clickhouse.stages import compile_query
from tests.contract import conformance
from tests.support.random_records import batches, expressions

STATS = (
    "| stats count(), count(user), dc(status), dc(severity), sum(status), min(status), max(status)",
    "| stats count() by user, severity",
    '| stats count(), dc("shared"), avg(flags), min(time), max(time) by service',
    "| stats count(), p50(status), quantile(status, 0.9), max(record_number) by bucket(time, 2m)",
    "| stats count() by status, resource.shared",
    "| stats count() by attributes.ok, trace_id, flags",
    r"| extract /(?P<first>[a-z]+)(?P<rest>.*)/ | stats count(), count(rest), sum(first) by first",
    r"| extract user /^(?P<n>\S+)$/ | stats count(), sum(n), dc(n) by n | where n > 1 OR NOT n:*",
    "| stats count() by severity | sort -severity, count | limit 3",
    "| stats count() as n by user | where n > 1 AND user:* | sort -n | limit 2 | fields n",
)


@pytest.fixture(scope="module")
def store(chdb_engine: ChdbEngine, chdb_database: str) -> Iterator[tuple[ChdbConnection, str]]:
    connection = chdb_engine.connect()
    tables = Tables(chdb_database)
    connection.command(create_records(tables, Dataset("logs")))
    yield connection, tables.records("logs")
    connection.close()


def fill(connection: ChdbConnection, table: str, batch: pa.RecordBatch) -> None:
    connection.command(f"TRUNCATE TABLE {table}")
    connection.insert(table, [batch], {"async_insert": 0})


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), trees=st.lists(expressions, min_size=15, max_size=30))
def test_predicate_and_clickhouse_match_the_same_rows(
    store: tuple[ChdbConnection, str], batch: pa.RecordBatch, trees: list[Expression]
) -> None:
    connection, table = store
    fill(connection, table, batch)
    parameters = Parameters()
    selects = []
    for number, tree in enumerate(trees):
        check_query(Query(tree))
        condition = compile_filter(tree, parameters)
        selects.append(f"SELECT {number} AS tree, groupArray(row) AS rows FROM {table} WHERE {condition}")  # noqa: S608 # values are parameters
    found = connection.table(" UNION ALL ".join(selects), parameters.values).to_pylist()
    in_store = {each["tree"]: sorted(each["rows"]) for each in found}
    for number, tree in enumerate(trees):
        matched = batch.filter(compile_predicate(tree)(batch)).column("row").to_pylist()
        assert in_store[number] == matched, (tree, number)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), step=st.integers(1, 25))
@pytest.mark.parametrize("text", STATS)
def test_live_aggregates_are_those_of_clickhouse(
    store: tuple[ChdbConnection, str], batch: pa.RecordBatch, step: int, text: str
) -> None:
    connection, table = store
    fill(connection, table, batch)
    query = parse(text, now_ns=0)
    parameters = Parameters()
    select = compile_query(query, parameters, source=table)
    answer = connection.table(select.sql, parameters.values)
    answer = answer.rename_columns([output.name for output in select.outputs])
    live = LiveAggregate(query)
    for start in range(0, batch.num_rows, step):
        live.update(batch.slice(start, step))
    found, wanted = rounded(live.rows().batch), rounded(answer)
    assert found == wanted if "sort" in text else sorted(found, key=repr) == sorted(wanted, key=repr)


def rounded(rows: pa.RecordBatch | pa.Table) -> list[dict[str, object]]:
    """Sums differ in the order of their terms."""
    return [
        {name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()}
        for row in conformance.table_of(rows)
    ]
