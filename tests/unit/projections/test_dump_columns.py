"""Every column of a dump is a field of the graph, whatever it is called, whatever the format, however many there are."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pytest
from prometheus_client import REGISTRY

from heimdall_server.canonical.identity import entity_ids
from heimdall_server.decode import detect, dispatch
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.domain.records import ATTRIBUTE_COUNT_MAX, DUMP_ATTRIBUTE_COUNT_MAX
from heimdall_server.projections.graph.extraction import Looked, look
from heimdall_server.projections.graph.record_hashes import record_hashes
from heimdall_server.projections.graph.work import FactWork
from tests.support.decoding import attributes, check, context

ROWS = [
    {"host": "evil.example", "app": "mail", "level": "12", "message": "hunter 2", "ts": "1999", "user": "bob"},
    {"host": "203.0.113.7", "app": "ftp", "level": "error", "message": "secret x", "ts": "2000", "user": "eve"},
]
COLUMNS = tuple(ROWS[0])
FORMATS = ("csv", "ndjson", "json", "arrow", "logfmt", "pattern")


def written(name: str, rows: list[dict[str, str]]) -> bytes:
    """Rows as a file of a format has them."""
    match name:
        case "csv":
            return "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]).encode() + b"\n"
        case "json":
            return json.dumps(rows).encode()
        case "ndjson":
            return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        case "arrow":
            sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return sink.getvalue()
        case "logfmt":
            lines = (" ".join(f'{key}="{value}"' for key, value in row.items()) for row in rows)
            return "\n".join(lines).encode() + b"\n"
        case _:
            return "\n".join("|".join(row.values()) for row in rows).encode() + b"\n"


def format_of(name: str, data: bytes) -> Format:
    """As ingest tells it, or is told."""
    if name in ("logfmt", "pattern"):
        regex = r"\|".join(rf"(?P<{column}>[^|]*)" for column in COLUMNS)
        return Format(FormatKind.TEXT, {"pattern": name} if name == "logfmt" else {"pattern": "custom", "regex": regex})
    kinds = {"csv": FormatKind.CSV, "ndjson": FormatKind.NDJSON, "json": FormatKind.JSON, "arrow": FormatKind.ARROW}
    found = detect.resolve(kinds[name], {}, data, final=True)
    assert found is not None
    return found


def decoded(name: str, rows: list[dict[str, str]], *, dump: str = "forum") -> pa.RecordBatch:
    """Taken in with a default for the service, as a server is told by `--service`."""
    data = written(name, rows)
    told = context(dump=dump, first_record_number=1 if dump else 0, service="shop")
    return check(dispatch.decode(data, format_of(name, data), told, at_start=True))


def looked(records: pa.RecordBatch) -> Looked:
    return look([(1, records)], instance="here")


def joined(records: pa.RecordBatch) -> set[tuple[str, str, str]]:
    """Edges of the graph by the values that they join."""
    found = looked(records).facts(entity_ids)
    values = {row["id"]: (VERTEX_KINDS[row["kind"]], row["value"]) for row in found.vertices.to_pylist()}
    return {
        (values[row["start"]][1], EDGE_KINDS[row["kind"]], values[row["end"]][1]) for row in found.edges.to_pylist()
    }


@pytest.mark.parametrize("name", FORMATS)
def test_columns_that_records_have_a_place_for_are_fields_under_their_own_names(name: str) -> None:
    records = decoded(name, ROWS)
    assert records.column("host").to_pylist() == [row["host"] for row in ROWS]  # what they are searched by stays
    assert records.column("body").to_pylist() == [row["message"] for row in ROWS]
    edges = joined(records)
    assert {end for _, kind, end in edges if kind == "HAS_FIELD"} == set(COLUMNS)
    has_value = {(field, value) for field, kind, value in edges if kind == "HAS_VALUE"}
    assert has_value == {(column, row[column]) for row in ROWS for column in COLUMNS}
    for entity in ("evil.example", "203.0.113.7"):
        assert (entity, "OF_ENTITY", entity) in edges
    assert ("forum", "OBSERVED_IN", "host") in edges


@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_differ_in_such_a_column_only_are_different_records(name: str) -> None:
    for column in ("host", "app", "level", "ts", "message"):
        rows = [ROWS[0], {**ROWS[0], column: "7"}]
        assert len(set(record_hashes(decoded(name, rows)).tolist())) == 2, column


@pytest.mark.parametrize("name", FORMATS)
def test_logs_keep_nothing_twice(name: str) -> None:
    records = decoded(name, ROWS, dump="")
    assert [set(row) & {"host", "app", "message"} for row in attributes(records)] == [set(), set()]


def test_of_several_columns_that_mean_one_thing_none_is_lost() -> None:
    rows = [
        {"message": "one", "msg": "two", "Host": "a", "hostname": "b", "severity": "info", "lvl": "30", "trace_id": "x"}
    ]
    (row,) = attributes(decoded("ndjson", rows))
    assert row == rows[0]


def test_what_stands_in_the_host_of_a_log_is_seen_and_counted_as_the_rest() -> None:
    rows = [{"host": "203.0.113.7", "message": f"n{number} evil.example"} for number in range(3)]
    rows += [{"host": "web-1", "message": "nothing"}]
    seen = looked(decoded("ndjson", rows, dump="")).observations
    assert sorted(seen.select("row", "field", "type", "value", "whole").iter_rows()) == [
        *((row, field, kind, value, whole) for row in range(3) for field, kind, value, whole in (
            ("body", "domain", "evil.example", False), ("host", "ipv4", "203.0.113.7", True),
        )),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["csv", "ndjson"])
def test_a_wide_dump_has_all_its_columns_and_of_what_is_too_much_it_is_said(name: str) -> None:
    wide = [{f"c{number}": f"v{row}.{number}" for number in range(ATTRIBUTE_COUNT_MAX + 72)} for row in range(3)]
    found = looked(decoded(name, wide))
    assert found.fields["field"].n_unique() == ATTRIBUTE_COUNT_MAX + 72
    assert found.unread_count == 0
    wider = [{f"c{number}": "v" for number in range(DUMP_ATTRIBUTE_COUNT_MAX + 1)}, {"c0": "v"}]
    if name == "csv":
        wider[1] = dict.fromkeys(wider[0], "w")
    found = looked(decoded(name, wider))
    assert found.fields["field"].n_unique() == DUMP_ATTRIBUTE_COUNT_MAX
    assert found.unread_count == (2 if name == "csv" else 1)
    logs = looked(decoded(name, wide, dump=""))
    assert logs.unread_count == 0


async def test_records_of_which_the_graph_has_a_part_only_are_counted_and_told_of() -> None:
    work = FactWork("here")
    before = REGISTRY.get_sample_value("heimdall_graph_records_cut_total") or 0.0
    records = decoded("ndjson", [{"note": "x" * 40_000, "n": "1"}, {"note": "short", "n": "2"}])
    await work.facts(await work.look([(1, records)]), entity_ids)
    work.close()
    assert "not all of 1 records of dumps" in work.notice
    assert REGISTRY.get_sample_value("heimdall_graph_records_cut_total") == before + 1


def test_rows_that_differ_in_what_a_record_has_no_room_for_are_different_records() -> None:
    rows = [{"note": "x" * 40_000, "n": "1"}, {"note": "y" * 40_000, "n": "1"}]
    assert len(set(record_hashes(decoded("ndjson", rows)).tolist())) == 2
