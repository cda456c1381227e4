"""Filters that share their work match the rows that each of them matches alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import And, Compare, Expression, Not, Operator, Or, Regex, Words
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.language.shared_fields import SharedFields, take_rows
from heimdall_server.language.shared_filter import Evaluation, Interner, Plan
from heimdall_server.language.word_table import WordLookup, WordTable
from tests.support.random_records import BODY, PIECES, WORDS, batch_of, batches, expressions, leaves, record

SERVICE = FieldRef(Scope.CORE, "service")


def alone(tree: Expression, batch: pa.RecordBatch) -> list[int]:
    rows: list[int] = batch.filter(compile_predicate(tree)(batch)).column("row").to_pylist()
    return rows


def together(trees: Sequence[Expression], batch: pa.RecordBatch) -> list[list[int]]:
    interner = Interner()
    nodes = [interner.node(tree) for tree in trees]
    evaluation = Evaluation(Plan(nodes), SharedFields(batch))
    return [batch.column("row").take(pa.array(node.rows(evaluation))).to_pylist() for node in nodes]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), trees=st.lists(st.one_of(expressions, leaves), min_size=1, max_size=25))
def test_many_filters_together_match_what_each_matches_alone(batch: pa.RecordBatch, trees: list[Expression]) -> None:
    assert together(trees, batch) == [alone(tree, batch) for tree in trees]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), start=st.integers(0, 25), count=st.integers(0, 25), trees=st.lists(expressions, max_size=6))
def test_a_slice_of_a_batch_is_a_batch(batch: pa.RecordBatch, start: int, count: int, trees: list[Expression]) -> None:
    part = batch.slice(start, count)
    assert together(trees, part) == [alone(tree, part) for tree in trees]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), tree=expressions, data=st.data())
def test_some_rows_are_narrowed_to_those_of_them_that_match(
    batch: pa.RecordBatch, tree: Expression, data: st.DataObject
) -> None:
    node = Interner().node(tree)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, batch.num_rows - 1)))), np.int64)
    narrowed = node.narrow(Evaluation(Plan([node]), SharedFields(batch)), rows)
    assert narrowed.tolist() == [row for row in alone(tree, batch) if row in rows.tolist()]


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=20),
    phrases=st.lists(st.lists(st.sampled_from((*WORDS, "timeouts", "abcdefgh")), min_size=1, max_size=3), max_size=9),
    long=st.lists(st.sampled_from(("abcdefgh", "abcdefghi", "abcdefghj", "abcdefg", "ünderünder")), max_size=6),
)
def test_a_table_of_words_finds_whole_words_and_phrases(
    texts: list[str], phrases: list[list[str]], long: list[str]
) -> None:
    batch = batch_of([record(row, body=text + " " + " ".join(long)) for row, text in enumerate(texts)])
    phrases.extend([word] for word in (*long, "abcdefgh", "abcdefghi"))
    trees = [Words(BODY, tuple(phrase)) for phrase in phrases]
    assert together(trees, batch) == [alone(tree, batch) for tree in trees]


def test_words_do_not_reach_over_the_end_of_a_row() -> None:
    table = WordTable(pa.array(["time", "out", "", "a", "time out"]), WordLookup(["timeout", "time", "out", "a"]))
    assert table.rows(["timeout"]).tolist() == []
    assert table.rows(["time"]).tolist() == [0, 4]
    assert table.rows(["time", "out"]).tolist() == [4]
    assert table.rows(["out", "a"]).tolist() == []


def test_equal_expressions_are_one_node_and_literals_that_only_look_equal_are_not() -> None:
    interner = Interner()
    field = FieldRef(Scope.ANY, "ok")
    is_true, is_one = (interner.node(Compare(field, Operator.EQ, value)) for value in (True, 1.0))
    assert is_true is not is_one
    assert is_true is interner.node(Compare(field, Operator.EQ, value=True))


def test_patterns_are_tried_only_where_the_index_left_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    subset = SharedFields.subset

    def counted(fields: SharedFields, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> SharedFields:
        seen.append(len(rows))
        return subset(fields, rows)

    monkeypatch.setattr(SharedFields, "subset", counted)
    batch = batch_of([record(row, service=f"s{row % 20}", body=f"took {row} ms") for row in range(200)])
    pattern = Regex(BODY, "1[0-9]* ms")
    trees: list[Expression] = [
        And((pattern, Compare(SERVICE, Operator.EQ, "s3"))),
        And((Not(pattern), Words(BODY, ("77",)))),
        And((Or((pattern, Words(BODY, ("41",)))), Compare(SERVICE, Operator.EQ, "s1"))),
        And((pattern, Compare(SERVICE, Operator.EQ, "nobody"))),
    ]
    assert together(trees, batch) == [alone(tree, batch) for tree in trees]
    assert seen == [10, 1, 9]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), data=st.data())
def test_rows_that_are_taken_are_whole(batch: pa.RecordBatch, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, batch.num_rows - 1)))), np.int64)
    taken = take_rows(SharedFields(batch), rows)
    assert taken.schema == POSITIONED_SCHEMA
    assert repr(taken.to_pylist()) == repr(batch.take(pa.array(rows)).to_pylist())
    taken.validate(full=True)
