from __future__ import annotations

import pytest

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.check import DEPTH_MAX, LEAVES_MAX, check_query
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    And,
    Bucket,
    Cidr,
    Compare,
    Exists,
    Expression,
    Extract,
    Fields,
    Function,
    Limit,
    Not,
    Operator,
    Or,
    Query,
    Regex,
    Sort,
    SortKey,
    Stage,
    Stats,
    TimeLiteral,
    Where,
    Wildcard,
    Words,
)

BODY, SERVICE = FieldRef(Scope.CORE, "body"), FieldRef(Scope.CORE, "service")
USER, SEVERITY = FieldRef(Scope.ANY, "user"), FieldRef(Scope.CORE, "severity")
TIME, TRACE = FieldRef(Scope.CORE, "time"), FieldRef(Scope.CORE, "trace_id")
COUNT = Aggregate(Function.COUNT, None, "count")


def nested(depth: int) -> Expression:
    tree: Expression = Exists(USER)
    for _ in range(depth - 1):
        tree = Not(tree)
    return tree


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        (And(()), "query.filter"),
        (Or((All(), And(()))), "query.filter.operands[1]"),
        (Not(Or(())), "query.filter.operand"),
        (nested(DEPTH_MAX + 1), "query.filter"),
        (Or((Exists(USER),) * (LEAVES_MAX + 1)), "query.filter"),
        (Exists(FieldRef(Scope.CORE, "nonsense")), "query.filter.field"),
        (Exists(FieldRef(Scope.COMPUTED, "count")), "query.filter.field"),
        (Exists(FieldRef(Scope.ANY, "")), "query.filter.field"),
        (Words(SERVICE, ("a",)), "query.filter"),
        (Words(BODY, ()), "query.filter.words"),
        (Words(BODY, ("Two",)), "query.filter.words"),
        (Words(BODY, ("two words",)), "query.filter.words"),
        (Words(BODY, ("a",) * 65), "query.filter.words"),
        (Compare(BODY, Operator.EQ, "a"), "query.filter"),
        (Compare(SERVICE, Operator.EQ, 5.0), "query.filter"),
        (Compare(SEVERITY, Operator.EQ, "ERROR"), "query.filter"),
        (Compare(SEVERITY, Operator.EQ, True), "query.filter"),
        (Compare(TIME, Operator.EQ, 5.0), "query.filter"),
        (Compare(USER, Operator.EQ, TimeLiteral(5)), "query.filter"),
        (Compare(USER, Operator.GT, True), "query.filter"),
        (Compare(USER, Operator.EQ, float("nan")), "query.filter"),
        (Compare(USER, Operator.EQ, float("inf")), "query.filter"),
        (Compare(USER, Operator.EQ, "a" * 40_000), "query.filter"),
        (Compare(TRACE, Operator.EQ, "abc"), "query.filter"),
        (Compare(TRACE, Operator.GT, "0" * 32), "query.filter"),
        (Wildcard(SEVERITY, "a*"), "query.filter"),
        (Wildcard(USER, ""), "query.filter.pattern"),
        (Wildcard(USER, "a" * 1025), "query.filter.pattern"),
        (Regex(USER, "("), "query.filter.pattern"),
        (Regex(USER, r"\C"), "query.filter.pattern"),
        (Regex(USER, "a\0"), "query.filter.pattern"),
        (Cidr(USER, "10.0.0.0/99"), "query.filter.network"),
        (Cidr(BODY, "10.0.0.0/8"), "query.filter"),
    ],
)
def test_a_tree_that_breaks_a_rule_is_refused_by_its_path(tree: Expression, path: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_query(Query(tree))
    assert caught.value.field == path


@pytest.mark.parametrize(
    ("stages", "path"),
    [
        ((Where(And(())),), "query.stages[0].expression"),
        ((Stats(()),), "query.stages[0].aggregates"),
        ((Stats((COUNT, COUNT)),), "query.stages[0]"),
        ((Stats((COUNT,), (SERVICE, SERVICE)),), "query.stages[0]"),
        ((Stats((Aggregate(Function.SUM, None, "s"),)),), "query.stages[0].aggregates[0]"),
        ((Stats((Aggregate(Function.SUM, SERVICE, "s"),)),), "query.stages[0].aggregates[0]"),
        ((Stats((Aggregate(Function.QUANTILE, USER, "q", 1.5),)),), "query.stages[0].aggregates[0]"),
        ((Stats((COUNT,), (Bucket(0),)),), "query.stages[0].by[0].interval"),
        ((Stats((COUNT,)), Stats((COUNT,), (Bucket(5),))), "query.stages[1].by[0]"),
        ((Stats((COUNT,)), Where(Exists(SERVICE))), "query.stages[1].expression.field"),
        ((Stats((COUNT,)), Extract(SERVICE, "(?P<a>.)", ("a",))), "query.stages[1].field"),
        ((Sort(()),), "query.stages[0].keys"),
        ((Sort((SortKey(FieldRef(Scope.COMPUTED, "x")),)),), "query.stages[0].keys[0].field"),
        ((Limit(0),), "query.stages[0].count"),
        ((Fields(()),), "query.stages[0].fields"),
        ((Fields((SERVICE, SERVICE)),), "query.stages[0].fields"),
        ((Fields((SERVICE,)), Where(Exists(USER))), "query.stages[1].expression.field"),
        ((Extract(BODY, "(", ("a",)),), "query.stages[0].pattern"),
        ((Extract(BODY, "(a)", ()),), "query.stages[0].pattern"),
        ((Extract(BODY, "(?P<a>.)(b)", ("a",)),), "query.stages[0].pattern"),
        ((Extract(BODY, "(?P<service>.)", ("service",)),), "query.stages[0].names"),
        ((Extract(SEVERITY, "(?P<a>.)", ("a",)),), "query.stages[0].field"),
        ((Limit(1),) * 33, "query.stages"),
    ],
)
def test_a_stage_that_breaks_a_rule_is_refused_by_its_path(stages: tuple[Stage, ...], path: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_query(Query(All(), stages))
    assert caught.value.field == path


def test_a_tree_at_its_bounds_is_taken() -> None:
    check_query(Query(nested(DEPTH_MAX)))
    check_query(Query(Or((Exists(USER),) * LEAVES_MAX)))
