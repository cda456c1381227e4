"""Tree to a vectorised predicate over record batches: what watches filter with.

It gives exactly the rows that a store gives for the same tree; the conformance suite holds both to it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import WORD_PATTERN, number_text, parse_network
from heimdall_server.domain.expression.patterns import phrase_regex, wildcard_regex, wildcard_runs, wildcard_words_regex
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
    Regex,
    TimeLiteral,
    Wildcard,
    Words,
)
from heimdall_server.language.holding import holds
from heimdall_server.language.lookup import BatchFields, Mask, in_network, spelt_numbers, to_mask, to_series

Predicate: TypeAlias = Callable[[pa.RecordBatch], pa.BooleanArray]
Evaluate: TypeAlias = Callable[[BatchFields], Mask]
TextTest: TypeAlias = Callable[[pa.Array], Mask]

_PYTHON: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.EQ: operator.eq,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}
_WORDS_COST: Final = 8
_HOLDS_COST: Final = 60
_ARROW: Final[dict[Operator, Callable[[Any, Any], pa.Array]]] = {
    Operator.EQ: pc.equal,
    Operator.LT: pc.less,
    Operator.LE: pc.less_equal,
    Operator.GT: pc.greater,
    Operator.GE: pc.greater_equal,
}


def compile_predicate(expression: Expression) -> Predicate:
    """Make a predicate of a tree that `check_query` accepts.

    Args:
        expression: May name computed columns if the batches carry them under their names.

    Returns:
        A function from a batch of `RECORD_SCHEMA` or `POSITIONED_SCHEMA` columns (`position` and its like
        only where the tree names them) to one bool a row, never null. Thread-safe; releases the GIL for
        almost all of its work.
    """
    evaluate = compile_evaluate(expression)
    return lambda batch: pa.array(evaluate(BatchFields(batch)))


def compile_evaluate(expression: Expression) -> Evaluate:
    """The same over `BatchFields`, for callers that evaluate several expressions on one batch."""
    return _compile(expression)[1]


def _compile(expression: Expression) -> tuple[int, Evaluate]:
    """The cost of an expression, in rough units, and its function."""
    if isinstance(expression, All):
        return 0, lambda fields: np.ones(fields.count, np.bool_)
    if isinstance(expression, Not):
        cost, operand = _compile(expression.operand)
        return cost, lambda fields: ~operand(fields)
    if isinstance(expression, And | Or):
        parts = _alternatives(expression) if isinstance(expression, Or) else map(_compile, expression.operands)
        compiled = sorted(parts, key=lambda each: each[0])
        operands = [each[1] for each in compiled]
        join = _all_of if isinstance(expression, And) else _any_of
        return sum(each[0] for each in compiled), lambda fields: join(operands, fields)
    return _leaf(expression)


def _alternatives(expression: Or) -> Iterator[tuple[int, Evaluate]]:
    """The operands; single words of one text are looked for together, for a network of addresses is a thousand of them."""
    words: dict[FieldRef, list[str]] = {}
    for each in expression.operands:
        if isinstance(each, Words) and len(each.words) == 1:
            words.setdefault(each.field, []).append(each.words[0])
        else:
            yield _compile(each)
    for ref, some in words.items():
        yield _WORDS_COST, _words(Words(ref, (some[0],))) if len(some) == 1 else _any_word(ref, some)


def _all_of(operands: list[Evaluate], fields: BatchFields) -> Mask:
    mask = operands[0](fields)
    for operand in operands[1:]:
        if not mask.any():
            break
        mask = mask & operand(fields)
    return mask


def _any_of(operands: list[Evaluate], fields: BatchFields) -> Mask:
    mask = operands[0](fields)
    for operand in operands[1:]:
        if mask.all():
            break
        mask = mask | operand(fields)
    return mask


def _leaf(leaf: Words | Compare | Wildcard | Regex | Cidr | Exists | Holds) -> tuple[int, Evaluate]:
    ref = leaf.field
    if isinstance(leaf, Holds):
        return _HOLDS_COST, holds(leaf.entities)
    attribute_cost = 0 if ref.scope in (Scope.CORE, Scope.COMPUTED) else 4
    if isinstance(leaf, Exists):
        return 1 + attribute_cost, lambda fields: fields.exists(ref)
    if isinstance(leaf, Compare):
        return 1 + attribute_cost, _compare(leaf)
    if isinstance(leaf, Words):
        return _WORDS_COST, _words(leaf)
    if isinstance(leaf, Wildcard):
        if ref.scope is Scope.CORE and CORE_FIELDS[ref.name] is FieldKind.TEXT:
            return 10, _wildcard_words(leaf)
        return 6 + attribute_cost, _on_texts(ref, _fast_regex(wildcard_regex(leaf.pattern)))
    if isinstance(leaf, Regex):
        pattern = leaf.pattern
        return 12 + attribute_cost, _on_texts(ref, lambda texts: to_mask(pc.match_substring_regex(texts, pattern)))
    network = parse_network(leaf.network)
    return 10 + attribute_cost, _on_texts(ref, lambda texts: in_network(texts, network))


def _fast_regex(pattern: str) -> TextTest:
    """A regex of our own making, in the part of the syntax that RE2 and Rust share."""
    return lambda texts: to_series(texts).str.contains(pattern).to_numpy()


def _on_texts(ref: FieldRef, test: TextTest) -> Evaluate:
    """Test a field's text; missing fails."""

    def core(fields: BatchFields) -> Mask:
        array = fields.batch.column(ref.name)
        if ref.scope is Scope.COMPUTED and not pa.types.is_string(array.type):
            return np.zeros(fields.count, np.bool_)
        texts = fields.text(ref)
        return test(texts) & to_mask(pc.not_equal(texts, ""))

    def attribute(fields: BatchFields) -> Mask:
        return fields.scoped(ref, lambda scope: _scatter(fields, scope, ref.name, test))

    return core if ref.scope in (Scope.CORE, Scope.COMPUTED) else attribute


def _scatter(fields: BatchFields, column: str, name: str, test: TextTest) -> Mask:
    mask = np.zeros(fields.count, np.bool_)
    rows, values = fields.entries(column, name)
    if len(rows):
        mask[rows] = test(values)
    return mask


def _words(leaf: Words) -> Evaluate:
    longest = max(leaf.words, key=len)
    pattern = phrase_regex(leaf.words)

    def evaluate(fields: BatchFields) -> Mask:
        lowered = fields.lowered(leaf.field)
        mask: Mask = lowered.str.contains(longest, literal=True).to_numpy().copy()
        rows = np.flatnonzero(mask)
        if len(rows):
            mask[rows] = lowered.gather(rows).str.contains(pattern).to_numpy()
        return mask

    return evaluate


def _any_word(ref: FieldRef, words: Sequence[str]) -> Evaluate:
    wanted = sorted(set(words))

    def evaluate(fields: BatchFields) -> Mask:
        lowered = fields.lowered(ref)
        mask: Mask = lowered.str.contains_any(wanted).to_numpy().copy()
        rows = np.flatnonzero(mask)
        if len(rows):
            found = lowered.gather(rows).str.extract_all(WORD_PATTERN)
            holding = np.repeat(rows, found.list.len().to_numpy())[
                found.explode().drop_nulls().is_in(wanted).to_numpy()
            ]
            mask[rows] = False
            mask[holding] = True
        return mask

    return evaluate


def _wildcard_words(leaf: Wildcard) -> Evaluate:
    longest = max(wildcard_runs(leaf.pattern), key=len, default="")
    pattern = wildcard_words_regex(leaf.pattern)

    def evaluate(fields: BatchFields) -> Mask:
        lowered = fields.lowered(leaf.field)
        mask: Mask = lowered.str.contains(longest, literal=True).to_numpy() & (lowered != "").to_numpy()
        rows = np.flatnonzero(mask)
        if len(rows):
            mask[rows] = lowered.gather(rows).str.contains(pattern).to_numpy()
        return mask

    return evaluate


def _compare(leaf: Compare) -> Evaluate:
    ref = leaf.field
    compare = _PYTHON[leaf.operator]
    value = leaf.value
    if isinstance(value, TimeLiteral):
        ns = value.ns
        return lambda fields: _compare_times(fields, ref, compare, ns)
    if isinstance(value, bool):
        return lambda fields: fields.scoped(ref, lambda scope: _equals_bool(fields, scope, ref.name, value=value))
    if isinstance(value, str):
        return _on_texts(ref, _text_compare(leaf.operator, value))
    number = float(value)
    if ref.scope is Scope.CORE:
        return lambda fields: compare(fields.numbers(ref), number)
    text = number_text(number) if leaf.operator is Operator.EQ else None
    if ref.scope is Scope.COMPUTED:
        return lambda fields: _compare_computed(fields, ref, compare, number, text)
    return lambda fields: fields.scoped(
        ref, lambda scope: _compare_number(fields, scope, ref.name, compare, number, text)
    )


def _text_compare(operator_: Operator, value: str) -> TextTest:
    scalar = pa.scalar(value, pa.string())
    return lambda texts: to_mask(_ARROW[operator_](texts, scalar))


def _compare_times(fields: BatchFields, ref: FieldRef, compare: Callable[[Any, Any], Mask], ns: int) -> Mask:
    array = fields.batch.column(ref.name)
    mask = compare(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), ns)
    return mask & to_mask(array.is_valid()) if array.null_count else mask


def _equals_bool(fields: BatchFields, scope: str, name: str, *, value: bool) -> Mask:
    mask = _scatter(fields, f"{scope}_bool", name, lambda values: to_mask(values) == value)
    text = "true" if value else "false"
    return mask | _scatter(fields, scope, name, lambda values: to_mask(pc.equal(values, text)))


def _compare_number(
    fields: BatchFields,
    scope: str,
    name: str,
    compare: Callable[[Any, Any], Mask],
    number: float,
    text: str | None,
) -> Mask:
    mask = _scatter(
        fields, f"{scope}_number", name, lambda values: compare(values.to_numpy(zero_copy_only=False), number)
    )
    if text is None:
        return mask
    return mask | _scatter(fields, scope, name, lambda values: to_mask(pc.equal(values, text)))


def _compare_computed(
    fields: BatchFields, ref: FieldRef, compare: Callable[[Any, Any], Mask], number: float, text: str | None
) -> Mask:
    if not pa.types.is_string(fields.batch.column(ref.name).type):
        return compare(fields.numbers(ref), number)
    texts = fields.text(ref)
    mask = compare(spelt_numbers(texts), number)
    return mask if text is None else mask | to_mask(pc.equal(texts, text))
