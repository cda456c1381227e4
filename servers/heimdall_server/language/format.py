"""Tree to canonical text: what is shown, saved and compared. Parsing it gives the same tree.

The same up to `normalise`: AND inside AND is one AND, an AND of one operand is the operand. A tree that a
program made may name an attribute as a core field is named; its text then names the core field.
"""

from __future__ import annotations

import re
from typing import Final

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import ascii_lower, number_text, parse_network
from heimdall_server.domain.expression.patterns import canonical_regex, canonical_wildcard, wildcard_parts
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Extract,
    Function,
    GroupKey,
    Holds,
    Limit,
    Literal,
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
from heimdall_server.language.instants import duration_text, instant_text
from heimdall_server.language.pipes import aggregate_name
from heimdall_server.language.suggestions import misspelt_core_field

_SIGNS: Final = {Operator.EQ: "", Operator.LT: "<", Operator.LE: "<=", Operator.GT: ">", Operator.GE: ">="}
_BODY: Final = FieldRef(Scope.CORE, "body")
_LOWERED: Final = frozenset(name for name, kind in CORE_FIELDS.items() if kind in (FieldKind.TEXT, FieldKind.ID))
"""Core fields whose patterns are written in lower case."""
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_@][A-Za-z0-9_.@]*")
_RESERVED: Final = frozenset({"AND", "OR", "NOT", "TO", "_exists_"})
_STAGE_RESERVED: Final = frozenset({"by", "as", "asc", "desc", "bucket", "true", "false"})


def normalise(expression: Expression) -> Expression:
    """The form that text has.

    No AND directly in AND (nor OR in OR), none of a single operand; patterns without needless backslashes and
    only where there is a pattern; networks without host bits.
    """
    if isinstance(expression, Not):
        return Not(normalise(expression.operand))
    if not isinstance(expression, And | Or):
        return _normal_leaf(expression)
    kind = type(expression)
    operands: list[Expression] = []
    for each in map(normalise, expression.operands):
        operands.extend(each.operands if isinstance(each, kind) else (each,))
    return operands[0] if len(operands) == 1 else kind(tuple(operands))


def _normal_leaf(leaf: Expression) -> Expression:
    if isinstance(leaf, Cidr):
        return Cidr(leaf.field, parse_network(leaf.network).text)
    if isinstance(leaf, Regex):
        return Regex(leaf.field, canonical_regex(leaf.pattern))
    if not isinstance(leaf, Wildcard):
        return leaf
    if not leaf.pattern.strip("*"):
        # In text a star alone asks for any value, numbers too; this asks for a text.
        return Regex(leaf.field, "^")
    lowered = leaf.field.scope is Scope.CORE and leaf.field.name in _LOWERED
    if not lowered and all(part[0] == "\\" for part in wildcard_parts(leaf.pattern)):
        return Compare(leaf.field, Operator.EQ, "".join(part[1] for part in wildcard_parts(leaf.pattern)))
    return Wildcard(leaf.field, canonical_wildcard(ascii_lower(leaf.pattern) if lowered else leaf.pattern))


def format_query(query: Query) -> str:
    """Write a query: its filter, then its stages, each behind a pipe."""
    stages = [format_stage(stage) for stage in query.stages]
    expression = format_expression(query.filter)
    return " | ".join([expression, *stages])


def format_expression(expression: Expression) -> str:
    """Write an expression with the fewest parentheses that keep its shape."""
    return _format(normalise(expression), 0)


def _format(expression: Expression, level: int) -> str:
    """Level 0: anything may stand here; 1: inside AND; 2: behind NOT."""
    if isinstance(expression, Or):
        text = " OR ".join(_format(each, 1) for each in expression.operands)
        return text if level == 0 else f"({text})"
    if isinstance(expression, And):
        text = " AND ".join(_format(each, 2) for each in expression.operands)
        return text if level <= 1 else f"({text})"
    if isinstance(expression, Not):
        return f"NOT {_format(expression.operand, 2)}"
    return _leaf(expression)


def _leaf(leaf: All | Words | Compare | Wildcard | Regex | Cidr | Exists | Holds) -> str:
    if isinstance(leaf, All):
        return "*:*"
    if isinstance(leaf, Exists):
        return f"_exists_:{field_text(leaf.field)}"
    if isinstance(leaf, Words) and leaf.field == _BODY:
        return _words(leaf.words)
    return f"{field_text(leaf.field)}:{_value(leaf)}"


def _value(leaf: Words | Compare | Wildcard | Regex | Cidr | Holds) -> str:
    if isinstance(leaf, Words):
        return _words(leaf.words)
    if isinstance(leaf, Compare):
        return _SIGNS[leaf.operator] + _literal(leaf.value)
    if isinstance(leaf, Holds):
        return quote(leaf.value)
    if isinstance(leaf, Wildcard):
        return _pattern(leaf.pattern)
    if isinstance(leaf, Regex):
        return _regex(leaf.pattern)
    return leaf.network if "/" in leaf.network else quote(leaf.network)


def _words(words: tuple[str, ...]) -> str:
    text = " ".join(words)
    return text if len(words) == 1 else quote(text)


def _literal(value: Literal | TimeLiteral) -> str:
    if isinstance(value, TimeLiteral):
        return instant_text(value.ns)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    return number_text(float(value))


def _pattern(pattern: str) -> str:
    """Everything that would end a term or begin something else gets a backslash; so do real ones."""
    pieces: list[str] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\" and index + 1 < len(pattern):
            pieces.append(pattern[index : index + 2])
            index += 2
            continue
        plain = character.isalnum() or character in "*?_.@"
        pieces.append(character if plain else "\\" + character)
        index += 1
    return "".join(pieces)


def _regex(pattern: str) -> str:
    pieces: list[str] = []
    index = 0
    while index < len(pattern):
        width = 2 if pattern[index] == "\\" else 1
        piece = pattern[index : index + width]
        pieces.append(r"\/" if piece == "/" else piece)
        index += width
    return f"/{''.join(pieces)}/"


def quote(text: str) -> str:
    """A text in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def field_text(ref: FieldRef) -> str:
    """A field as a query names it, quoted where its name needs it."""
    name = str(ref)
    plain = (
        _PLAIN_NAME.fullmatch(name) is not None
        and name.lower() not in _STAGE_RESERVED
        and name not in _RESERVED
        and not (ref.scope is Scope.ANY and misspelt_core_field(name, ()))
    )
    return name if plain else quote(name)


def format_stage(stage: Stage) -> str:
    """Write a stage, without its pipe."""
    if isinstance(stage, Where):
        return f"where {format_expression(stage.expression)}"
    if isinstance(stage, Extract):
        return f"extract {field_text(stage.field)} {_regex(stage.pattern)}"
    if isinstance(stage, Stats):
        text = "stats " + ", ".join(_aggregate(each) for each in stage.aggregates)
        return f"{text} by {', '.join(_key(key) for key in stage.by)}" if stage.by else text
    if isinstance(stage, Sort):
        return f"sort {', '.join(_sort_key(key) for key in stage.keys)}"
    if isinstance(stage, Limit):
        return f"limit {stage.count}"
    return f"fields {', '.join(field_text(ref) for ref in stage.fields)}"


def _aggregate(aggregate: Aggregate) -> str:
    argument = field_text(aggregate.field) if aggregate.field is not None else ""
    if aggregate.function is Function.QUANTILE:
        argument += f", {number_text(aggregate.quantile)}"
    text = f"{aggregate.function}({argument})"
    if aggregate.name == aggregate_name(aggregate.function, aggregate.field, aggregate.quantile):
        return text
    return f"{text} as {_column_name(aggregate.name)}"


def _key(key: GroupKey) -> str:
    if isinstance(key, FieldRef):
        return field_text(key)
    text = f"bucket(time, {duration_text(key.interval_ns)})"
    return text if key.name == "time" else f"{text} as {_column_name(key.name)}"


def _column_name(name: str) -> str:
    return field_text(FieldRef(Scope.COMPUTED, name))


def _sort_key(key: SortKey) -> str:
    return ("-" if key.descending else "") + field_text(key.field)
