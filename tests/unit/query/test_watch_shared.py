"""Watches that look at batches together find what each finds alone, and what each costs is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.expression.tree import Expression, Query
from heimdall_server.domain.records import HIDDEN_COLUMNS
from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.language.shared_fields import SharedFields
from heimdall_server.language.shared_filter import Evaluation, Interner, Plan
from heimdall_server.services.query.logic.watch.evaluator import (
    AggregateEvaluator,
    Evaluator,
    RowEvaluator,
    evaluator_of,
)
from heimdall_server.services.query.logic.watch.matched import Matched
from heimdall_server.services.query.logic.watch.meter import CostLimits, Meter
from heimdall_server.services.query.logic.watch.source import behind, joined
from heimdall_server.services.query.logic.watch.taking import take_together
from tests.support.random_records import batch_of, batches, expressions, record

OPEN_NS = 4
"""Buckets of a few nanoseconds, as far apart as the times of random records."""
STAGES = (
    "",
    "| fields service, body, user, status",
    "| where user:* AND NOT status:10",
    "| where user:* | fields attributes.shared, time",
    r"| extract /(?P<first>[a-z]+)/ | where first:t* | fields first, body",
    "| stats count()",
    "| stats count() by user, severity",
    "| where user:* | stats count(), dc(status), dc(severity), count(user) by service",
    "| stats count(), sum(status), avg(flags), min(time), max(status), p50(status) by bucket(time, 1s), service",
    "| stats count(), min(status), dc(resource.shared) by attributes.ok, trace_id, flags",
    r"| extract /(?P<first>[a-z]+)/ | stats count(), dc(first) by first",
)
SECOND_NS = 10**9


def told(evaluator: Evaluator, looked: Any) -> str:
    """What is found, in an order of its own where there is none. Equal floats look alike, NaN too."""
    if isinstance(evaluator, RowEvaluator):
        assert looked.count == looked.shown.num_rows
        looked.shown.validate(full=True)
        return repr((looked.shown.to_pylist(), [each.tolist() for each in looked.keys], looked.shown.schema))
    rows = [(upsert.bucket_ns, row) for upsert in (*looked, *evaluator.upserts()) for row in upsert.batch.to_pylist()]
    return repr((sorted(map(repr, rows)), evaluator.late_count, evaluator.horizon_ns, evaluator.resume_position(9)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.lists(batches(max_size=12), min_size=1, max_size=3),
    asked=st.lists(st.tuples(expressions, st.sampled_from(STAGES)), min_size=1, max_size=12),
    open_ns=st.sampled_from((OPEN_NS, 10 * SECOND_NS)),
)
def test_random_watches_together_find_what_each_finds_alone(
    content: list[pa.RecordBatch], asked: list[tuple[Expression, str]], open_ns: int
) -> None:
    queries = [Query(tree, parse(f"* {stages}", now_ns=0).stages) for tree, stages in asked]
    interner = Interner()
    together = [evaluator_of(query, open_ns=open_ns, interner=interner) for query in queries]
    alone = [evaluator_of(query, open_ns=open_ns) for query in queries]
    plan = Plan([evaluator.node for evaluator in together])
    for batch in content:
        shared = [Evaluation(plan, SharedFields(batch))]
        take_together([each for each in together if isinstance(each, RowEvaluator)], shared[0])
        for one, other in zip(together, alone, strict=True):
            if isinstance(one, AggregateEvaluator) and isinstance(other, AggregateEvaluator):
                assert told(one, one.look(shared)) == told(other, other.update([batch]))
            elif isinstance(one, RowEvaluator) and isinstance(other, RowEvaluator):
                assert told(one, one.look_at(shared)) == told(other, other.take([batch]))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.lists(batches(max_size=12), min_size=1, max_size=4), tree=expressions)
def test_rows_are_those_that_the_filter_lets_through(content: list[pa.RecordBatch], tree: Expression) -> None:
    matched = RowEvaluator(Query(tree)).take(content)
    shown = [name for name in content[0].schema.names if name not in HIDDEN_COLUMNS]
    kept = [batch.filter(compile_predicate(tree)(batch)).select(shown) for batch in content]
    assert repr(matched.shown.to_pylist()) == repr([row for batch in kept for row in batch.to_pylist()])
    matched.shown.validate(full=True)


def test_those_who_ask_the_same_get_one_answer() -> None:
    interner = Interner()
    one, other = (RowEvaluator(parse("service:api", now_ns=0), interner=interner) for _ in range(2))
    third = RowEvaluator(parse("service:api | fields body", now_ns=0), interner=interner)
    assert one.node is other.node is third.node
    batch = batch_of([record(row, service="api") for row in range(3)])
    shared = [Evaluation(Plan([one.node]), SharedFields(batch))]
    assert one.look_at(shared) is other.look_at(shared)
    assert third.look_at(shared).shown.schema.names == ["body"]


def looked_at_together(batch: pa.RecordBatch, *texts: str) -> list[Matched]:
    interner = Interner()
    asking = [RowEvaluator(parse(text, now_ns=0), interner=interner) for text in texts]
    shared = Evaluation(Plan([one.node for one in asking]), SharedFields(batch))
    take_together(asking, shared)
    return [one.look_at([shared]) for one in asking]


def test_rows_that_leave_together_are_bytes_of_their_own() -> None:
    batch = batch_of([record(row, service=f"s{row % 3}", body=f"number {row}") for row in range(9)])
    found = looked_at_together(batch, "service:s0", "service:s1", "service:s0 OR service:s2", "service:none")
    assert [[row["body"] for row in one.shown.to_pylist()] for one in found] == [
        [f"number {row}" for row in range(9) if row % 3 in places] for places in ([0], [1], [0, 2], [])
    ]
    weights = [one.packed.size_bytes for one in found[:3] if one.packed is not None]
    assert len(weights) == 3
    assert found[3].packed is None
    assert all(one.size_bytes == one.packed.message.size for one in found[:3] if one.packed is not None)
    assert max(weights) < 2 * looked_at_together(batch, "service:s0 OR service:s2")[0].size_bytes


def test_everybody_may_want_every_row() -> None:
    batch = batch_of([record(row, body=f"number {row}") for row in range(4)])
    one, other = looked_at_together(batch, "*", "body:number")
    assert one.shown.equals(other.shown)
    halves = looked_at_together(batch, "body:number AND (0 OR 3)", "body:number AND (1 OR 2)")
    assert [[row["body"][-1] for row in half.shown.to_pylist()] for half in halves] == [["0", "3"], ["1", "2"]]


def test_who_gets_too_much_takes_it_alone(monkeypatch: Any) -> None:
    batch = batch_of([record(row, service=f"s{row % 2}", body="x" * 1000 * (row % 2)) for row in range(8)])
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.taking.PACKED_BYTES_MAX", 4000)
    found = looked_at_together(batch, "service:s0", "service:s1", "service:s0 AND flags:0")
    assert [one.packed is None for one in found] == [False, True, False]
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.taking._TAKEN_BYTES_MAX", 1)
    again = looked_at_together(batch, "service:s0", "service:s1", "service:s0 AND flags:0")
    assert [one.shown.to_pylist() for one in again] == [one.shown.to_pylist() for one in found]


def positions(content: Sequence[pa.RecordBatch]) -> list[int]:
    return [position for batch in content for position in batch.column("position").to_pylist()]


def test_batches_are_joined_and_cut_behind_a_position() -> None:
    content = [batch_of([record(row, position=number) for row in range(number)]) for number in range(1, 5)]
    (whole,) = joined(content)
    assert positions([whole]) == positions(content)
    assert joined(content[:1]) == content[:1]
    assert joined([]) == []
    for position in range(6):
        assert positions([behind(whole, position)]) == [each for each in positions(content) if each > position]


def test_large_batches_are_not_joined_without_end(monkeypatch: Any) -> None:
    content = [batch_of([record(0, position=number, body="x" * 1000)]) for number in range(1, 7)]
    limit = 3 * int(content[0].nbytes)
    monkeypatch.setattr("heimdall_server.services.query.logic.watch.source._JOINED_BYTES", limit)
    assert [batch.num_rows for batch in joined(content)] == [3, 3]


def test_what_a_watch_spends_runs_out_with_the_time_of_the_journal() -> None:
    meter = Meter(CostLimits(share_together=0.1, together_burst_s=0.25, share_max=0.5, burst_s=1.0))
    for second in range(1, 100):
        meter.charge(0.09, second * SECOND_NS)
    assert (meter.is_dear, meter.is_over) == (False, False)
    for second in range(100, 110):
        meter.charge(0.45, second * SECOND_NS)
    assert (meter.is_dear, meter.is_over) == (True, False)
    meter.charge(1.1, 110 * SECOND_NS)
    assert meter.is_over


def test_catching_up_counts_as_the_time_it_catches_up_on() -> None:
    meter = Meter(CostLimits())
    for minute in range(1, 60):
        meter.charge(1.0, minute * 60 * SECOND_NS)
    assert (meter.is_dear, meter.is_over) == (True, False)
    unknown = Meter(CostLimits(burst_s=1.0))
    unknown.charge(0.6, 0)
    unknown.charge(0.6, 0)
    assert unknown.is_over
