from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.language.live import LiveAggregate
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.parser import parse
from heimdall_server.language.sketches import DISTINCT_EXACT_MAX, DistinctSketch, QuantileSketch, hashes_of
from tests.support.random_records import TIME_NS, batch_of, batches, record

SECOND_NS = 10**9


def live(text: str, **options: int) -> LiveAggregate:
    return LiveAggregate(parse(text, now_ns=0), **options)


def services(*names: str) -> pa.RecordBatch:
    return batch_of([record(row, service=name, time=TIME_NS + row * SECOND_NS) for row, name in enumerate(names)])


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=50)
@given(batches(), st.integers(1, 25))
def test_an_aggregate_of_parts_is_that_of_the_whole(batch: pa.RecordBatch, step: int) -> None:
    text = "| stats count(), dc(user), min(status), p50(status), count(ok) by service, severity"
    whole, parts = live(text), live(text)
    whole.update(batch)
    for start in range(0, batch.num_rows, step):
        parts.update(batch.slice(start, step))
    key = repr
    assert sorted(parts.rows().batch.to_pylist(), key=key) == sorted(whole.rows().batch.to_pylist(), key=key)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=50)
@given(batches(), st.integers(0, 25), st.integers(0, 25))
def test_a_slice_of_a_batch_gives_its_part_of_the_rows(batch: pa.RecordBatch, start: int, count: int) -> None:
    pipeline = RowPipeline(
        parse("status:>=1 OR user:a* OR trace_id:00* OR k.dotted:* | extract user /(?P<u>.)/", now_ns=0)
    )
    rows = range(batch.num_rows)[start : start + count]
    expected = [row for row in pipeline(batch).to_pylist() if row["row"] in rows]
    assert repr(pipeline(batch.slice(start, count)).to_pylist()) == repr(expected)


def test_only_groups_that_changed_are_sent_again_with_a_higher_revision() -> None:
    aggregate = live("| stats count() by service")
    aggregate.update(services("a", "b", "a"))
    first = aggregate.changed()
    assert sorted(first.batch.to_pylist(), key=repr) == [{"service": "a", "count": 2}, {"service": "b", "count": 1}]
    assert first.revisions == [1, 1]
    aggregate.update(services("b"))
    second = aggregate.changed()
    assert second.batch.to_pylist() == [{"service": "b", "count": 2}]
    assert second.revisions == [2]
    assert aggregate.changed().batch.num_rows == 0


def test_a_late_record_sends_its_bucket_again_until_it_is_forgotten() -> None:
    aggregate = live("| stats count() by bucket(time, 10s)")
    aggregate.update(services(*["a"] * 25))
    aggregate.changed()
    aggregate.update(services("late"))
    assert [row["count"] for row in aggregate.changed().batch.to_pylist()] == [11]
    assert aggregate.forget(before_ns=TIME_NS + 20 * SECOND_NS) == 2
    assert [row["count"] for row in aggregate.rows().batch.to_pylist()] == [5]
    assert live("| stats count() by service").forget(before_ns=2**62) == 0


def test_groups_beyond_the_bound_are_counted_as_overflow() -> None:
    aggregate = live("| stats count() by service", groups_max=2)
    aggregate.update(services("a"))
    aggregate.update(services("b"))
    aggregate.update(services("c", "c", "a"))
    assert (aggregate.group_count, aggregate.overflow_count, aggregate.record_count) == (2, 2, 5)
    assert sum(row["count"] for row in aggregate.rows().batch.to_pylist()) == 3


def test_estimates_are_named() -> None:
    many = batch_of(
        [record(row, attributes={"id": str(row)}, attributes_number={"took": float(row)}) for row in range(5000)]
    )
    aggregate = live("| stats dc(id), p50(took), count(id), dc(host)")
    aggregate.update(many)
    rows = aggregate.rows()
    assert rows.approximate == {"count_distinct_id", "p50_took"}
    (row,) = rows.batch.to_pylist()
    assert row["count_distinct_id"] == pytest.approx(5000, rel=0.08)
    assert row["p50_took"] == pytest.approx(2500, abs=50)
    assert (row["count_id"], row["count_distinct_host"]) == (5000, 0)


@pytest.mark.parametrize(
    "text",
    [
        "timeout",
        "| sort service | stats count()",
        "| limit 5 | stats count()",
        "| stats count() by service | stats count()",
    ],
)
def test_what_has_no_meaning_on_a_stream_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        live(text)


def test_rows_show_the_fields_that_are_kept() -> None:
    pipeline = RowPipeline(parse("| extract /(?P<n>[0-9]+)/ | fields n, user, time, resource.zone", now_ns=0))
    batch = batch_of([record(0, body="took 5", attributes_number={"user": 7.0}, resource={"zone": "eu", "user": "x"})])
    shown = pipeline.shown(pipeline(batch)).to_pylist()
    assert [(row["n"], row["user"], row["resource.zone"]) for row in shown] == [("5", "7", "eu")]
    everything = RowPipeline(parse("*", now_ns=0))
    assert everything.shown(everything(batch)).schema.names == [name for name in batch.schema.names if name != "tokens"]


@given(st.lists(st.integers(0, 50), max_size=200), st.integers(1, 40))
def test_few_distinct_values_are_counted_exactly(values: list[int], step: int) -> None:
    import polars as pl

    sketch = DistinctSketch()
    for start in range(0, len(values), step):
        sketch.add(hashes_of(pl.Series(values[start : start + step], dtype=pl.Int64)))
    assert sketch.is_exact
    assert sketch.count() == len(set(values))


def test_many_distinct_values_are_estimated_within_bounds() -> None:
    generator = np.random.default_rng(1)
    sketch = DistinctSketch()
    for _ in range(20):
        sketch.add(generator.integers(0, 2**64, 10_000, np.uint64))
    assert not sketch.is_exact
    assert sketch.count() == pytest.approx(200_000, rel=4 / DISTINCT_EXACT_MAX**0.5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.floats(0, 1), st.integers(1, 50))
def test_quantiles_of_few_values_are_exact(values: list[float], level: float, step: int) -> None:
    sketch = QuantileSketch()
    for start in range(0, len(values), step):
        sketch.add(np.array(values[start : start + step]))
    assert sketch.quantile(level) == pytest.approx(float(np.quantile(values, level)))


@pytest.mark.parametrize("shape", ["uniform", "skewed", "ordered", "equal"])
def test_quantiles_of_many_values_are_off_by_a_hundredth_in_rank(shape: str) -> None:
    generator = random.Random(1)  # samples, not secrets
    values = {
        "uniform": [generator.random() for _ in range(50_000)],
        "skewed": [generator.paretovariate(1) for _ in range(50_000)],
        "ordered": [float(value) for value in range(50_000)],
        "equal": [7.0] * 50_000,
    }[shape]
    sketch = QuantileSketch()
    for start in range(0, len(values), 999):
        sketch.add(np.array(values[start : start + 999]))
    ordered = np.sort(values)
    for level in (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        found = sketch.quantile(level)
        low, high = np.searchsorted(ordered, [found * (1 - 1e-9), found * (1 + 1e-9)], side="left")
        assert (
            min(abs(low / 50_000 - level), abs(high / 50_000 - level)) < 0.01 or low / 50_000 <= level <= high / 50_000
        )
