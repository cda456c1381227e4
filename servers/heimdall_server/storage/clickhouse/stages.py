"""A whole query to one SELECT: filter and stages around a FROM and the conditions that the caller brings.

Stages become layers only where SQL's order of evaluation demands it: a condition behind a limit, anything
behind an aggregation. Result columns have names of ours (`c0`, `g1`); what a person calls them is in
`Select.outputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.expression.columns import Columns, key_name
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    Bucket,
    Extract,
    Fields,
    Function,
    GroupKey,
    Limit,
    Query,
    Sort,
    SortKey,
    Stage,
    Stats,
    Where,
)
from heimdall_server.domain.records import HIDDEN_COLUMNS, POSITIONED_SCHEMA
from heimdall_server.storage.clickhouse.compile import Compiler, Computed, Parameters

NEWEST_FIRST: Final = "time DESC, shard DESC, position DESC, row DESC"
ROW_COLUMNS: Final[tuple[str, ...]] = tuple(POSITIONED_SCHEMA.names)
TIMES_FIRST_ROWS_MAX: Final = 1_000
"""More rows than this are read as they come: their first ones mustn't wait for the time of the last."""
_MINUTE_NS: Final = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Output:
    """A column of the result."""

    identifier: str
    """In the SQL: a column of the table, or a name of ours."""
    name: str
    """As the query calls it."""
    kind: FieldKind | None
    """None: the record's own column, unchanged. KEYWORD: text, empty is missing; else null is missing."""
    hidden: bool = False
    """Not asked for: a key that the caller added, or a column that is shown only to those who name it."""


@dataclass(frozen=True, slots=True)
class Select:
    """A compiled query."""

    sql: str
    """Without SETTINGS and FORMAT."""
    outputs: tuple[Output, ...]
    aggregated: bool
    """A table of groups; False: each row is a record."""
    row_limit: int | None
    """More rows than this don't come; None: it has no limit."""


def compile_query(
    query: Query,
    parameters: Parameters,
    *,
    source: str,
    where: Sequence[str] = (),
    order_by: str = NEWEST_FIRST,
    columns: Sequence[str] = ROW_COLUMNS,
    keys: Sequence[str] = (),
    limit: int | None = None,
    hot: Mapping[tuple[str, str], str] | None = None,
    weight: str = "",
    times_first: bool = False,
) -> Select:
    """Compile a query that `check_query` accepts.

    Args:
        query: Filter and stages.
        parameters: Takes the query's values in.
        source: What FROM names: a table or table function with the columns of `POSITIONED_SCHEMA` and `minute`.
        where: Further conditions on records: time range, positions, the place to go on from.
        order_by: Order of records, where the query sorts by nothing itself. Empty: none.
        columns: Columns of the table that a query for records gives if it names none (`fields`).
        keys: Columns of the table that a query for records gives in any case, hidden if it didn't ask.
        limit: Rows of the result at most, on top of the query's own limits.
        hot: Materialised columns of map keys; see `Compiler.hot`.
        weight: Column of the table that says how many records a row stands for (a rollup); empty: one.
        times_first: Whether the first rows in time order may be found by their times alone, before anything else of
            them is read; see `_Builder.select`.
    """
    builder = _Builder(parameters, source, [f"({each})" for each in where], order_by, hot or {}, weight)
    if not isinstance(query.filter, All):
        builder.apply(Where(query.filter))
    for stage in query.stages:
        builder.apply(stage)
    if limit is not None:
        builder.apply(Limit(limit))
    return builder.select(columns, keys, times_first=times_first)


class _Builder:
    """The statement as far as the stages so far have made it."""

    def __init__(
        self,
        parameters: Parameters,
        source: str,
        conditions: list[str],
        order_by: str,
        hot: Mapping[tuple[str, str], str],
        weight: str = "",
    ) -> None:
        self._weight = weight
        self._source = source
        self._conditions = conditions
        self._compiler = Compiler(parameters, {}, hot)
        self._columns = Columns()
        self._fields: tuple[FieldRef, ...] | None = None
        self._order = ""
        self._tie_break = order_by
        self._limit: int | None = None
        self._is_table = True
        self._identifiers = 0

    def apply(self, stage: Stage) -> None:
        """Put a stage behind the others."""
        if isinstance(stage, Where):
            self._layer_behind_limit()
            self._conditions.append(f"({self._compiler.filter(stage.expression)})")
        elif isinstance(stage, Extract):
            self._extract(stage)
        elif isinstance(stage, Stats):
            self._layer_behind_limit()
            self._stats(stage)
        elif isinstance(stage, Sort):
            self._layer_behind_limit()
            self._order = ", ".join(self._sort_key(key) for key in stage.keys)
        elif isinstance(stage, Limit):
            self._limit = stage.count if self._limit is None else min(self._limit, stage.count)
        elif isinstance(stage, Fields):
            self._fields = stage.fields
        self._columns = self._columns.after(stage)

    def select(self, columns: Sequence[str], keys: Sequence[str], *, times_first: bool) -> Select:
        """The whole statement.

        Sorting by the whole key of a record makes the engine read far into every part. By time alone it stops where
        it has enough, so the times of the first rows are found first; the rows that have one of these times are those
        wanted and their equals, and the index of times leads to them.
        """
        outputs: list[Output] = []
        pieces: list[str] = []
        aggregated = self._columns.aggregated
        refs = self._fields
        if refs is None:
            refs = tuple(FieldRef(Scope.COMPUTED, name) for name in self._columns.computed)
            if not aggregated:
                refs = (*(FieldRef(Scope.CORE, name) for name in columns), *refs)
        for ref in refs:
            if ref.scope is Scope.CORE:
                hidden = self._fields is None and ref.name in HIDDEN_COLUMNS
                outputs.append(Output(ref.name, ref.name, None, hidden=hidden))
                pieces.append(ref.name)
                continue
            kind = self._columns.kind(ref)
            kind = FieldKind.KEYWORD if kind is FieldKind.ATTRIBUTE else kind
            outputs.append(Output(self._identifier("c"), str(ref), kind))
            pieces.append(f"{self._compiler.display(ref)} AS {outputs[-1].identifier}")
        if not aggregated:
            added = [key for key in keys if key not in pieces]
            outputs += [Output(key, key, None, hidden=True) for key in added]
            pieces += added
        if times_first and self._is_table and not self._order and self._limit and self._limit <= TIMES_FIRST_ROWS_MAX:
            self._conditions.append(f"time IN ({self._times()})")
        return Select(self._statement(pieces), tuple(outputs), aggregated, self._limit)

    def _times(self) -> str:
        where = f" WHERE {' AND '.join(self._conditions)}" if self._conditions else ""
        first = self._tie_break.split(",", 1)[0]
        return f"SELECT time FROM {self._source}{where} ORDER BY {first} LIMIT {self._limit}"  # noqa: S608 # as above

    def _statement(self, pieces: Sequence[str]) -> str:
        sql = f"SELECT {', '.join(pieces)} FROM {self._source}"  # noqa: S608 # the pieces are ours, values are parameters
        if self._conditions:
            sql += f" WHERE {' AND '.join(self._conditions)}"
        order = ", ".join(filter(None, [self._order, self._tie_break]))
        if order and (self._order or not self._columns.aggregated):
            sql += f" ORDER BY {order}"
        return sql if self._limit is None else f"{sql} LIMIT {self._limit}"

    def _identifier(self, prefix: str) -> str:
        self._identifiers += 1
        return f"{prefix}{self._identifiers}"

    def _layer_behind_limit(self) -> None:
        """What comes behind a limit sees only the rows that it left."""
        if self._limit is None:
            return
        pieces = [] if self._columns.aggregated else ["*"]
        computed = {}
        for name, column in self._compiler.computed.items():
            identifier = self._identifier("c")
            pieces.append(f"{column.sql} AS {identifier}")
            computed[name] = Computed(identifier, column.kind)
        self._source = f"({self._statement(pieces)})"
        self._compiler = Compiler(self._compiler.parameters, computed)
        self._conditions, self._limit, self._is_table = [], None, False
        if self._columns.aggregated:
            self._tie_break = ""

    def _extract(self, stage: Extract) -> None:
        text = self._compiler.text(stage.field)
        pattern = self._compiler.parameters.text("(?-s)" + stage.pattern)
        made = {
            name: Computed(f"extractGroups({text}, {pattern})[{index}]", FieldKind.KEYWORD)
            for index, name in enumerate(stage.names, 1)
        }
        compiler = self._compiler
        self._compiler = Compiler(compiler.parameters, {**compiler.computed, **made}, compiler.hot)

    def _stats(self, stage: Stats) -> None:
        columns = self._columns.after(stage)
        pieces: list[str] = []
        groups: list[str] = []
        computed: dict[str, Computed] = {}
        for key in stage.by:
            group, shown = self._group(key)
            identifier = self._identifier("g")
            groups.append(group)
            pieces.append(f"{shown} AS {identifier}")
            computed[key_name(key)] = Computed(identifier, columns.computed[key_name(key)])
        tie_break = ", ".join(each.sql for each in computed.values())
        for aggregate in stage.aggregates:
            identifier = self._identifier("a")
            pieces.append(f"{self._aggregate(aggregate)} AS {identifier}")
            computed[aggregate.name] = Computed(identifier, columns.computed[aggregate.name])
        sql = f"SELECT {', '.join(pieces)} FROM {self._source}"  # noqa: S608 # the pieces are ours, values are parameters
        if self._conditions:
            sql += f" WHERE {' AND '.join(self._conditions)}"
        if groups:
            sql += f" GROUP BY {', '.join(groups)}"
        self._source = f"({sql})"
        self._compiler = Compiler(self._compiler.parameters, computed)
        self._conditions, self._fields, self._is_table = [], None, False
        self._order, self._tie_break = "", tie_break

    def _group(self, key: GroupKey) -> tuple[str, str]:
        """What GROUP BY names, and what is shown of it."""
        if isinstance(key, Bucket):
            return self._bucket(key.interval_ns)
        shown = self._compiler.display(key)
        if key == FieldRef(Scope.CORE, "severity"):
            return shown, "nullIf(severity, 0)"
        return shown, shown

    def _bucket(self, interval_ns: int) -> tuple[str, str]:
        if interval_ns % _MINUTE_NS == 0 and self._is_table:
            seconds = interval_ns // 1_000_000_000
            group = f"intDiv(toUInt32(minute), {seconds})"
            return group, f"toDateTime64(toDateTime({group} * {seconds}, 'UTC'), 9, 'UTC')"
        group = f"intDiv(toUnixTimestamp64Nano(time), {interval_ns})"
        return group, f"fromUnixTimestamp64Nano({group} * {interval_ns}, 'UTC')"

    def _aggregate(self, aggregate: Aggregate) -> str:
        ref, compiler = aggregate.field, self._compiler
        weight = self._weight if self._is_table else ""
        if ref is None:
            return f"sum({weight})" if weight else "count()"
        if aggregate.function is Function.COUNT:
            exists = compiler.exists(ref)
            return f"sumIf({weight}, {exists})" if weight else f"countIf({exists})"
        kind = self._columns.kind(ref)
        if aggregate.function is Function.COUNT_DISTINCT:
            return f"uniqExact({_present(compiler.display(ref), kind)})"
        if kind is FieldKind.TIME:
            return f"{aggregate.function}(toNullable({compiler.display(ref)}))"
        if aggregate.function is Function.QUANTILE:
            return f"quantile({float(aggregate.quantile)!r})({compiler.number(ref)})"
        return f"{aggregate.function}({compiler.number(ref)})"

    def _sort_key(self, key: SortKey) -> str:
        compiler, ref = self._compiler, key.field
        way = "DESC" if key.descending else "ASC"
        kind = self._columns.kind(ref)
        if kind is FieldKind.ATTRIBUTE:
            text = compiler.display(ref)
            return f"{compiler.number(ref)} {way} NULLS LAST, ({text} = ''), {text} {way}"
        shown = compiler.display(ref)
        if kind in (FieldKind.KEYWORD, FieldKind.TEXT, FieldKind.ID):
            return f"({shown} = ''), {shown} {way}"
        if ref == FieldRef(Scope.CORE, "severity"):
            return f"(severity = 0), severity {way}"
        return f"{shown} {way} NULLS LAST" if ref.scope is Scope.COMPUTED else f"{shown} {way}"


def _present(sql: str, kind: FieldKind) -> str:
    """A value, or NULL where it is missing."""
    if kind in (FieldKind.KEYWORD, FieldKind.TEXT, FieldKind.ID, FieldKind.ATTRIBUTE):
        return f"nullIf({sql}, '')"
    return f"nullIf({sql}, 0)" if kind is FieldKind.SEVERITY else sql
