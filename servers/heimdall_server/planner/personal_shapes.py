"""What terms and stages are made of, as the pass over a tree takes them apart and puts them together."""

from __future__ import annotations

from collections.abc import Sequence

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.literals import number_text, parse_number
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Bucket,
    Compare,
    Expression,
    Extract,
    Fields,
    Literal,
    Not,
    Operator,
    Or,
    Sort,
    Stage,
    Stats,
    TimeLiteral,
)


def fields_of(stage: Stage) -> list[FieldRef]:
    """Fields and columns that a stage names itself."""
    if isinstance(stage, Extract):
        return [stage.field, *(FieldRef(Scope.COMPUTED, name) for name in stage.names)]
    if isinstance(stage, Stats):
        keys = [FieldRef(Scope.COMPUTED, key.name) if isinstance(key, Bucket) else key for key in stage.by]
        read = [each.field for each in stage.aggregates if each.field is not None]
        return [*keys, *read, *(FieldRef(Scope.COMPUTED, each.name) for each in stage.aggregates)]
    if isinstance(stage, Sort):
        return [key.field for key in stage.keys]
    return list(stage.fields) if isinstance(stage, Fields) else []


def spelt_number(pair: Sequence[Expression]) -> Compare | None:
    """Of `phone:+4915…`, which became a number or its spelling: the spelling."""
    match pair:
        case [
            And((Compare(low_field, Operator.GE, float(low)), Compare(high_field, Operator.LE, float(high)))),
            Compare(field, Operator.EQ, str(text)) as spelt,
        ] if low_field == high_field == field and low == high == parse_number(text):
            return spelt
    return None


def literal_text(value: Literal | TimeLiteral) -> str | None:
    """A literal as a text; None: it isn't one, nor a number."""
    if isinstance(value, TimeLiteral | bool):
        return None
    return value if isinstance(value, str) else number_text(float(value))


def operands_of(node: Expression) -> tuple[Expression, ...]:
    """The alternatives of a term."""
    return node.operands if isinstance(node, Or) else (node,)


def any_of(found: Sequence[Expression]) -> Expression:
    """One of some terms; of none: what matches no record."""
    if not found:
        return Not(All())
    return found[0] if len(found) == 1 else Or(tuple(found))


def all_same(some: Sequence[Expression], others: Sequence[Expression]) -> bool:
    """Nothing was changed: the same objects."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
