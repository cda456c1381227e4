from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from heimdall.admin.v1 import admin_service_pb2
from heimdall.ingest.v1 import source_pb2
from heimdall_client.cli import console, plain, tables
from heimdall_client.cli.live_table import ROWS_MAX, LiveTable
from heimdall_client.cli.log_view import LogView, is_records, record_id

NOON = dt.datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=dt.UTC)


def row(**values: Any) -> dict[str, Any]:
    return {
        "time": NOON,
        "severity": 17,
        "severity_text": "ERROR",
        "service": "api",
        "host": "web-1",
        "source": "file:web-1:/var/log/app.log#0123456789abcdef",
        "body": "it broke",
        "shard": 0,
        "position": 8,
        "row": 5986,
        **values,
    }


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (3 * 2**50, "3,072.0 TiB")],
)
def test_sizes_read_well(number: int, text: str) -> None:
    assert console.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (2e-5, "20 µs"), (0.0714, "71 ms"), (5, "5.0 s"), (90, "1 m 30 s"), (120, "2 m"), (3660, "1 h 1 m"),
        (90000, "1 d 1 h"), (30 * 86400, "30 d"),
    ],
)  # fmt: skip
def test_spans_read_well(seconds: float, text: str) -> None:
    assert console.span(seconds) == text


@given(st.text())
def test_no_control_character_of_a_record_reaches_the_terminal(text: str) -> None:
    shown = console.clean(text)
    assert len(shown) == len(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_a_record_is_one_line_with_its_id_at_the_end() -> None:
    line = LogView(width=0, colour=False).line(row())
    assert line == "2026-05-04T12:00:00.123Z ERROR api      it broke 0-8-5986"
    assert record_id(row()) == "0-8-5986"


@given(st.text(max_size=300), st.integers(80, 200))
def test_a_record_fits_the_terminal(body: str, width: int) -> None:
    line = LogView(width=width, colour=False).line(row(body=body))
    assert cell_len(line) == width
    assert line.endswith(" 0-8-5986")


def test_colours_change_nothing_but_colours() -> None:
    plain_line = LogView(width=100, colour=False).line(row(body="é" * 200))
    coloured = LogView(width=100, colour=True).line(row(body="é" * 200))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain_line
    assert "\x1b[1;31mERROR" in coloured


@pytest.mark.parametrize(
    ("severity", "text", "shown"),
    [(0, "", "-"), (0, "custom-level", "custo"), (1, "", "TRACE"), (10, "", "INFO"), (24, "emerg", "FATAL")],
)
def test_severities_have_five_letters_at_most(severity: int, text: str, shown: str) -> None:
    line = LogView(width=0, colour=False).line(row(severity=severity, severity_text=text))
    assert line.split()[1] == shown


def test_a_record_without_service_is_named_by_host_else_by_its_file() -> None:
    view = LogView(width=0, colour=False)
    assert view.line(row(service="")).split()[2] == "web-1"
    assert view.line(row(service="", host="")).split()[2] == "app.log"
    assert view.line(row(service="", host="", source="")).split()[2] == "-"


def test_a_long_name_is_cut_and_the_column_grows_no_further() -> None:
    view = LogView(width=0, colour=False)
    assert view.line(row(service="s" * 40)).split()[2] == "s" * 19 + "…"
    assert view.line(row()).index("it broke") == 24 + 7 + 20 + 1


def test_further_lines_of_a_body_are_counted_or_shown() -> None:
    stack = row(body="boom\r\n  at a\n  at b\n", attributes={"k": "v\x1b"}, attributes_number={"n": 2.0})
    assert "boom ⏎ +2 " in LogView(width=0, colour=False).line(stack)
    full = LogView(width=0, colour=False, full=True).line(stack)
    assert full.splitlines()[1] == "      at a"
    assert full.endswith("k=v␛ n=2 0-8-5986")


def test_only_whole_records_are_shown_as_lines() -> None:
    assert is_records([*row(), "trace_id"])
    assert not is_records(["service", "count"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (1234567, "1,234,567"), (0.5, "0.5"), (1e6, "1,000,000"), (1e20, "1e+20"), (True, "true"),
        (NOON, "2026-05-04T12:00:00.123Z"), ({"a": 1}, "a=1"), (["x", 1], '["x", 1]'), ("a\x07", "a␇"),
        (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_cells_are_short_texts(value: Any, text: str) -> None:
    assert tables.cell(value) == text


def test_tables_on_a_pipe_are_aligned_without_rules(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(tables.table(["service", "count"], [["api", 1200], ["checkout", None]]))
    assert capsys.readouterr().out == "service   count\napi       1,200\ncheckout\n"


def test_messages_become_plain_values() -> None:
    answer = admin_service_pb2.Dataset(
        dataset_id="logs",
        retention_duration=Duration(seconds=1, nanos=500_000_000),
        record_count=2**60,
        newest_time=Timestamp(seconds=1, nanos=20),
    )
    assert plain.to_plain(answer) == {
        "dataset_id": "logs",
        "partition_unit": "",
        "retention_duration": 1.5,
        "retention_bytes": 0,
        "record_count": 2**60,
        "size_bytes": 0,
        "oldest_time": None,
        "newest_time": "1970-01-01T00:00:01.00000002Z",
    }
    source = source_pb2.Source(format=source_pb2.Format(kind=source_pb2.Format.KIND_CSV, options={"delimiter": ";"}))
    source.position.shards[0] = 7
    made = plain.to_plain(source)
    assert made["format"] == {"kind": "csv", "options": {"delimiter": ";"}}
    assert made["position"] == {"journal_id": "", "shards": {"0": 7}}
    assert made["dump"] is None


def test_an_enum_value_that_this_version_does_not_know_is_its_number() -> None:
    enum = source_pb2.Format.DESCRIPTOR.fields_by_name["kind"].enum_type
    assert plain.enum_name(enum, 99) == "99"
    assert plain.enum_name(enum, 0) == "unspecified"


def test_the_newest_values_of_a_group_replace_the_older_ones() -> None:
    table = LiveTable("q", ["service", "count"], ["service"])
    table.put({"service": "a", "count": 1}, revision=1)
    table.put({"service": "b", "count": 5}, revision=1)
    table.put({"service": "a", "count": 9}, revision=3)
    table.put({"service": "a", "count": 2}, revision=2)
    assert [(r["service"], r["count"]) for r in table.rows()] == [("a", 9), ("b", 5)]


def test_the_newest_interval_comes_first_and_the_oldest_is_forgotten() -> None:
    table = LiveTable("q", ["time", "service", "count"], ["time", "service"])
    for minute in range(ROWS_MAX + 5):
        table.put({"time": NOON + dt.timedelta(minutes=minute), "service": "a", "count": minute}, revision=1)
    counts = [r["count"] for r in table.rows()]
    assert len(counts) == ROWS_MAX
    assert counts[0] == ROWS_MAX + 4
    assert counts[-1] == 5
