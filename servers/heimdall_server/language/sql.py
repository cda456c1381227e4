"""A subset of SQL that says the same as the query language: one table, and what maps to the tree.

    SELECT service, count(*) AS n FROM logs WHERE severity >= 17 AND body LIKE '%timeout%'
    GROUP BY service HAVING n > 10 ORDER BY n DESC LIMIT 10

Everything else (joins, subqueries, expressions over columns, other functions) is refused with a reason.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.check import LIMIT_MAX, aggregate_rule, check_query
from heimdall_server.domain.expression.columns import Columns, key_name
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.patterns import escape
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    And,
    Bucket,
    Exists,
    Expression,
    Fields,
    Function,
    GroupKey,
    Limit,
    Not,
    Operator,
    Or,
    Query,
    Sort,
    SortKey,
    Stage,
    Stats,
    Where,
    Wildcard,
)
from heimdall_server.language.format import normalise
from heimdall_server.language.instants import parse_duration
from heimdall_server.language.parser import QUERY_BYTES_MAX
from heimdall_server.language.pipes import aggregate_name
from heimdall_server.language.scanner import Scanner, Term
from heimdall_server.language.suggestions import did_you_mean
from heimdall_server.language.values import Values

_COMPARISONS: Final[dict[type[exp.Expr], Operator]] = {
    exp.EQ: Operator.EQ,
    exp.LT: Operator.LT,
    exp.LTE: Operator.LE,
    exp.GT: Operator.GT,
    exp.GTE: Operator.GE,
}
_MIRRORED: Final = {
    Operator.EQ: Operator.EQ,
    Operator.LT: Operator.GT,
    Operator.LE: Operator.GE,
    Operator.GT: Operator.LT,
    Operator.GE: Operator.LE,
}
_AGGREGATES: Final[dict[type[exp.Expr], Function]] = {
    exp.Sum: Function.SUM,
    exp.Min: Function.MIN,
    exp.Max: Function.MAX,
    exp.Avg: Function.AVG,
}
_CONDITION_PARTS: Final = frozenset({"this", "expression", "expressions", "low", "high", "negate"})
_DIALECT: Final = "postgres"
_TABLE: Final = "logs"
_DEPTH_MAX: Final = 64
_OPENING: Final = re.compile(r"[(\[]")


def parse_sql(text: str, *, now_ns: int) -> Query:
    """Read one SELECT.

    Args:
        text: The statement. Its one table is `logs`, which holds the records of every dataset the caller asks.
        now_ns: What `now` means in a time that is compared.

    Raises:
        QuerySyntaxError: It isn't SQL, or says what the tree can't.
    """
    reader = _Reader(text, now_ns)
    if len(text.encode("utf-8", "surrogatepass")) > QUERY_BYTES_MAX:
        reader.refuse(f"a query longer than {QUERY_BYTES_MAX} bytes")
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        reader.refuse("a character that no text has")
    if len(_OPENING.findall(text)) > _DEPTH_MAX * 16 or text.upper().count("NOT") > _DEPTH_MAX:
        reader.refuse("too many parentheses or NOTs")
    try:
        statements = sqlglot.parse(text, read=_DIALECT)
    except (ParseError, TokenError, RecursionError) as error:
        reader.refuse_syntax(error)
    if len(statements) != 1 or not isinstance(statements[0], exp.Select):
        reader.refuse("only one SELECT can be asked", "SELECT … FROM logs WHERE …")
    try:
        return reader.query(statements[0])
    except RecursionError:
        reader.refuse("nested too deep")


class _Reader:
    """Translates a parsed SELECT."""

    def __init__(self, text: str, now_ns: int) -> None:
        self._text = text
        self._values = Values(Scanner(text), now_ns)
        self._columns = Columns()
        self._made: list[tuple[exp.Expr, FieldRef]] = []
        """What GROUP BY made columns of, so that HAVING and ORDER BY may repeat the expression."""

    def refuse(self, problem: str, suggestion: str = "", at: exp.Expr | None = None) -> NoReturn:
        """Say what can't be asked."""
        column = 0
        for node in at.walk() if at is not None else ():
            if isinstance(node.meta.get("start"), int):
                column = int(node.meta["start"])
                break
        raise QuerySyntaxError(self._text, column, problem, suggestion)

    def refuse_syntax(self, error: Exception) -> NoReturn:
        """Say where the parser stopped."""
        details = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
        lines = self._text.split("\n")
        line, end = int(details.get("line") or 1), int(details.get("col") or 1)
        column = sum(len(each) + 1 for each in lines[: line - 1]) + max(end - 1, 0)
        raise QuerySyntaxError(self._text, min(column, len(self._text)), "not SQL that is understood here") from None

    def query(self, select: exp.Select) -> Query:
        """The tree of a SELECT."""
        allowed = {"expressions", "from_", "where", "group", "having", "order", "limit", "kind", "hint"}
        for name, part in select.args.items():
            if part and name not in allowed:
                self.refuse(f"{name.strip('_').upper()} can't be asked here", "one table, no joins, no subqueries")
        source = select.args.get("from_")
        table = source.this if source is not None else None
        if not isinstance(table, exp.Table) or table.args.get("joins"):
            self.refuse("FROM must name one table", "FROM logs")
        if not isinstance(table.this, exp.Identifier) or [part.name.lower() for part in table.parts] != [_TABLE]:
            name = ".".join(part.name for part in table.parts)
            self.refuse(f"unknown table {name!r}", "FROM logs; a dataset is WHERE dataset = 'dumps'", at=table)
        where = select.args.get("where")
        condition = normalise(self._condition(where.this)) if where is not None else All()
        stages = self._stages(select)
        query = Query(condition, tuple(stages))
        check_query(query)
        return query

    def _stages(self, select: exp.Select) -> list[Stage]:
        items = [(each.unalias(), each.alias) for each in select.expressions]
        group = select.args.get("group")
        stages: list[Stage] = []
        if group is not None or any(isinstance(node, exp.AggFunc) for node, _ in items):
            stages += self._grouped(select, items, list(group.expressions) if group is not None else [])
        elif select.args.get("having") is not None:
            self.refuse("HAVING needs GROUP BY")
        stages += self._ordered(select)
        return [*stages, *self._selected(items)]

    def _selected(self, items: list[tuple[exp.Expr, str]]) -> list[Stage]:
        """`fields`, where the SELECT list isn't what the result has anyway."""
        if any(isinstance(node, exp.Star) for node, _ in items):
            if len(items) > 1 or self._columns.aggregated:
                self.refuse("* stands alone, and not with GROUP BY")
            return []
        refs = [self._result(node, alias) for node, alias in items]
        if len(set(refs)) != len(refs):
            self.refuse("a column is selected twice")
        names = [ref.name for ref in refs]
        return [] if self._columns.aggregated and names == list(self._columns.computed) else [Fields(tuple(refs))]

    def _result(self, node: exp.Expr, alias: str) -> FieldRef:
        """The column of the result that a selected item is."""
        if alias and isinstance(node, exp.Column) and alias != node.name and alias != self._column(node).name:
            self.refuse("a column can't be renamed", "only aggregates and buckets take AS", at=node)
        return FieldRef(Scope.COMPUTED, alias) if alias and isinstance(node, exp.AggFunc) else self._column(node)

    def _grouped(
        self,
        select: exp.Select,
        items: list[tuple[exp.Expr, str]],
        groups: list[exp.Expr],
    ) -> list[Stage]:
        keys = [(node, self._key(node, items)) for node in groups]
        made = [(node, self._aggregate(node, alias)) for node, alias in items if isinstance(node, exp.AggFunc)]
        plain = [(node, self._key(node, items)) for node, _ in items if not isinstance(node, exp.AggFunc | exp.Star)]
        by = [key for _, key in keys]
        outside = next((node for node, key in plain if key not in by), None)
        if outside is not None:
            self.refuse("a selected column must be in GROUP BY", at=outside)
        aggregates = [each for _, each in made] or [Aggregate(Function.COUNT, None, "count")]
        stages: list[Stage] = [Stats(tuple(aggregates), tuple(by))]
        check_query(Query(All(), tuple(stages)))
        self._columns = self._columns.after(stages[0])
        names = [(node, each.name) for node, each in made] + [(node, key_name(key)) for node, key in [*keys, *plain]]
        self._made = [(node, FieldRef(Scope.COMPUTED, name)) for node, name in names]
        having = select.args.get("having")
        if having is not None:
            stages.append(Where(normalise(self._condition(having.this))))
        return stages

    def _ordered(self, select: exp.Select) -> list[Stage]:
        stages: list[Stage] = []
        order, limit = select.args.get("order"), select.args.get("limit")
        if order is not None:
            keys = [SortKey(self._column(each.this), bool(each.args.get("desc"))) for each in order.expressions]
            stages.append(Sort(tuple(keys)))
        if limit is not None:
            count = limit.expression
            if not isinstance(count, exp.Literal) or count.is_string or not count.this.isdigit():
                self.refuse("LIMIT needs a whole number")
            if not 0 < int(count.this) <= LIMIT_MAX:
                self.refuse(f"a limit lies between 1 and {LIMIT_MAX}")
            stages.append(Limit(int(count.this)))
        return stages

    def _key(self, node: exp.Expr, items: list[tuple[exp.Expr, str]]) -> GroupKey:
        if isinstance(node, exp.Column) and not node.table:
            aliased = next((item for item, alias in items if alias and alias == node.name), None)
            node = aliased if aliased is not None else node
        if isinstance(node, exp.Anonymous) and node.name.lower() == "bucket" and len(node.expressions) == 2:
            column, interval = node.expressions
            interval_ns = parse_duration(interval.this) if isinstance(interval, exp.Literal) else None
            if self._column(column) != FieldRef(Scope.CORE, "time") or interval_ns is None:
                self.refuse("a bucket is of time, by an interval", "bucket(time, '1m')", at=node)
            alias = next((alias for item, alias in items if item == node and alias), "time")
            return Bucket(interval_ns, alias)
        return self._column(node)

    def _column(self, node: exp.Expr) -> FieldRef:
        made = next((ref for each, ref in self._made if each == node), None)
        if made is not None:
            return made
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            self.refuse("a plain column must stand here: no expression or function", at=node)
        name = ".".join(part.name for part in node.parts)
        ref = self._columns.resolve(name)
        if ref is None:
            self.refuse(f"unknown column {name!r}", did_you_mean(name, self._columns.names()), at=node)
        return ref

    def _aggregate(self, node: exp.Expr, alias: str) -> Aggregate:
        function, quantile, argument = _AGGREGATES.get(type(node)), 0.0, node.this
        if isinstance(node, exp.Count):
            function = Function.COUNT
            if isinstance(argument, exp.Distinct):
                if len(argument.expressions) != 1:
                    self.refuse("COUNT(DISTINCT …) takes one column", at=node)
                function, argument = Function.COUNT_DISTINCT, argument.expressions[0]
        elif isinstance(node, exp.Quantile | exp.ApproxQuantile) and isinstance(node.args.get("quantile"), exp.Literal):
            function, quantile = Function.QUANTILE, float(node.args["quantile"].this)
        if function is None:
            self.refuse("this function isn't understood here", "count, sum, min, max, avg or quantile", at=node)
        ref = None if argument is None or isinstance(argument, exp.Star) else self._column(argument)
        made = Aggregate(function, ref, alias or aggregate_name(function, ref, quantile), quantile)
        rule = aggregate_rule(made, self._columns)
        if rule:
            self.refuse(rule, at=node)
        return made

    def _condition(self, node: exp.Expr) -> Expression:
        """Any condition. NOT is the tree's complement: what lacks the column fulfils it, unlike in SQL."""
        further = [name for name, value in node.args.items() if value and name not in _CONDITION_PARTS]
        if further:
            self.refuse(f"{further[0].upper()} can't be asked here", at=node)
        condition = self._positive(node)
        return _denied(condition) if node.args.get("negate") else condition

    def _positive(self, node: exp.Expr) -> Expression:
        if isinstance(node, exp.Paren):
            return self._condition(node.this)
        if isinstance(node, exp.And | exp.Or):
            operands = tuple(self._condition(each) for each in node.flatten())
            return And(operands) if isinstance(node, exp.And) else Or(operands)
        if isinstance(node, exp.Not):
            return _denied(self._condition(node.this))
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return Not(Exists(self._column(node.this)))
        if isinstance(node, exp.In) and node.expressions:
            return Or(tuple(self._compare(node.this, Operator.EQ, each) for each in node.expressions))
        if isinstance(node, exp.Between):
            low = self._compare(node.this, Operator.GE, node.args["low"])
            return And((low, self._compare(node.this, Operator.LE, node.args["high"])))
        if isinstance(node, exp.Like | exp.ILike | exp.RegexpLike):
            return self._pattern(node)
        if isinstance(node, exp.NEQ):
            # In SQL a comparison with what is missing isn't true, so neither is its denial.
            ref = self._column(node.this)
            return And((Exists(ref), Not(self._compare(node.this, Operator.EQ, node.expression))))
        operator = _COMPARISONS.get(type(node))
        if operator is None:
            self.refuse("this condition can't be asked", "compare a column with a value", at=node)
        if isinstance(node.this, exp.Column | exp.AggFunc):
            return self._compare(node.this, operator, node.expression)
        return self._compare(node.expression, _MIRRORED[operator], node.this)

    def _compare(self, column: exp.Expr, operator: Operator, value: exp.Expr) -> Expression:
        ref = self._column(column)
        kind = self._columns.kind(ref)
        if kind is FieldKind.TEXT:
            self.refuse(f"{ref} holds words: compare it by LIKE '%…%' or ~ 'regex'", at=column)
        return self._values.compare(ref, kind, operator, self._literal(value))

    def _literal(self, node: exp.Expr) -> Term:
        if isinstance(node, exp.Boolean):
            return Term("true" if node.this else "false", 0)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return Term("-" + node.this.this, 0)
        if isinstance(node, exp.Cast):
            node = node.this
        if not isinstance(node, exp.Literal):
            self.refuse("a column is compared with a plain value", at=node)
        return Term(node.this, 0, quoted=node.is_string)

    def _pattern(self, node: exp.Expr) -> Expression:
        ref = self._column(node.this)
        if not isinstance(node.expression, exp.Literal) or not node.expression.is_string:
            self.refuse("a pattern must be a text", at=node)
        pattern = str(node.expression.this)
        kind = self._columns.kind(ref)
        if isinstance(node, exp.RegexpLike):
            return self._values.regex(ref, kind, Term(pattern, 0, quoted=True))
        parts = re.findall(r"\\.|[%_]|[^\\%_]+|\\", pattern, re.DOTALL)
        if isinstance(node, exp.ILike) or kind is FieldKind.TEXT:
            # A LIKE is over the whole value; on the body a Wildcard would be about words.
            body = "".join({"%": ".*", "_": "."}.get(part) or escape(_plain(part)) for part in parts)
            flags = "(?is)" if isinstance(node, exp.ILike) else "(?s)"
            return self._values.regex(ref, kind, Term(rf"{flags}\A{body}\z", 0, quoted=True))
        wildcard = "".join(
            {"%": "*", "_": "?"}.get(part) or re.sub(r"([*?\\])", r"\\\1", _plain(part)) for part in parts
        )
        if kind not in (FieldKind.KEYWORD, FieldKind.ATTRIBUTE, FieldKind.ID) or not wildcard:
            self.refuse(f"LIKE needs a text, and {ref} is {kind}", at=node)
        return Wildcard(ref, wildcard)


def _denied(condition: Expression) -> Expression:
    return condition.operand if isinstance(condition, Not) else Not(condition)


def _plain(part: str) -> str:
    return part[-1:] if part.startswith("\\") else part
