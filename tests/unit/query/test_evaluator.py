"""Rows that match, and buckets that are open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import QueryCostError
from heimdall_server.language import live
from heimdall_server.language.parser import parse
from heimdall_server.language.shared_filter import Interner
from heimdall_server.services.query.logic.watch.evaluator import AggregateEvaluator, RowEvaluator, Upsert
from tests.support.random_records import TIME_NS, batch_of, record

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
Values = dict[tuple[int, str], int]


def batch(
    position: int, seconds: Sequence[int], *, service: str = "api", observed: int | None = None
) -> pa.RecordBatch:
    return batch_of(
        [
            record(
                row,
                position=position,
                time=TIME_NS + second * SECOND_NS,
                observed_time=TIME_NS + (second if observed is None else observed) * SECOND_NS,
                service=service,
            )
            for row, second in enumerate(seconds)
        ]
    )


def counter(text: str = "* | stats count() as n by bucket(time, 1m), service", **values: Any) -> AggregateEvaluator:
    return AggregateEvaluator(parse(text, now_ns=0), **{"open_ns": 2 * MINUTE_NS, **values})


def held(values: Values, upserts: Sequence[Upsert]) -> Values:
    """What a client holds after upserts."""
    for upsert in upserts:
        for row in upsert.batch.to_pylist():
            start = int(row["time"].timestamp()) * SECOND_NS
            assert start == upsert.bucket_ns
            values[start - TIME_NS, row["service"]] = row["n"]
    return values


def test_rows_keep_their_place_whatever_fields_are_shown() -> None:
    evaluator = RowEvaluator(parse("service:api | fields host", now_ns=0))
    matched = evaluator.take([batch(1, [0, 1], service="web"), batch(2, [0, 1, 2])])
    assert matched.shown.schema.names == ["host"] == evaluator.schema.names
    assert [each.tolist() for each in matched.keys] == [[2, 2, 2], [0, 1, 2]]


def test_changed_groups_come_once_by_bucket() -> None:
    evaluator = counter()
    assert evaluator.update([batch(1, [0, 1, 61])]) == []
    assert held({}, evaluator.upserts()) == {(0, "api"): 2, (MINUTE_NS, "api"): 1}
    assert evaluator.upserts() == []
    evaluator.update([batch(2, [62])])
    assert held({}, evaluator.upserts()) == {(MINUTE_NS, "api"): 2}


def test_a_late_record_sends_its_bucket_again_while_that_is_open() -> None:
    evaluator = counter()
    evaluator.update([batch(1, [0, 150])])
    evaluator.upserts()
    evaluator.update([batch(2, [1])])
    assert held({}, evaluator.upserts()) == {(0, "api"): 2}


def test_a_bucket_closes_with_its_last_values_and_takes_nothing_more() -> None:
    evaluator = counter()
    evaluator.update([batch(1, [0, 1])])
    assert held({}, evaluator.update([batch(2, [185])])) == {(0, "api"): 2, (180 * SECOND_NS, "api"): 1}
    assert evaluator.resume_position(2) == 1
    evaluator.update([batch(3, [2])])
    assert evaluator.late_count == 1
    assert evaluator.upserts() == []


def test_a_stamp_from_the_future_closes_nothing() -> None:
    evaluator = counter()
    evaluator.update([batch(1, [0]), batch(2, [7200], observed=1), batch(3, [1])])
    assert held({}, evaluator.upserts())[0, "api"] == 2


def test_columns_that_are_not_shown_still_tell_the_bucket() -> None:
    evaluator = counter("* | stats count() as n by bucket(time, 1m), service | fields service, n")
    assert evaluator.schema.names == ["service", "n"]
    evaluator.update([batch(1, [0, 61])])
    assert [(each.bucket_ns, each.batch.to_pylist()) for each in evaluator.upserts()] == [
        (TIME_NS, [{"service": "api", "n": 1}]),
        (TIME_NS + MINUTE_NS, [{"service": "api", "n": 1}]),
    ]


def test_a_ranking_is_sent_whole() -> None:
    evaluator = counter("* | top 1 service")
    evaluator.update([batch(1, [0]), batch(2, [0, 1], service="web")])
    (upsert,) = evaluator.upserts()
    assert upsert.bucket_ns is None
    assert [row["service"] for row in upsert.batch.to_pylist()] == ["web"]
    assert evaluator.upserts() == []


def test_too_many_groups_end_the_watch_and_are_not_counted_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.LiveAggregate.__init__, "__kwdefaults__", {"groups_max": 3})
    evaluator = counter("* | stats count() by service")
    evaluator.update([batch(n, [0], service=f"s{n}") for n in range(3)])
    with pytest.raises(QueryCostError, match="group by fewer values"):
        evaluator.update([batch(4, [0], service="s4")])


def test_the_oldest_buckets_make_room_and_are_sent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.evaluator.GROUPS_MAX", 8)
    evaluator = counter(open_ns=10**6 * MINUTE_NS)
    values: Values = {}
    for position in range(1, 30):
        held(values, evaluator.update([batch(position, [60 * position])]))
    held(values, evaluator.upserts())
    assert values == {(position * MINUTE_NS, "api"): 1 for position in range(1, 30)}


frames = st.lists(
    st.tuples(st.lists(st.integers(0, 900), min_size=1, max_size=5), st.sampled_from(("api", "web"))),
    min_size=1,
    max_size=25,
)


def feed(evaluator: AggregateEvaluator, batches: Sequence[pa.RecordBatch], cuts: Sequence[int], values: Values) -> None:
    """Count batches in, some at a time, telling now and then."""
    start = 0
    for cut in [*sorted(set(cuts)), len(batches)]:
        if batches[start:cut]:
            held(values, evaluator.update(batches[start:cut]))
            if cut % 2:
                held(values, evaluator.upserts())
        start = cut
    held(values, evaluator.upserts())


@settings(max_examples=60, deadline=None)
@given(frames, st.lists(st.integers(0, 25), max_size=6), st.lists(st.integers(0, 25), max_size=6))
def test_values_do_not_depend_on_how_records_are_cut(
    content: list[tuple[list[int], str]], cuts: list[int], others: list[int]
) -> None:
    batches = [batch(number, seconds, service=service) for number, (seconds, service) in enumerate(content, 1)]
    one: Values = {}
    two: Values = {}
    feed(counter(), batches, cuts, one)
    feed(counter(), batches, others, two)
    assert one == two


@settings(max_examples=100, deadline=None)
@given(frames, st.integers(0, 25), st.lists(st.integers(0, 25), max_size=6))
def test_counting_again_from_the_resume_position_gives_the_same_values(
    content: list[tuple[list[int], str]], stop: int, cuts: list[int]
) -> None:
    batches = [batch(number, seconds, service=service) for number, (seconds, service) in enumerate(content, 1)]
    whole: Values = {}
    feed(counter(), batches, cuts, whole)
    values: Values = {}
    first = counter()
    held(values, first.update(batches[:stop]))
    position = first.resume_position(min(stop, len(batches)))
    second = counter(horizon_ns=first.horizon_ns)
    feed(second, batches[position:], [], values)
    assert values == whole


@settings(max_examples=50, deadline=None)
@given(frames)
def test_every_record_is_in_a_value_or_counted_as_late(content: list[tuple[list[int], str]]) -> None:
    batches = [batch(number, seconds, service=service) for number, (seconds, service) in enumerate(content, 1)]
    evaluator = counter()
    values: Values = {}
    feed(evaluator, batches, [], values)
    assert sum(values.values()) + evaluator.late_count == sum(len(seconds) for seconds, _ in content)
    unlimited: Values = {}
    feed(counter(open_ns=10**6 * MINUTE_NS), batches, [3, 5], unlimited)
    expected = Counter((s // 60 * MINUTE_NS, service) for seconds, service in content for s in seconds)
    assert unlimited == dict(expected)


@settings(max_examples=50, deadline=None)
@given(frames, st.integers(1, 25))
def test_what_is_counted_quietly_is_told_once_it_is_whole(content: list[tuple[list[int], str]], quiet: int) -> None:
    batches = [batch(number, seconds, service=service) for number, (seconds, service) in enumerate(content, 1)]
    loud: Values = {}
    feed(counter(), batches, [], loud)
    values: Values = {}
    evaluator = counter()
    for number, each in enumerate(batches, 1):
        held(values, evaluator.update([each], quiet=number < quiet))
    held(values, evaluator.upserts())
    assert values == loud


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("service:api | stats count() as n by bucket(time, 1m), service", "service:(api OR web) {}"),
        (
            "* | where service:api | stats count() as n by bucket(time, 1m), service",
            "* | where service:(api OR web) {}",
        ),
        (
            "| extract service /(?P<name>.*)/ | where name:api | stats count() as n by bucket(time, 1m), service",
            "| extract service /(?P<name>.*)/ | where name:(api OR web) {}",
        ),
    ],
)
def test_another_filter_counts_on_what_was_counted(first: str, second: str) -> None:
    interner = Interner()
    evaluator = AggregateEvaluator(parse(first, now_ns=0), open_ns=2 * MINUTE_NS, interner=interner)
    evaluator.update([batch(1, [0, 1]), batch(2, [2], service="web")])
    held({}, evaluator.upserts())
    stats = "| stats count() as n by bucket(time, 1m), service"
    evaluator.refilter(parse(second.format(stats), now_ns=0), interner)
    evaluator.update([batch(3, [3]), batch(4, [4, 5], service="web"), batch(5, [6], service="db")])
    assert held({}, evaluator.upserts()) == {(0, "api"): 3, (0, "web"): 2}
    assert evaluator.resume_position(5) == 0


def test_another_filter_behind_the_values_chooses_among_all_of_them() -> None:
    interner = Interner()
    text = "* | stats count() as n by service | where service:{} | sort service"
    evaluator = AggregateEvaluator(parse(text.format("api"), now_ns=0), open_ns=0, interner=interner)
    evaluator.update([batch(1, [0, 1]), batch(2, [2], service="web")])
    (upsert,) = evaluator.upserts()
    assert upsert.batch.to_pylist() == [{"service": "api", "n": 2}]
    evaluator.refilter(parse(text.format("(api OR web)"), now_ns=0), interner)
    evaluator.update([batch(3, [3])])
    (upsert,) = evaluator.upserts()
    assert upsert.batch.to_pylist() == [{"service": "api", "n": 3}, {"service": "web", "n": 1}]


@pytest.mark.parametrize("text", ["service:{}", "* | where service:{}", "| extract service /(?P<x>.*)/ | where x:{}"])
def test_rows_of_another_filter_come_from_there_on(text: str) -> None:
    interner = Interner()
    evaluator = RowEvaluator(parse(text.format("api") + " | fields service | limit 9", now_ns=0), interner=interner)
    assert evaluator.take([batch(1, [0]), batch(2, [0], service="web")]).keys.positions.tolist() == [1]
    evaluator.refilter(parse(text.format("(api OR web)") + " | fields service | limit 9", now_ns=0), interner)
    matched = evaluator.take([batch(3, [0]), batch(4, [0], service="web"), batch(5, [0], service="db")])
    assert matched.shown.to_pylist() == [{"service": "api"}, {"service": "web"}]
    assert evaluator.limit == 9
