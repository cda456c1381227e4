"""Asking the graph in a query: `sighted_in:`, `entity_label:` and `entity_tlp:` become sets of entities before a query leaves the planner.

| asked | becomes |
|---|---|
| `sighted_in:NAME` | records that hold an entity which the dump, or the source, of that name tells of |
| `entity_label:LABEL` | records that hold an entity that somebody gave this label |
| `entity_tlp:LEVEL` | records that hold an entity that somebody tells of under just this marking |

An entity counts with all that it is merged with. Which entities these are is asked of the graph (`ports.graph.GraphSets`) under the caller's
ceiling; here is only what of a tree asks, and how the answer is put in its place. A dump's marking on its records is `tlp:`, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NoReturn, TypeAlias

from heimdall_server.domain.entity_sets import EntitySet
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import GRAPH_FIELDS, FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Holds,
    Not,
    Operator,
    Or,
    Query,
    Regex,
    TimeRange,
    Where,
    Wildcard,
    Words,
)
from heimdall_server.domain.graph import UNLABELLED, Tlp
from heimdall_server.domain.graph_sets import GraphTerm
from heimdall_server.planner.personal_shapes import all_same, fields_of
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import StoreQuery

_ENTITIES: Final = FieldRef(Scope.GRAPH, "sighted_in")
_Leaf: TypeAlias = Words | Compare | Wildcard | Regex | Cidr | Exists | Holds


def graph_terms(query: Query) -> tuple[GraphTerm, ...]:
    """What a query asks of the graph, each once.

    Raises:
        QuerySyntaxError: It asks something that can't be asked so: a pattern, an order, an unknown marking; or names a field of the graph
            where one of a record belongs.
    """
    found: dict[GraphTerm, None] = {}
    for expression in _expressions(query):
        for leaf in _leaves(expression):
            if leaf.field.scope is Scope.GRAPH:
                found[_term(leaf)] = None
    for stage in query.stages:
        for ref in fields_of(stage):
            if ref.scope is Scope.GRAPH:
                _refuse(ref, "is no field of a record", "it stands in filters and where only")
    return tuple(found)


def with_sets(query: Query, sets: Mapping[GraphTerm, EntitySet]) -> Query:
    """The query with sets in place of what it asks of the graph; the same object if it asks nothing.

    Args:
        query: As `graph_terms` accepts it.
        sets: One for each of its terms.
    """
    if not sets:
        return query
    stages = tuple(
        replace(stage, expression=_filled(stage.expression, sets)) if isinstance(stage, Where) else stage
        for stage in query.stages
    )
    return Query(_filled(query.filter, sets), stages)


def records_holding(
    entities: EntitySet, time_range: TimeRange, *, through: Positions, filter_: Expression | None = None
) -> StoreQuery:
    """The question for the records of a store that hold any of some entities, newest first.

    Exactly those: `203.0.113.7` isn't found in `1203.0.113.7`. Sets are made by `canonical.entity_sets.entity_set`; whether a batch in memory
    holds one, `language.predicate.compile_predicate` of the same filter tells. With `replace` it takes limits, an order, datasets, a place to go on from.

    Args:
        entities: Which.
        time_range: Of the records.
        through: Only records at or before these positions; empty: all that is there.
        filter_: What else must hold.
    """
    held: Expression = Holds(_ENTITIES, "", entities)
    return StoreQuery(Query(held if filter_ is None else And((filter_, held))), time_range, through)


def _expressions(query: Query) -> Iterator[Expression]:
    yield query.filter
    for stage in query.stages:
        if isinstance(stage, Where):
            yield stage.expression


def _leaves(expression: Expression) -> Iterator[_Leaf]:
    stack = [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, And | Or):
            stack.extend(node.operands)
        elif isinstance(node, Not):
            stack.append(node.operand)
        elif not isinstance(node, All):
            yield node


def _term(leaf: _Leaf) -> GraphTerm:
    ref = leaf.field
    if isinstance(leaf, Holds):
        return GraphTerm(ref.name, leaf.value)
    if ref.name not in GRAPH_FIELDS:
        _refuse(ref, "is nothing that the graph can be asked", f"it can be asked {', '.join(sorted(GRAPH_FIELDS))}")
    if (
        not isinstance(leaf, Compare)
        or leaf.operator is not Operator.EQ
        or not isinstance(leaf.value, str)
        or not leaf.value
    ):
        _refuse(ref, "is asked with one name", f"write {ref}:NAME; several are {ref}:(one OR other)")
    if ref.name == "entity_tlp":
        try:
            Tlp.of(leaf.value, unlabelled=UNLABELLED)
        except ValueError as error:
            _refuse(ref, "is asked with a marking", str(error))
    return GraphTerm(ref.name, leaf.value)


def _refuse(ref: FieldRef, problem: str, suggestion: str) -> NoReturn:
    raise QuerySyntaxError(str(ref), 0, f"{ref} {problem}", suggestion)


def _filled(node: Expression, sets: Mapping[GraphTerm, EntitySet]) -> Expression:
    if isinstance(node, And | Or):
        operands = tuple(_filled(each, sets) for each in node.operands)
        return node if all_same(operands, node.operands) else type(node)(operands)
    if isinstance(node, Not):
        operand = _filled(node.operand, sets)
        return node if operand is node.operand else Not(operand)
    if isinstance(node, All) or node.field.scope is not Scope.GRAPH:
        return node
    term = _term(node)
    return Holds(node.field, term.value, sets[term])
