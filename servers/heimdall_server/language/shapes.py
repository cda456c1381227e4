"""What a filter asks about, without what it asks for: for lists and logs that must hold no secret.

`body:"…"` stands for words, `service:"…"` for a text. What tells no secret stays: names of fields, structure, tokens, and what the numbers
and times of core fields are compared with.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    And,
    Cidr,
    Compare,
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
from heimdall_server.domain.personal import WORD_PATTERN, TokenName
from heimdall_server.language.format import format_expression, normalise

HIDDEN: Final = "…"
_TOKEN_WORD: Final = re.compile(WORD_PATTERN, re.ASCII)


def shape_text(expression: Expression) -> str:
    """Write a filter without its literals; equal neighbours of a list of alternatives are told once."""
    return format_expression(_hidden(normalise(expression)))


def _hidden(node: Expression) -> Expression:
    if isinstance(node, Not):
        return Not(_hidden(node.operand))
    if isinstance(node, And | Or):
        operands = tuple(dict.fromkeys(map(_hidden, node.operands)))
        return operands[0] if len(operands) == 1 else type(node)(operands)
    if isinstance(node, Words):
        return node if all(map(_TOKEN_WORD.fullmatch, node.words)) else _anything(node.field)
    if isinstance(node, Compare):
        return node if _is_open(node) else replace(node, value=HIDDEN)
    if isinstance(node, Wildcard | Regex | Cidr | Holds):
        return _anything(node.field)
    return node


def _anything(field: FieldRef) -> Compare:
    return Compare(field, Operator.EQ, HIDDEN)


def _is_open(leaf: Compare) -> bool:
    if isinstance(leaf.value, TimeLiteral | bool):
        return True
    if isinstance(leaf.value, str):
        return TokenName.parse(leaf.value) is not None and leaf.value.startswith("[")
    return leaf.field.scope is Scope.CORE
