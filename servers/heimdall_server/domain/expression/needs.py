"""What a query needs from a store: its fields, its first aggregation, the words and ids that must be there.

Pure facts about the tree, from which a planner chooses a path and a store builds its statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Final

from heimdall_server.domain.entity_sets import INDEXED_WORDS_MAX
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Bucket,
    Compare,
    Expression,
    Extract,
    Fields,
    Function,
    Holds,
    Limit,
    Not,
    Operator,
    Or,
    Query,
    Sort,
    Stats,
    TimeRange,
    Where,
    Words,
)

MINUTE_NS: Final = 60_000_000_000


def covers_whole_minutes(time_range: TimeRange) -> bool:
    """True if a range has a bound and holds at least one whole minute."""
    start, end = time_range.start_ns_inclusive, time_range.end_ns_exclusive
    if start is None or end is None:
        return start is not None or end is not None
    return -(-start // MINUTE_NS) < end // MINUTE_NS


def expression_fields(expression: Expression) -> Iterator[FieldRef]:
    """Every field that an expression names, in order, repeats included."""
    match expression:
        case All():
            return
        case And(operands) | Or(operands):
            for operand in operands:
                yield from expression_fields(operand)
        case Not(operand):
            yield from expression_fields(operand)
        case _:
            yield expression.field


def required_terms(expression: Expression) -> Iterator[Expression]:
    """The terms that every matching record satisfies: those under AND only; an OR is one of them as a whole."""
    match expression:
        case And(operands):
            for operand in operands:
                yield from required_terms(operand)
        case All() | Not():
            return
        case _:
            yield expression


def _indexed_words(expression: Expression) -> tuple[str, ...]:
    """The words of an expression that nothing matches without one of them; empty: there are no such."""
    if isinstance(expression, Words):
        return expression.words
    if isinstance(expression, Holds):
        entities = expression.entities
        is_indexed = not entities.holds_plain and len(entities.words) <= INDEXED_WORDS_MAX
        return tuple(sorted(entities.words)) if is_indexed else ()
    if isinstance(expression, And):
        return next((words for each in expression.operands if (words := _indexed_words(each))), ())
    if not isinstance(expression, Or):
        return ()
    found = [_indexed_words(each) for each in expression.operands]
    return tuple(word for words in found for word in words) if all(found) else ()


def split_at_stats(query: Query) -> tuple[tuple[Where | Extract | Sort | Limit | Fields, ...], Stats | None]:
    """The stages before the first aggregation, and that aggregation."""
    before: list[Where | Extract | Sort | Limit | Fields] = []
    for stage in query.stages:
        if isinstance(stage, Stats):
            return tuple(before), stage
        before.append(stage)
    return tuple(before), None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a query asks of records."""

    dimensions: frozenset[str] | None
    """Core columns that suffice to answer, where the first aggregation only counts and nothing before
    it makes columns or cuts rows; None: whole records are needed."""
    bucket_ns: int
    """Greatest interval that divides every bucket of the first aggregation; 0: it has none."""
    aggregates: bool
    """A `stats` makes the answer; else rows are the answer."""
    words: tuple[str, ...]
    """Words such that every matching record has one of them, or several, in its body or among its tokens: what an index
    of words can tell. Empty: none."""
    trace_id: str
    """Trace id that every matching record has, as lower-case hex; empty: none."""


def query_needs(query: Query) -> Needs:
    """Read a query's needs off its tree. Cheap: one walk."""
    words: list[str] = []
    trace_id = ""
    for term in required_terms(query.filter):
        match term:
            case Words() | Or() | Holds():
                words.extend(_indexed_words(term))
            case Compare(field, Operator.EQ, str(value)) if field == FieldRef(Scope.CORE, "trace_id"):
                trace_id = value
    before, stats = split_at_stats(query)
    return Needs(
        dimensions=_dimensions(query, before, stats),
        bucket_ns=_bucket_ns(stats),
        aggregates=stats is not None,
        words=tuple(words),
        trace_id=trace_id,
    )


def _dimensions(
    query: Query, before: tuple[Where | Extract | Sort | Limit | Fields, ...], stats: Stats | None
) -> frozenset[str] | None:
    if stats is None or any(aggregate.function is not Function.COUNT for aggregate in stats.aggregates):
        return None
    fields = set(expression_fields(query.filter))
    for stage in before:
        if not isinstance(stage, Where):
            return None
        fields.update(expression_fields(stage.expression))
    fields.update(aggregate.field for aggregate in stats.aggregates if aggregate.field is not None)
    fields.update(key for key in stats.by if isinstance(key, FieldRef))
    if any(field.scope is not Scope.CORE for field in fields):
        return None
    return frozenset(field.name for field in fields)


def _bucket_ns(stats: Stats | None) -> int:
    intervals = [key.interval_ns for key in stats.by if isinstance(key, Bucket)] if stats else []
    return gcd(*intervals) if intervals else 0
