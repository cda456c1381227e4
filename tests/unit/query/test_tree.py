"""The expression tree over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall.types.v1 import expression_pb2
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.check import check_query
from heimdall_server.domain.expression.fields import FieldRef, Scope, resolve
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    Bucket,
    Extract,
    Fields,
    Function,
    Limit,
    Not,
    Query,
    Sort,
    SortKey,
    Stage,
    Stats,
    Where,
)
from heimdall_server.rpc.messages import validate
from heimdall_server.services.query.translate.tree import query_in, query_out
from tests.support.random_records import attribute_fields, expressions, keywords

fields = st.one_of(keywords, attribute_fields)
row_stages: st.SearchStrategy[Stage] = st.one_of(
    st.builds(Where, expressions),
    st.builds(Limit, st.integers(1, 10_000_000)),
    st.builds(Sort, st.lists(st.builds(SortKey, fields, st.booleans()), min_size=1, max_size=3).map(tuple)),
)
stats: st.SearchStrategy[Stage] = st.builds(
    lambda by, bucket, quantile: Stats(
        (
            Aggregate(Function.COUNT, None, "n"),
            Aggregate(Function.QUANTILE, FieldRef(Scope.ANY, "took"), "q", quantile),
            Aggregate(Function.COUNT_DISTINCT, FieldRef(Scope.CORE, "host"), "d"),
        ),
        (*([bucket] if bucket else []), *by),
    ),
    st.lists(fields, max_size=2, unique_by=str),
    st.none() | st.builds(Bucket, st.sampled_from((10**9, 60 * 10**9, 86_400 * 10**9)), st.sampled_from(("t", "time"))),
    st.floats(0, 1),
)
EXTRACT = Extract(FieldRef(Scope.CORE, "body"), r"took (?P<ms>\d+)", ("ms",))


@st.composite
def queries(draw: st.DrawFn) -> Query:
    stages = draw(st.lists(row_stages, max_size=3))
    if draw(st.booleans()):
        stages.append(EXTRACT)
    tail = draw(st.sampled_from(("none", "fields", "stats")))
    if tail == "fields":
        stages.append(Fields(tuple(draw(st.lists(fields, min_size=1, max_size=4, unique=True)))))
    elif tail == "stats":
        stages += [draw(stats), Sort((SortKey(FieldRef(Scope.COMPUTED, "n"), descending=True),)), Limit(5)]
    return Query(draw(expressions), tuple(stages))


@settings(max_examples=150, deadline=None)
@given(queries())
def test_a_tree_comes_back_from_the_wire_as_it_went(query: Query) -> None:
    check_query(query)
    sent = query_out(query)
    validate(sent)
    assert query_in(expression_pb2.Query.FromString(sent.SerializeToString())) == query


def test_a_name_without_a_scope_is_looked_up_as_a_person_types_it() -> None:
    message = expression_pb2.Query(
        filter=expression_pb2.Expression(exists=expression_pb2.FieldRef(name="service.name")),
        stages=[
            expression_pb2.Stage(
                fields=expression_pb2.Stage.Fields(fields=[expression_pb2.FieldRef(name="resource.zone")])
            )
        ],
    )
    query = query_in(message)
    assert query.filter.field == FieldRef(Scope.CORE, "service")  # type: ignore[union-attr] # an Exists
    assert query.stages == (Fields((resolve("resource.zone"),)),)


def test_no_filter_is_every_record() -> None:
    assert query_in(expression_pb2.Query()) == Query(All())


def test_a_tree_that_breaks_a_rule_is_refused_with_the_place() -> None:
    limit = expression_pb2.Query(stages=[expression_pb2.Stage(limit=0)])
    with pytest.raises(InvalidArgumentError) as caught:
        query_in(limit)
    assert caught.value.field == "query.stages[0].count"


def test_a_tree_that_nests_too_deep_is_refused() -> None:
    expression: Not | All = All()
    for _ in range(80):
        expression = Not(expression)
    with pytest.raises(InvalidArgumentError, match="nest"):
        query_in(query_out(Query(expression)))
