"""Which way a query goes."""

from __future__ import annotations

import pytest

from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.needs import MINUTE_NS, covers_whole_minutes, query_needs
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    And,
    Bucket,
    Compare,
    Exists,
    Expression,
    Extract,
    Function,
    Limit,
    Not,
    Operator,
    Or,
    Query,
    Stage,
    Stats,
    TimeRange,
    Where,
    Words,
)
from heimdall_server.planner.planner import choose_path
from heimdall_server.ports.log_store import Path, RowKey, StoreQuery

ROLLUPS = (frozenset({"source", "service", "severity"}), frozenset({"source", "host"}))
COUNT = Aggregate(Function.COUNT, None, "n")
API = Compare(resolve("service"), Operator.EQ, "api")
TIMEOUT = Words(resolve("body"), ("timeout",))
TRACE = Compare(resolve("trace_id"), Operator.EQ, "0a" * 16)
HOUR = TimeRange(0, 60 * MINUTE_NS)


def path(filter_: Expression, *stages: Stage, time_range: TimeRange = HOUR, **values: object) -> Path:
    query = StoreQuery(Query(filter_, stages), time_range, {0: 9}, **values)  # type: ignore[arg-type]  # by test
    return choose_path(query, ROLLUPS).path


def count_by(*names: str, bucket_ns: int = 0) -> Stats:
    buckets = (Bucket(bucket_ns),) if bucket_ns else ()
    return Stats((COUNT,), (*buckets, *map(resolve, names)))


@pytest.mark.parametrize(
    ("filter_", "stages"),
    [
        (All(), (count_by(),)),
        (All(), (count_by("service", "severity", bucket_ns=MINUTE_NS),)),
        (API, (count_by("severity", bucket_ns=15 * MINUTE_NS),)),
        (And((API, Not(Exists(resolve("level"))))), (count_by("source"), Limit(3))),
        (All(), (Where(API), count_by("level"))),
        (Compare(resolve("host"), Operator.EQ, "h"), (count_by("source"),)),
        (All(), (Stats((Aggregate(Function.COUNT, resolve("host"), "n"),)),)),
    ],
)
def test_counts_by_columns_of_a_rollup_are_read_from_it(filter_: Expression, stages: tuple[Stage, ...]) -> None:
    assert path(filter_, *stages) is Path.ROLLUP


@pytest.mark.parametrize(
    ("filter_", "stages"),
    [
        (All(), (count_by("service", "host"),)),
        (All(), (count_by("user"),)),
        (Compare(resolve("user"), Operator.EQ, "x"), (count_by("service"),)),
        (All(), (count_by(bucket_ns=MINUTE_NS // 2),)),
        (All(), (count_by(bucket_ns=MINUTE_NS + 1),)),
        (All(), (Stats((Aggregate(Function.COUNT_DISTINCT, resolve("service"), "n"),)),)),
        (All(), (Limit(10), count_by("service"))),
        (All(), (Extract(resolve("body"), "(?P<x>a)", ("x",)), count_by("service"))),
    ],
)
def test_what_no_rollup_has_is_read_from_whole_minutes_of_records(
    filter_: Expression, stages: tuple[Stage, ...]
) -> None:
    assert path(filter_, *stages) is Path.MINUTE_COLUMN


def test_range_without_a_whole_minute_is_a_scan() -> None:
    assert path(All(), count_by("service"), time_range=TimeRange(1, MINUTE_NS + 1)) is Path.SCAN
    assert path(All(), count_by("user"), time_range=TimeRange()) is Path.SCAN
    assert path(All(), count_by("service"), time_range=TimeRange()) is Path.ROLLUP


def test_part_of_the_journal_is_not_read_from_a_rollup() -> None:
    assert path(All(), count_by("service"), after_positions={0: 3}) is Path.MINUTE_COLUMN
    assert path(All(), count_by("service"), after=RowKey(1, 0, 1, 1)) is Path.MINUTE_COLUMN


def test_trace_and_words_name_their_index() -> None:
    assert path(And((TIMEOUT, TRACE))) is Path.TRACE_INDEX
    assert path(And((API, TIMEOUT)), count_by("service")) is Path.TEXT_INDEX
    assert path(Or((API, TIMEOUT))) is Path.NEWEST_FIRST
    assert path(Not(TIMEOUT)) is Path.NEWEST_FIRST
    assert path(API, Limit(5)) is Path.NEWEST_FIRST


def test_words_name_no_index_that_the_store_lacks() -> None:
    query = StoreQuery(Query(And((API, TIMEOUT)), (count_by("user"),)), HOUR, {})
    assert choose_path(query, ROLLUPS).path is Path.TEXT_INDEX
    assert choose_path(query, ROLLUPS, word_index=False).path is Path.MINUTE_COLUMN


def test_reasons_are_sentences_without_values() -> None:
    query = StoreQuery(Query(And((API, TIMEOUT)), (count_by("user"),)), HOUR, {})
    reason = choose_path(query, ROLLUPS).reason
    assert reason
    assert "api" not in reason
    assert "timeout" not in reason


@pytest.mark.parametrize(
    ("start", "end", "covers"),
    [(None, None, False), (0, None, True), (None, 0, True), (0, MINUTE_NS, True), (1, 2 * MINUTE_NS - 1, False)],
)
def test_whole_minutes_of_a_range(start: int | None, end: int | None, *, covers: bool) -> None:
    assert covers_whole_minutes(TimeRange(start, end)) is covers


def test_buckets_have_a_common_measure() -> None:
    stats = Stats((COUNT,), (Bucket(6 * MINUTE_NS), Bucket(4 * MINUTE_NS, "b")))
    needs = query_needs(Query(All(), (stats,)))
    assert needs.bucket_ns == 2 * MINUTE_NS
    assert needs.dimensions == frozenset()
    assert needs.aggregates
