"""What a query will cost, as far as that tells a panel from a scan."""

from __future__ import annotations

import pytest

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.language.parser import parse
from heimdall_server.planner.cost import FIXED_S, estimate_cost_s, real_cost_s
from heimdall_server.planner.planner import choose_path
from heimdall_server.ports.log_store import Path, StoreQuery

ROWS = 20_000_000
SHORT_S = 0.25
ROLLUPS = (frozenset({"source", "service", "severity"}), frozenset({"source", "host"}))


def asked(text: str) -> StoreQuery:
    return StoreQuery(parse(text, now_ns=0), TimeRange(), {})


def cost_s(text: str, rows: int = ROWS) -> float:
    query = asked(text)
    return estimate_cost_s(query, choose_path(query, ROLLUPS).path, rows)


@pytest.mark.parametrize(
    "text",
    [
        "* | timechart 1m count()",
        "severity:>=ERROR | stats count() by service",
        "trace_id:0af7651916cd43dd8448eb211c80319c",
        "* | limit 100",
        "region:eu* | limit 100",
        "timeout | stats count()",
        "timeout | stats count() by service",
    ],
)
def test_what_an_index_or_a_rollup_answers_is_short_over_any_number_of_rows(text: str) -> None:
    assert FIXED_S <= cost_s(text) < SHORT_S


@pytest.mark.parametrize(
    "text",
    [
        "region:eu* | stats count() by region",
        "body:/x[0-9]+y/ | stats count()",
        "* | sort -duration_ms | limit 10",
        "* | stats p95(duration_ms) by service",
        "timeout OR region:eu | stats count()",
    ],
)
def test_what_reads_every_row_is_a_scan_over_many_and_short_over_few(text: str) -> None:
    assert cost_s(text) > SHORT_S
    assert cost_s(text, 100_000) < SHORT_S


def test_a_loaded_machine_makes_no_scan_of_what_read_little() -> None:
    query = asked("quartzite | limit 100")
    assert real_cost_s(query, Path.TEXT_INDEX, elapsed_s=30.0, rows_read=327_680) < SHORT_S
    assert real_cost_s(query, Path.TEXT_INDEX, elapsed_s=30.0, rows_read=0) < SHORT_S
    assert real_cost_s(query, Path.TEXT_INDEX, elapsed_s=0.02, rows_read=10**9) == 0.02


def test_rows_that_were_not_found_soon_make_a_scan() -> None:
    query = asked("region:nowhere | limit 100")
    assert real_cost_s(query, Path.NEWEST_FIRST, elapsed_s=8.0, rows_read=ROWS) > SHORT_S
