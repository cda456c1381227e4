"""Expression tree to ClickHouse SQL: a boolean that is never null, and its parameters.

Nothing that a person wrote becomes part of the SQL: texts, names and numbers travel as server-side
parameters, columns of the table are named from the schema, computed ones by numbers of ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import NUMBER_PATTERN, number_text, parse_network
from heimdall_server.domain.expression.patterns import wildcard_parts, wildcard_runs, wildcard_words_regex
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
from heimdall_server.storage.clickhouse.holding import holds

FALSE: Final = "false"
TRUE: Final = "true"
_SIGNS: Final = {Operator.EQ: "=", Operator.LT: "<", Operator.LE: "<=", Operator.GT: ">", Operator.GE: ">="}
_WIDE: Final = frozenset({"position", "record_number"})
_MAPS: Final = ("", "_number", "_bool")
_LIKE_SPECIAL: Final = str.maketrans({"%": r"\%", "_": r"\_", "\\": r"\\"})
_RUN_CHARACTERS_MIN: Final = 3
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\0": r"\0"})
_ZERO_LED: Final = r":0[0-9]+\.|\.0[0-9]"


class Parameters:
    """Collects the values of a statement; equal ones share a placeholder."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str | int | float], str] = {}
        self.values: dict[str, str | int | float] = {}
        """By name, as `clickhouse_connect` takes them."""

    def add(self, value: str | float, type_: str) -> str:
        """Take a value in; returns its placeholder, as in `{p0:String}`."""
        key = (type_, value)
        name = self._names.setdefault(key, f"p{len(self._names)}")
        self.values[name] = value
        return f"{{{name}:{type_}}}"

    def text(self, value: str) -> str:
        """Take a String in."""
        return self.add(value, "String")

    def number(self, value: float) -> str:
        """Take a Float64 in."""
        return self.add(value, "Float64")

    def escaped(self) -> dict[str, str]:
        """By name, in the text form that plain `chdb` takes."""
        return {
            name: value.translate(_ESCAPES) if isinstance(value, str) else repr(value)
            for name, value in self.values.items()
        }


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed column as SQL sees it."""

    sql: str
    """An identifier of ours, or an expression."""
    kind: FieldKind
    """KEYWORD: String, empty is missing; others: NULL is missing."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles expressions and fields over one table (or the result of a stage)."""

    parameters: Parameters
    computed: Mapping[str, Computed] = field(default_factory=dict)
    hot: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(map column, key) → the materialised column that holds its value, the type's default where missing."""

    def filter(self, expression: Expression) -> str:
        """A boolean, never null."""
        if isinstance(expression, All):
            return TRUE
        if isinstance(expression, Not):
            return f"NOT ({self.filter(expression.operand)})"
        if isinstance(expression, And):
            return " AND ".join(f"({self.filter(each)})" for each in expression.operands)
        if isinstance(expression, Or):
            return self._or(expression)
        return self._leaf(expression)

    def _or(self, expression: Or) -> str:
        """Many values of one keyword become one list, and so do many words of one text."""
        lists: dict[str, list[str]] = {}
        words: dict[FieldRef, list[str]] = {}
        others: list[Expression] = []
        for each in expression.operands:
            found = keyword_equality(each)
            if found is not None:
                lists.setdefault(found[0], []).append(self.parameters.text(found[1]))
            elif isinstance(each, Words) and len(each.words) == 1:
                words.setdefault(each.field, []).append(each.words[0])
            else:
                others.append(each)
        parts = [f"{column} IN ({', '.join(values)})" for column, values in lists.items()]
        parts += [self._any_word(ref, some) for ref, some in words.items()]
        parts += [f"({self.filter(each)})" for each in others]
        return " OR ".join(parts)

    def _leaf(self, leaf: Words | Compare | Wildcard | Regex | Cidr | Exists | Holds) -> str:
        if isinstance(leaf, Holds):
            return holds(leaf.entities, self.parameters)
        if isinstance(leaf, Exists):
            return self.exists(leaf.field)
        if isinstance(leaf, Compare):
            return self._compare(leaf)
        if isinstance(leaf, Words):
            return self._words(leaf)
        if isinstance(leaf, Wildcard):
            if self._kind(leaf.field) is FieldKind.TEXT:
                return self._wildcard_words(leaf)
            pattern = self.parameters.text(like_pattern(leaf.pattern))
            return self._on_text(leaf.field, lambda text: f"{text} LIKE {pattern}")
        if isinstance(leaf, Regex):
            pattern = self.parameters.text("(?-s)" + leaf.pattern)
            return self._on_text(leaf.field, lambda text: f"match({text}, {pattern})")
        return self._on_text(leaf.field, self._cidr(leaf))

    def _kind(self, ref: FieldRef) -> FieldKind:
        if ref.scope is Scope.CORE:
            return CORE_FIELDS[ref.name]
        return self.computed[ref.name].kind if ref.scope is Scope.COMPUTED else FieldKind.ATTRIBUTE

    def exists(self, ref: FieldRef) -> str:
        """The record carries the field."""
        kind = self._kind(ref)
        if kind is FieldKind.ATTRIBUTE:
            return self._scoped(ref, lambda scope: self._has_key(scope, ref.name))
        if ref.scope is Scope.COMPUTED:
            column = self.computed[ref.name].sql
            return f"{column} != ''" if kind is FieldKind.KEYWORD else f"{column} IS NOT NULL"
        if kind is FieldKind.SEVERITY:
            return f"{ref.name} != 0"
        if kind is FieldKind.ID:
            return f"{ref.name} != toFixedString('', {16 if ref.name == 'trace_id' else 8})"
        return f"{ref.name} != ''" if kind in (FieldKind.KEYWORD, FieldKind.TEXT) else TRUE

    def _scoped(self, ref: FieldRef, make: Callable[[str], str]) -> str:
        """The maps that an attribute's reference means; see `Scope.ANY`."""
        if ref.scope is not Scope.ANY:
            return make(str(ref.scope))
        has_attribute = self._has_key("attributes", ref.name)
        return f"({make('attributes')}) OR (NOT ({has_attribute}) AND ({make('resource')}))"

    def _has_key(self, scope: str, name: str) -> str:
        key = self.parameters.text(name)
        return " OR ".join(f"mapContains({scope}{suffix}, {key})" for suffix in _MAPS)

    def _value(self, column: str, name: str) -> str:
        """What a map holds under a key; its type's default where it doesn't."""
        found = self.hot.get((column, name))
        return found if found is not None else f"{column}[{self.parameters.text(name)}]"

    def _on_text(self, ref: FieldRef, test: Callable[[str], str]) -> str:
        kind = self._kind(ref)
        if kind is FieldKind.ATTRIBUTE:
            key = self.parameters.text(ref.name)
            return self._scoped(
                ref, lambda scope: f"mapContains({scope}, {key}) AND ({test(self._value(scope, ref.name))})"
            )
        if kind is FieldKind.ID:
            return f"({self.exists(ref)}) AND ({test(f'lower(hex({ref.name}))')})"
        column = self.computed[ref.name].sql if ref.scope is Scope.COMPUTED else ref.name
        if ref.scope is Scope.COMPUTED and kind is not FieldKind.KEYWORD:
            return FALSE
        return f"{column} != '' AND ({test(column)})"

    def _words(self, leaf: Words) -> str:
        column = lowered(leaf.field)
        if len(leaf.words) == 1:
            return f"hasAllTokens({column}, [{self.parameters.text(leaf.words[0])}])"
        return f"hasPhrase({column}, {self.parameters.text(' '.join(leaf.words))})"

    def _any_word(self, ref: FieldRef, words: Sequence[str]) -> str:
        """One of some words. They travel as one parameter: a network of addresses is a thousand of them."""
        needles = self.parameters.text(" ".join(words))
        return f"hasAnyTokens({lowered(ref)}, splitByChar(' ', {needles}))"

    def _wildcard_words(self, leaf: Wildcard) -> str:
        """The runs of word characters first: the text index finds them among its words."""
        runs = [run for run in wildcard_runs(leaf.pattern) if len(run) >= _RUN_CHARACTERS_MIN]
        column = lowered(leaf.field)
        tests = [f"{column} LIKE {self.parameters.text('%' + run.translate(_LIKE_SPECIAL) + '%')}" for run in runs]
        tests.append(f"match({column}, {self.parameters.text(wildcard_words_regex(leaf.pattern))})")
        return " AND ".join([f"{leaf.field.name} != ''", *tests])

    def _cidr(self, leaf: Cidr) -> Callable[[str], str]:
        network = parse_network(leaf.network)
        first = self.parameters.text(str(ipaddress.IPv6Address(network.first)))
        last = self.parameters.text(str(ipaddress.IPv6Address(network.last)))
        zero_led = self.parameters.text(_ZERO_LED)

        def test(text: str) -> str:
            inside = f"toIPv6OrNull({text}) BETWEEN toIPv6({first}) AND toIPv6({last})"
            if not network.is_ipv4:
                inside += f" AND toIPv6OrNull({text}) NOT BETWEEN toIPv6('::ffff:0:0') AND toIPv6('::ffff:ffff:ffff')"
            return f"ifNull({inside}, false) AND NOT match({text}, {zero_led})"

        return test

    def _compare(self, leaf: Compare) -> str:
        ref, value, sign = leaf.field, leaf.value, _SIGNS[leaf.operator]
        if isinstance(value, TimeLiteral):
            instant = f"fromUnixTimestamp64Nano({self.parameters.add(value.ns, 'Int64')}, 'UTC')"
            if ref.scope is Scope.COMPUTED:
                return f"ifNull({self.computed[ref.name].sql} {sign} {instant}, false)"
            return f"{ref.name} {sign} {instant}"
        if isinstance(value, bool):
            return self._scoped(ref, lambda scope: self._equals_bool(scope, ref.name, value=value))
        if isinstance(value, str):
            return self._compare_text(leaf, value)
        number = float(value)
        if ref.scope is Scope.CORE:
            return self._compare_core(ref, leaf.operator, number)
        if ref.scope is Scope.COMPUTED:
            return self._compare_computed(ref, leaf.operator, number)
        return self._scoped(ref, lambda scope: self._compare_number(scope, ref.name, leaf.operator, number))

    def _compare_text(self, leaf: Compare, value: str) -> str:
        ref, sign = leaf.field, _SIGNS[leaf.operator]
        kind = self._kind(ref)
        if kind is FieldKind.ID:
            width = 16 if ref.name == "trace_id" else 8
            wanted = f"toFixedString(unhex({self.parameters.text(value)}), {width})"
            return f"{ref.name} = {wanted}" if value.strip("0") else FALSE
        parameter = self.parameters.text(value)
        if value and leaf.operator in (Operator.EQ, Operator.GT, Operator.GE):
            # The empty text, which stands for missing, fails by itself.
            if kind is FieldKind.ATTRIBUTE:
                return self._scoped(ref, lambda scope: f"{self._value(scope, ref.name)} {sign} {parameter}")
            if kind is FieldKind.KEYWORD:
                column = self.computed[ref.name].sql if ref.scope is Scope.COMPUTED else ref.name
                return f"{column} {sign} {parameter}"
        return self._on_text(ref, lambda text: f"{text} {sign} {parameter}")

    def _equals_bool(self, scope: str, name: str, *, value: bool) -> str:
        found = self._value(f"{scope}_bool", name)
        wanted = found if value else f"mapContains({scope}_bool, {self.parameters.text(name)}) AND NOT {found}"
        return f"({wanted}) OR {self._value(scope, name)} = {self.parameters.text('true' if value else 'false')}"

    def _compare_core(self, ref: FieldRef, operator: Operator, number: float) -> str:
        column = f"toFloat64({ref.name})" if ref.name in _WIDE else ref.name
        test = f"{column} {_SIGNS[operator]} {self.parameters.number(number)}"
        if self._kind(ref) is FieldKind.SEVERITY and _holds(0.0, operator, number):
            return f"{ref.name} != 0 AND {test}"
        return test

    def _compare_number(self, scope: str, name: str, operator: Operator, number: float) -> str:
        column = f"{scope}_number"
        test = f"{self._value(column, name)} {_SIGNS[operator]} {self.parameters.number(number)}"
        if _holds(0.0, operator, number):
            test = f"mapContains({column}, {self.parameters.text(name)}) AND {test}"
        if operator is not Operator.EQ:
            return test
        return f"({test}) OR {self._value(scope, name)} = {self.parameters.text(number_text(number))}"

    def _compare_computed(self, ref: FieldRef, operator: Operator, number: float) -> str:
        column = self.computed[ref.name]
        test = f"ifNull({self.number(ref)} {_SIGNS[operator]} {self.parameters.number(number)}, false)"
        if column.kind is FieldKind.KEYWORD and operator is Operator.EQ:
            return f"({test}) OR {column.sql} = {self.parameters.text(number_text(number))}"
        return test

    def number(self, ref: FieldRef) -> str:
        """A field as Nullable(Float64), NaN as NULL: what aggregates read. Attributes: the number maps only."""
        kind = self._kind(ref)
        if kind is FieldKind.ATTRIBUTE:
            key = self.parameters.text(ref.name)
            scopes = ["attributes", "resource"] if ref.scope is Scope.ANY else [str(ref.scope)]
            pieces = []
            for scope in scopes:
                if scope == "resource" and ref.scope is Scope.ANY:
                    pieces.append(f"{self._has_key('attributes', ref.name)}, NULL")
                found = self._value(f"{scope}_number", ref.name)
                pieces.append(f"mapContains({scope}_number, {key}), if(isNaN({found}), NULL, {found})")
            return f"multiIf({', '.join(pieces)}, NULL)"
        if ref.scope is Scope.CORE:
            return (
                f"toFloat64(nullIf({ref.name}, 0))"
                if kind is FieldKind.SEVERITY
                else f"toNullable(toFloat64({ref.name}))"
            )
        column = self.computed[ref.name].sql
        if kind is not FieldKind.KEYWORD:
            return f"toFloat64({column})"
        spelt = self.parameters.text(rf"\A(?:{NUMBER_PATTERN})\z")
        parsed = f"toFloat64OrNull({column})"
        return f"if(match({column}, {spelt}) AND ifNull(isFinite({parsed}), false), {parsed}, NULL)"

    def text(self, ref: FieldRef) -> str:
        """A field's text alone, as patterns see it; empty where it has none."""
        if self._kind(ref) is not FieldKind.ATTRIBUTE:
            return self.display(ref)
        if ref.scope is not Scope.ANY:
            return self._value(str(ref.scope), ref.name)
        own, inherited = (self._value(scope, ref.name) for scope in ("attributes", "resource"))
        return f"if({self._has_key('attributes', ref.name)}, {own}, {inherited})"

    def display(self, ref: FieldRef) -> str:
        """A field as groups and `fields` show it: attributes and ids as String, others as they are."""
        kind = self._kind(ref)
        if kind is FieldKind.ID:
            return f"if({self.exists(ref)}, lower(hex({ref.name})), '')"
        if kind is not FieldKind.ATTRIBUTE:
            return self.computed[ref.name].sql if ref.scope is Scope.COMPUTED else ref.name
        key = self.parameters.text(ref.name)
        scopes = ["attributes", "resource"] if ref.scope is Scope.ANY else [str(ref.scope)]
        pieces = []
        for scope in scopes:
            pieces.append(f"mapContains({scope}, {key}), {self._value(scope, ref.name)}")
            number = self._value(f"{scope}_number", ref.name)
            pieces.append(f"mapContains({scope}_number, {key}), {_number_text(number)}")
            flag = self._value(f"{scope}_bool", ref.name)
            pieces.append(f"mapContains({scope}_bool, {key}), if({flag}, 'true', 'false')")
        return f"multiIf({', '.join(pieces)}, '')"


def compile_filter(
    expression: Expression,
    parameters: Parameters,
    *,
    computed: Mapping[str, Computed] | None = None,
    hot: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """Compile a tree that `check_query` accepts.

    Args:
        expression: The tree.
        parameters: Takes its values in.
        computed: The computed columns that it may name.
        hot: Materialised columns of map keys.

    Returns:
        A boolean SQL expression, never null. Put it in parentheses.
    """
    return Compiler(parameters, computed or {}, hot or {}).filter(expression)


def lowered(ref: FieldRef) -> str:
    """A TEXT field as the index of its words reads it (`schema`)."""
    return f"lower({ref.name})"


def keyword_equality(expression: Expression) -> tuple[str, str] | None:
    """Column and value of `service:api` and its like: EQ of a core keyword with a text."""
    if not isinstance(expression, Compare) or expression.operator is not Operator.EQ:
        return None
    ref, value = expression.field, expression.value
    is_keyword = ref.scope is Scope.CORE and CORE_FIELDS[ref.name] is FieldKind.KEYWORD
    return (ref.name, value) if is_keyword and isinstance(value, str) and value else None


def like_pattern(pattern: str) -> str:
    """A wildcard as a LIKE pattern over the whole value."""
    translated = {"*": "%", "?": "_"}
    return "".join(translated.get(part) or part[1:].translate(_LIKE_SPECIAL) for part in wildcard_parts(pattern))


def _holds(value: float, operator: Operator, number: float) -> bool:
    return {
        Operator.EQ: value == number,
        Operator.LT: value < number,
        Operator.LE: value <= number,
        Operator.GT: value > number,
        Operator.GE: value >= number,
    }[operator]


def _number_text(sql: str) -> str:
    """As `number_text` writes it; ClickHouse's own text for what isn't whole is the same."""
    whole = f"{sql} = trunc({sql}) AND abs({sql}) < 9007199254740992"
    return f"if({whole}, toString(toInt64({sql})), toString({sql}))"
