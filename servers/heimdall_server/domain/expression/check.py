"""The rules that a tree keeps, whoever made it: bounds, and literals that fit their fields.

The parser keeps them by construction and with better messages; a tree that a program sent is checked
here before anything reads it, so that the readers need no second opinion.
"""

from __future__ import annotations

import math
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.columns import NUMERIC_KINDS, TEXT_KINDS, Columns, key_name
from heimdall_server.domain.expression.fields import ALIASES, CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import parse_network, words_of
from heimdall_server.domain.expression.patterns import PATTERN_CHARACTERS_MAX, check_regex, extract_pattern
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
    Holds,
    Limit,
    Not,
    Operator,
    Or,
    Query,
    Regex,
    Sort,
    Stage,
    Stats,
    TimeLiteral,
    Where,
    Wildcard,
    Words,
)

DEPTH_MAX: Final = 64
"""Nesting of AND, OR and NOT."""
LEAVES_MAX: Final = 1000
"""Terms of one expression."""
STAGES_MAX: Final = 32
WORDS_MAX: Final = 64
"""Words of one phrase."""
AGGREGATES_MAX: Final = 64
KEYS_MAX: Final = 16
LIMIT_MAX: Final = 10_000_000
INTERVAL_NS_MAX: Final = 366 * 86_400 * 1_000_000_000
LITERAL_CHARACTERS_MAX: Final = 32 * 1024
NAME_CHARACTERS_MAX: Final = 256
_ID_DIGITS: Final = {"trace_id": 32, "span_id": 16}


def check_query(query: Query) -> None:
    """Refuse a tree that breaks a rule.

    Raises:
        InvalidArgumentError: With the path of what is wrong, as in `query.stages[1].aggregates[0]`.
    """
    columns = Columns()
    check_expression(query.filter, columns, "query.filter")
    if len(query.stages) > STAGES_MAX:
        _refuse("query.stages", f"at most {STAGES_MAX}")
    for index, stage in enumerate(query.stages):
        _check_stage(stage, columns, f"query.stages[{index}]")
        columns = columns.after(stage)


def check_expression(expression: Expression, columns: Columns, path: str = "expression") -> None:
    """Refuse an expression that breaks a rule; `columns` says what its fields may name."""
    stack: list[tuple[Expression, str, int]] = [(expression, path, 1)]
    leaves = 0
    while stack:
        node, place, depth = stack.pop()
        if depth > DEPTH_MAX:
            _refuse(path, f"nested at most {DEPTH_MAX} deep")
        if isinstance(node, Not):
            stack.append((node.operand, f"{place}.operand", depth + 1))
        elif isinstance(node, And | Or):
            if not node.operands:
                _refuse(place, "at least one operand")
            stack.extend((each, f"{place}.operands[{i}]", depth + 1) for i, each in enumerate(node.operands))
        elif not isinstance(node, All):
            leaves += 1
            if leaves > LEAVES_MAX:
                _refuse(path, f"at most {LEAVES_MAX} terms")
            _check_leaf(node, columns, place)


def _refuse(path: str, rule: str) -> None:
    raise InvalidArgumentError(path, rule)


def _check_field(ref: FieldRef, columns: Columns, path: str) -> FieldKind:
    if not ref.name or len(ref.name) > NAME_CHARACTERS_MAX:
        _refuse(f"{path}.field", f"a name of 1 to {NAME_CHARACTERS_MAX} characters")
    if not columns.holds(ref):
        _refuse(f"{path}.field", "no such column here")
    return columns.kind(ref)


def _check_leaf(
    leaf: Words | Compare | Wildcard | Regex | Cidr | Exists | Holds,
    columns: Columns,
    path: str,
) -> None:
    kind = _check_field(leaf.field, columns, path)
    if isinstance(leaf, Words):
        if kind is not FieldKind.TEXT:
            _refuse(path, "words stand on body and tokens only; compare other fields")
        if not 0 < len(leaf.words) <= WORDS_MAX or any(words_of(word) != (word,) for word in leaf.words):
            _refuse(f"{path}.words", f"1 to {WORDS_MAX} single lower-case words")
    elif isinstance(leaf, Compare):
        rule = comparison_rule(leaf, kind)
        if rule:
            _refuse(path, rule)
    elif isinstance(leaf, Wildcard | Regex):
        if kind not in TEXT_KINDS:
            _refuse(path, f"a {kind} has no pattern; compare it")
        if not leaf.pattern or len(leaf.pattern) > PATTERN_CHARACTERS_MAX:
            _refuse(f"{path}.pattern", f"1 to {PATTERN_CHARACTERS_MAX} characters")
        if isinstance(leaf, Regex):
            try:
                check_regex(leaf.pattern)
            except ValueError as error:
                _refuse(f"{path}.pattern", f"RE2 refuses it: {error}")
    elif isinstance(leaf, Cidr):
        if kind not in (FieldKind.KEYWORD, FieldKind.ATTRIBUTE):
            _refuse(path, f"a {kind} holds no address")
        try:
            parse_network(leaf.network)
        except ValueError:
            _refuse(f"{path}.network", "an IP network such as 10.0.0.0/8")


def comparison_rule(leaf: Compare, kind: FieldKind) -> str:
    """The rule that a comparison breaks; empty: none."""
    value = leaf.value
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    if is_number and not math.isfinite(float(value)):  # type: ignore[arg-type] # narrowed by is_number
        return "a finite number"
    if isinstance(value, str) and len(value) > LITERAL_CHARACTERS_MAX:
        return f"a text of at most {LITERAL_CHARACTERS_MAX} characters"
    if isinstance(value, bool) and leaf.operator is not Operator.EQ:
        return "true and false have no order"
    if kind is FieldKind.TEXT:
        return f"{leaf.field} holds words: use words, a wildcard or a regex"
    if kind is FieldKind.ID:
        return _id_rule(leaf)
    fits = {
        FieldKind.TIME: isinstance(value, TimeLiteral),
        FieldKind.SEVERITY: is_number,
        FieldKind.NUMBER: is_number,
        FieldKind.KEYWORD: isinstance(value, str) or (is_number and leaf.field.scope is Scope.COMPUTED),
        FieldKind.ATTRIBUTE: not isinstance(value, TimeLiteral),
    }
    return "" if fits[kind] else f"a literal of another type than the field's, {kind}"


def _id_rule(leaf: Compare) -> str:
    digits = _ID_DIGITS[leaf.field.name]
    value = leaf.value
    is_hex = isinstance(value, str) and len(value) == digits and all(c in "0123456789abcdef" for c in value)
    return "" if is_hex and leaf.operator is Operator.EQ else f"EQ with {digits} lower-case hex digits"


def _check_stage(stage: Stage, columns: Columns, path: str) -> None:
    if isinstance(stage, Where):
        check_expression(stage.expression, columns, f"{path}.expression")
    elif isinstance(stage, Extract):
        _check_extract(stage, columns, path)
    elif isinstance(stage, Stats):
        _check_stats(stage, columns, path)
    elif isinstance(stage, Sort):
        if not 0 < len(stage.keys) <= KEYS_MAX:
            _refuse(f"{path}.keys", f"1 to {KEYS_MAX}")
        for index, key in enumerate(stage.keys):
            _check_field(key.field, columns, f"{path}.keys[{index}]")
    elif isinstance(stage, Fields):
        if not 0 < len(stage.fields) <= AGGREGATES_MAX or len(set(stage.fields)) != len(stage.fields):
            _refuse(f"{path}.fields", f"1 to {AGGREGATES_MAX}, each once")
        for index, ref in enumerate(stage.fields):
            _check_field(ref, columns, f"{path}.fields[{index}]")
    elif isinstance(stage, Limit) and not 0 < stage.count <= LIMIT_MAX:
        _refuse(f"{path}.count", f"1 to {LIMIT_MAX}")


def name_taken(name: str, columns: Columns) -> bool:
    """An `extract` can't make this column: a core field, an alias or another computed one has the name."""
    return name in CORE_FIELDS or name in ALIASES or name in columns.computed


def _check_extract(stage: Extract, columns: Columns, path: str) -> None:
    if _check_field(stage.field, columns, path) not in TEXT_KINDS:
        _refuse(f"{path}.field", "a field that holds text")
    if columns.kept is not None or columns.aggregated:
        _refuse(path, "extract stands before fields and stats")
    try:
        pattern, names = extract_pattern(stage.pattern)
    except ValueError as error:
        raise InvalidArgumentError(f"{path}.pattern", str(error)) from None
    if (pattern, names) != (stage.pattern, stage.names):
        _refuse(f"{path}.pattern", "only named groups capture, and `names` lists them in order")
    if len(set(names)) != len(names) or any(name_taken(name, columns) for name in names):
        _refuse(f"{path}.names", "names that no field or column has")


def _check_stats(stage: Stats, columns: Columns, path: str) -> None:
    if not 0 < len(stage.aggregates) <= AGGREGATES_MAX:
        _refuse(f"{path}.aggregates", f"1 to {AGGREGATES_MAX}")
    if len(stage.by) > KEYS_MAX:
        _refuse(f"{path}.by", f"at most {KEYS_MAX}")
    names = [*map(key_name, stage.by), *(each.name for each in stage.aggregates)]
    if len(set(names)) != len(names) or not all(names):
        _refuse(path, "each column with a name of its own")
    for index, key in enumerate(stage.by):
        if not isinstance(key, Bucket):
            _check_field(key, columns, f"{path}.by[{index}]")
        elif not 0 < key.interval_ns <= INTERVAL_NS_MAX:
            _refuse(f"{path}.by[{index}].interval", "more than 0, at most 366 days")
        elif columns.aggregated:
            _refuse(f"{path}.by[{index}]", "a bucket stands in the first stats")
    for index, aggregate in enumerate(stage.aggregates):
        rule = aggregate_rule(aggregate, columns)
        if rule:
            _refuse(f"{path}.aggregates[{index}]", rule)


def aggregate_rule(aggregate: Aggregate, columns: Columns) -> str:
    """The rule that an aggregate breaks; empty: none."""
    if aggregate.field is None:
        return "" if aggregate.function is Function.COUNT else f"{aggregate.function} needs a field"
    if not columns.holds(aggregate.field):
        return "no such column here"
    if not 0.0 <= aggregate.quantile <= 1.0:
        return "a quantile lies between 0 and 1"
    if aggregate.function in (Function.COUNT, Function.COUNT_DISTINCT):
        return ""
    kind = columns.kind(aggregate.field)
    if kind is FieldKind.TIME and aggregate.function in (Function.MIN, Function.MAX):
        return ""
    is_text = kind is FieldKind.KEYWORD and aggregate.field.scope is not Scope.COMPUTED
    if kind not in NUMERIC_KINDS or is_text:
        hint = f"; an attribute of this name is attributes.{aggregate.field}" if kind is FieldKind.TEXT else ""
        return f"{aggregate.function} needs numbers, and {aggregate.field} is {kind}{hint}"
    return ""
