from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from heimdall_server.domain.datasets import Dataset
from heimdall_server.language.parser import parse
from heimdall_server.storage.clickhouse.compile import Parameters, compile_filter
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.schema import Tables, create_records
from heimdall_server.storage.clickhouse.stages import compile_query
from tests.support.random_records import batch_of, record

ROWS = 40_000


@pytest.fixture(scope="module")
def plan_of(chdb_engine: ChdbEngine, chdb_database: str) -> Iterator[Callable[[str], str]]:
    connection = chdb_engine.connect()
    tables = Tables(chdb_database)
    connection.command(create_records(tables, Dataset("logs")))
    plain = batch_of(
        [record(row, body=f"request number{row} Done in time", trace_id=row.to_bytes(16, "big")) for row in range(ROWS)]
    )
    connection.insert(tables.records("logs"), [plain], {"async_insert": 0})

    def explain(text: str) -> str:
        parameters = Parameters()
        condition = compile_filter(parse(text, now_ns=0).filter, parameters)
        sql = f"EXPLAIN indexes = 1 SELECT row FROM {tables.records('logs')} WHERE {condition}"  # noqa: S608 # values are parameters
        return "\n".join(connection.table(sql, parameters.values).column(0).to_pylist())

    yield explain
    connection.close()


@pytest.mark.parametrize(
    "text",
    [
        "number777",
        "Number777 done",
        '"number777 done"',
        "*umber777*",
        "number777 AND severity:<9 OR nowhere",
        "number777 OR number778 OR tokens:nowhere",
        "user:x number777",
    ],
)
def test_words_are_found_by_the_text_index(text: str, plan_of: Callable[[str], str]) -> None:
    plan = plan_of(text)
    assert "Name: words" in plan
    assert "Granules: 1/5" in plan or "Granules: 2/5" in plan, plan


def test_a_trace_is_found_by_its_bloom_filter(plan_of: Callable[[str], str]) -> None:
    plan = plan_of(f"trace_id:{777:032x}")
    assert "Name: trace" in plan
    assert "Granules: 1/5" in plan, plan


def test_a_time_in_the_filter_is_read_by_the_primary_key(plan_of: Callable[[str], str]) -> None:
    assert "PrimaryKey" in plan_of("time:<2026-01-01T00:00:00.000000100Z")


def test_no_text_of_a_person_becomes_part_of_the_statement() -> None:
    marks = ("NeedleWord", "needleword", "needle-name", "needle value", "10.99.0.0", "needle.*")
    text = (
        'NeedleWord service:"needle value" "needle-name":5 ip:10.99.0.0/16 /needle.*/ needle* attributes.needle-name:true '
        '| extract "needle-name" /(?P<needle>x)/ | stats count() as "needle value" by "needle-name", needle '
        '| where "needle-name":"needle value" | sort "needle value"'
    )
    parameters = Parameters()
    select = compile_query(parse(text, now_ns=0), parameters, source="logs")
    assert not any(mark in select.sql for mark in marks)
    assert "needle" not in select.sql
    assert [output.name for output in select.outputs] == ["needle-name", "needle", "needle value"]
