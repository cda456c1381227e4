"""The filter: Lucene query-string syntax, by recursive descent.

    or    = and { ("OR" | "||") and }
    and   = not { ["AND" | "&&"] not }
    not   = { "NOT" | "-" | "!" | "+" } primary
    primary = "(" or ")" | name ":" value | value
    value = "(" or ")" | (">=" | ">" | "<=" | "<") operand | range | /regex/ | "phrase" | term

A bare value searches the body. Inside `name:( … )` values belong to that field and a colon is plain.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from heimdall_server.domain.expression.check import DEPTH_MAX, LEAVES_MAX
from heimdall_server.domain.expression.columns import Columns
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.tree import All, And, Exists, Expression, Not, Operator, Or
from heimdall_server.language.scanner import Scanner, Term
from heimdall_server.language.suggestions import did_you_mean, misspelt_core_field
from heimdall_server.language.values import Values

_OPERATORS: Final = {">=": Operator.GE, "<=": Operator.LE, ">": Operator.GT, "<": Operator.LT}
_NUMBER_NEXT: Final = re.compile(r"[+-]?[0-9]")
_SIGNED: Final = re.compile(r"\s*(>=|<=|!=|==|=|>|<)\s*")
_BODY: Final = FieldRef(Scope.CORE, "body")


class FilterParser:
    """Parses one expression; the scanner stops at a `|`, a `)` too many, or the end."""

    def __init__(
        self,
        scanner: Scanner,
        values: Values,
        columns: Columns,
        known_fields: Collection[str],
        *,
        in_where: bool = False,
    ) -> None:
        self._scanner = scanner
        self._values = values
        self._columns = columns
        self._known = known_fields
        self._in_where = in_where
        self._nesting = 0
        self._leaves = 0

    def parse(self) -> Expression:
        """Read an expression; nothing at all is `All`."""
        scanner = self._scanner
        start = scanner.position
        if scanner.at_end() or self._at_pipe():
            return All()
        expression = self._or(None)
        if scanner.take(")"):
            scanner.error("a ) without its (", "quote text that has parentheses", at=scanner.position - 1)
        if _depth(expression) > DEPTH_MAX:
            scanner.error(f"nested more than {DEPTH_MAX} deep", at=start)
        return expression

    def _at_pipe(self) -> bool:
        return self._scanner.peek() == "|" and self._scanner.peek(2) != "||"

    def _or(self, group: FieldRef | None) -> Expression:
        operands = [self._and(group)]
        while self._scanner.take_word("OR") or self._scanner.take("||"):
            operands.append(self._and(group))
        return operands[0] if len(operands) == 1 else Or(tuple(_flatten(operands, Or)))

    def _and(self, group: FieldRef | None) -> Expression:
        scanner = self._scanner
        operands = [self._not(group)]
        while True:
            if scanner.take_word("AND") or scanner.take("&&"):
                operands.append(self._not(group))
                continue
            if scanner.at_end() or scanner.peek() in ")|" or self._or_next():
                return operands[0] if len(operands) == 1 else And(tuple(_flatten(operands, And)))
            operands.append(self._not(group))

    def _or_next(self) -> bool:
        position = self._scanner.position
        found = self._scanner.take_word("OR")
        self._scanner.position = position
        return found

    def _not(self, group: FieldRef | None) -> Expression:
        scanner = self._scanner
        negations = 0
        while True:
            if scanner.take_word("NOT"):
                negations += 1
            elif scanner.peek() in ("-", "!", "+") and self._sign_applies():
                negations += scanner.peek() != "+"
                scanner.position += 1
            else:
                break
            self._enter(negations)
        expression = self._primary(group)
        for _ in range(negations):
            expression = Not(expression)
        return expression

    def _sign_applies(self) -> bool:
        after = self._scanner.peek(2)[1:]
        if not after or after.isspace():
            self._scanner.error(f"nothing stands behind {self._scanner.peek()!r}", "quote it if it is text")
        return True

    def _enter(self, extra: int = 0) -> None:
        if self._nesting + extra > DEPTH_MAX:
            self._scanner.error(f"nested more than {DEPTH_MAX} deep")

    def _leaf(self) -> None:
        self._leaves += 1
        if self._leaves > LEAVES_MAX:
            self._scanner.error(f"more than {LEAVES_MAX} terms")

    def _primary(self, group: FieldRef | None) -> Expression:
        scanner = self._scanner
        scanner.skip_space()
        if scanner.peek() == "(":
            return self._parenthesis(group)
        self._leaf()
        if scanner.position >= len(scanner.text) or scanner.peek() in ")|":
            scanner.error("a term is missing here")
        for word in ("AND", "OR"):
            if scanner.take_word(word):
                scanner.error(
                    f"{word} needs a term on each side", f'quote the word: "{word}"', at=scanner.position - len(word)
                )
        if group is not None:
            return self._value(group, self._columns.kind(group))
        if scanner.text.startswith("*:*", scanner.position):
            scanner.position += 3
            return All()
        return self._fielded() or self._bare()

    def _parenthesis(self, group: FieldRef | None) -> Expression:
        scanner = self._scanner
        opened = scanner.position
        self._nesting += 1
        self._enter()
        scanner.take("(")
        if scanner.take(")"):
            scanner.error("empty parentheses", "quote text that has parentheses", at=opened)
        expression = self._or(group)
        if not scanner.take(")"):
            scanner.error("the ) of this ( is missing", at=opened)
        self._nesting -= 1
        return expression

    def _fielded(self) -> Expression | None:
        """`name:…`, or `name > …` in a `where`; None if what stands here is plain text."""
        scanner = self._scanner
        start = scanner.position
        name = scanner.maybe_name()
        if name is None:
            return None
        if scanner.peek() == ":":
            scanner.position += 1
            expression = self._of_field(name)
        else:
            expression = self._signed(name) if self._in_where else None
        if expression is None:
            scanner.position = start
        return expression

    def _of_field(self, name: Term) -> Expression | None:
        scanner = self._scanner
        if name.raw == "_exists_" and not name.quoted:
            return Exists(self._resolve(scanner.name("a field")))
        unknown = not name.quoted and self._unknown(name.raw)
        following = scanner.peek(2)
        if unknown and (following == "//" or (following[:1] == ":" and following != "::")):
            return None
        if scanner.at_end() or scanner.text[scanner.position - 1].isspace() or scanner.peek() in ")|":
            shown = f'"{name.raw}:"' if not name.quoted else "the text"
            scanner.error(f"a value is missing behind {name.raw}:", f"quote it if it is text: {shown}")
        ref = self._resolve(name)
        kind = self._columns.kind(ref)
        value_at = scanner.position
        expression = self._value(ref, kind)
        if unknown and self._known and _NUMBER_NEXT.match(scanner.text, value_at):
            text = Term(scanner.text[name.column : scanner.position], name.column, quoted=True)
            return Or((*_flatten([expression], Or), self._values.equal(_BODY, FieldKind.TEXT, text)))
        return expression

    def _unknown(self, name: str) -> bool:
        ref = self._columns.resolve(name)
        return ref is not None and ref.scope is Scope.ANY and name not in self._known

    def _resolve(self, name: Term) -> FieldRef:
        self._scanner.check_name(name)
        ref = self._columns.resolve(name.raw)
        if ref is None:
            self._scanner.error(
                f"unknown column {name.raw!r}", did_you_mean(name.raw, self._columns.names()), at=name.column
            )
        if ref.scope is Scope.ANY and not name.quoted:
            hint = misspelt_core_field(name.raw, self._known)
            if hint:
                self._scanner.error(f"unknown field {name.raw!r}", hint, at=name.column)
        return ref

    def _signed(self, name: Term) -> Expression | None:
        scanner = self._scanner
        found = scanner.match(_SIGNED)
        if found is None:
            return None
        ref = self._resolve(name)
        kind = self._columns.kind(ref)
        operator = _OPERATORS.get(found[1])
        value = scanner.operand()
        if operator is not None:
            return self._values.compare(ref, kind, operator, value)
        expression = self._values.equal(ref, kind, value)
        return Not(expression) if found[1] == "!=" else expression

    def _bare(self) -> Expression:
        scanner = self._scanner
        if not self._columns.holds(_BODY):
            scanner.error("there is no body to search here", "name a column, as in name:value")
        if scanner.peek() not in ('"', "/"):
            term = scanner.term()
            if term is not None and term.raw.strip("*") == "":
                return All()
            if term is not None:
                return self._text(term)
        return self._value(_BODY, FieldKind.TEXT)

    def _text(self, term: Term) -> Expression:
        """A bare term. In a URL `?` and `*` are text, too; a plus in front was read as a sign, but is a part of the text."""
        if "://" in term.raw:
            term = Term(term.text, term.column, quoted=True)
        if self._scanner.text[term.column - 1 : term.column] == "+" and not term.is_wildcard:
            term = Term("+" + term.text, term.column, quoted=True)
        return self._values.equal(_BODY, FieldKind.TEXT, term)

    def _value(self, ref: FieldRef, kind: FieldKind) -> Expression:
        scanner = self._scanner
        character = scanner.peek()
        if character == "(":
            return self._parenthesis(ref)
        for sign, operator in _OPERATORS.items():
            if scanner.take(sign):
                return self._values.compare(ref, kind, operator, self._operand())
        if character in "[{":
            return self._range(ref, kind)
        if character == "/":
            name = "" if ref == _BODY else str(ref)
            return self._values.regex(ref, kind, scanner.regex(name))
        return self._values.equal(ref, kind, self._operand())

    def _operand(self) -> Term:
        scanner = self._scanner
        scanner.skip_space()
        if scanner.peek() == '"':
            term = scanner.quoted()
            after = scanner.peek()
            if after and not after.isspace() and after not in ")|":
                scanner.error(
                    "something stands right behind the closing quote",
                    "proximity (~) and boosts (^) don't exist here; put a space between terms",
                )
            return term
        found = scanner.term()
        if found is None:
            scanner.error("a value is missing here")
        return found

    def _range(self, ref: FieldRef, kind: FieldKind) -> Expression:
        scanner = self._scanner
        opened = scanner.position
        low_operator = Operator.GE if scanner.peek() == "[" else Operator.GT
        scanner.position += 1
        low = scanner.bound()
        if not scanner.take_word("to", any_case=True):
            scanner.error("TO is missing in this range", "write [from TO to]", at=opened)
        high = scanner.bound()
        if scanner.take("]"):
            high_operator = Operator.LE
        elif scanner.take("}"):
            high_operator = Operator.LT
        else:
            scanner.error("the closing ] or } of this range is missing", at=opened)
        return self._values.range(ref, kind, (low_operator, low), (high_operator, high))


def _flatten(operands: list[Expression], kind: type[And | Or]) -> list[Expression]:
    flat: list[Expression] = []
    for operand in operands:
        flat.extend(operand.operands if isinstance(operand, kind) else (operand,))
    return flat


def _depth(expression: Expression) -> int:
    deepest = 0
    stack: list[tuple[Expression, int]] = [(expression, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(node, Not):
            stack.append((node.operand, depth + 1))
        elif isinstance(node, And | Or):
            stack.extend((each, depth + 1) for each in node.operands)
    return deepest
