"""The stages behind the filter: `| stats count() by host | sort -count | limit 10`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from heimdall_server.domain.expression.check import (
    AGGREGATES_MAX,
    INTERVAL_NS_MAX,
    KEYS_MAX,
    LIMIT_MAX,
    STAGES_MAX,
    aggregate_rule,
    name_taken,
)
from heimdall_server.domain.expression.columns import TEXT_KINDS, Columns, key_name
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.literals import number_text, parse_number
from heimdall_server.domain.expression.patterns import extract_pattern
from heimdall_server.domain.expression.tree import (
    Aggregate,
    Bucket,
    Extract,
    Fields,
    Function,
    GroupKey,
    Limit,
    Sort,
    SortKey,
    Stage,
    Stats,
    Where,
)
from heimdall_server.language.filters import FilterParser
from heimdall_server.language.instants import parse_duration
from heimdall_server.language.scanner import Scanner, Term
from heimdall_server.language.suggestions import did_you_mean, misspelt_core_field
from heimdall_server.language.values import Values

_FUNCTIONS: Final = {
    "count": Function.COUNT,
    "count_distinct": Function.COUNT_DISTINCT,
    "dc": Function.COUNT_DISTINCT,
    "sum": Function.SUM,
    "min": Function.MIN,
    "max": Function.MAX,
    "avg": Function.AVG,
    "mean": Function.AVG,
    "quantile": Function.QUANTILE,
    "median": Function.QUANTILE,
}
_PERCENTILE: Final = re.compile(r"p([0-9]{1,2}(?:\.[0-9]+)?|100)")
_FUNCTION: Final = re.compile(r"[A-Za-z_]+[0-9]*(?:\.[0-9]+)?")
_STAGE: Final = re.compile(r"[A-Za-z_]+")
_INTEGER: Final = re.compile(r"[0-9]+(?![A-Za-z0-9_.])")
_DURATION: Final = re.compile(r"(?:span\s*=\s*)?([0-9]+[a-z]+)(?![A-Za-z0-9_.(])")
_TOP_DEFAULT: Final = 10
_SPAN_DEFAULT_NS: Final = 60 * 1_000_000_000


def aggregate_name(function: Function, ref: FieldRef | None, quantile: float) -> str:
    """The column of an aggregate that was given no name: `count`, `sum_bytes`, `p95_took`."""
    label = f"p{number_text(round(quantile * 100, 9))}" if function is Function.QUANTILE else str(function)
    return label if ref is None else f"{label}_{ref}"


class PipeParser:
    """Parses stages and keeps track of which columns exist behind each."""

    def __init__(self, scanner: Scanner, values: Values, known_fields: Collection[str]) -> None:
        self._scanner = scanner
        self._values = values
        self._known = known_fields
        self._columns = Columns()
        self._stages: list[Stage] = []
        self._parsers: dict[str, Callable[[], list[Stage]]] = {
            "where": self._where,
            "filter": self._where,
            "stats": self._stats,
            "timechart": self._timechart,
            "top": self._top,
            "sort": self._sort,
            "limit": self._limit,
            "head": self._limit,
            "fields": self._fields,
            "extract": self._extract,
        }

    def parse(self) -> tuple[Stage, ...]:
        """Read `| stage` until the end."""
        scanner = self._scanner
        while not scanner.at_end():
            scanner.expect("|", "this isn't understood here", "a stage begins with |")
            scanner.skip_space()
            start = scanner.position
            found = scanner.match(_STAGE)
            name = found[0].lower() if found is not None else ""
            if name not in self._parsers:
                shown = f"unknown stage {name!r}" if name else "a stage is missing behind |"
                hint = did_you_mean(name, self._parsers) or f"the stages are {', '.join(sorted(self._parsers))}"
                scanner.error(shown, hint, at=start)
            for stage in self._parsers[name]():
                self._stages.append(stage)
                self._columns = self._columns.after(stage)
            if len(self._stages) > STAGES_MAX:
                scanner.error(f"more than {STAGES_MAX} stages", at=start)
        return tuple(self._stages)

    def _where(self) -> list[Stage]:
        scanner = self._scanner
        if scanner.at_end() or scanner.peek() == "|":
            scanner.error("where needs a condition")
        parser = FilterParser(scanner, self._values, self._columns, self._known, in_where=True)
        return [Where(parser.parse())]

    def _field(self) -> FieldRef:
        return self._resolve(self._scanner.name("a field"))

    def _resolve(self, name: Term) -> FieldRef:
        self._scanner.check_name(name)
        ref = self._columns.resolve(name.raw)
        if ref is None:
            hint = did_you_mean(name.raw, self._columns.names())
            hint = hint or f"the columns here are {', '.join(self._columns.names()[:20])}"
            self._scanner.error(f"unknown column {name.raw!r}", hint, at=name.column)
        if ref.scope is Scope.ANY and not name.quoted:
            hint = misspelt_core_field(name.raw, self._known)
            if hint:
                self._scanner.error(f"unknown field {name.raw!r}", hint, at=name.column)
        return ref

    def _stats(self) -> list[Stage]:
        start = self._scanner.position
        return [self._made(self._aggregates(), self._by(), start)]

    def _made(self, aggregates: list[Aggregate], by: list[GroupKey], start: int) -> Stats:
        names = [*map(key_name, by), *(each.name for each in aggregates)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            self._scanner.error(f"two columns would be named {twice!r}", "name one with `as`", at=start)
        if len(aggregates) > AGGREGATES_MAX or len(by) > KEYS_MAX:
            self._scanner.error(f"more than {AGGREGATES_MAX} aggregates or {KEYS_MAX} groups", at=start)
        return Stats(tuple(aggregates), tuple(by))

    def _timechart(self) -> list[Stage]:
        scanner = self._scanner
        scanner.skip_space()
        start = scanner.position
        found = scanner.match(_DURATION)
        interval_ns = self._interval(found[1], start) if found is not None else _SPAN_DEFAULT_NS
        scanner.take(",")
        aggregates = self._aggregates()
        by = self._by()
        bucket = next((each for each in by if isinstance(each, Bucket)), None)
        if bucket is not None:
            scanner.error("timechart makes its own bucket", "write timechart 5m …", at=start)
        if self._columns.aggregated:
            scanner.error("timechart needs records, and stats made a table of them", at=start)
        stats = self._made(aggregates, [Bucket(interval_ns), *by], start)
        return [stats, Sort((SortKey(FieldRef(Scope.COMPUTED, "time")),))]

    def _top(self) -> list[Stage]:
        scanner = self._scanner
        scanner.skip_space()
        start = scanner.position
        found = scanner.match(_INTEGER)
        count = self._bounded(int(found[0]), start) if found is not None else _TOP_DEFAULT
        keys: list[GroupKey] = [self._field()]
        while scanner.take(","):
            keys.append(self._field())
        keys += self._by()
        stats = self._made([Aggregate(Function.COUNT, None, "count")], keys, start)
        order = [SortKey(FieldRef(Scope.COMPUTED, "count"), descending=True)]
        order += [SortKey(FieldRef(Scope.COMPUTED, key_name(key))) for key in keys]
        return [stats, Sort(tuple(order)), Limit(count)]

    def _aggregates(self) -> list[Aggregate]:
        aggregates = [self._aggregate()]
        scanner = self._scanner
        while True:
            if not scanner.take(","):
                scanner.skip_space()
                position = scanner.position
                found = scanner.match(_FUNCTION)
                scanner.position = position
                if found is None or found[0].lower() == "by":
                    return aggregates
            aggregates.append(self._aggregate())

    def _aggregate(self) -> Aggregate:
        scanner = self._scanner
        scanner.skip_space()
        start = scanner.position
        found = scanner.match(_FUNCTION)
        name = found[0].lower() if found is not None else ""
        percentile = _PERCENTILE.fullmatch(name)
        function = Function.QUANTILE if percentile is not None else _FUNCTIONS.get(name)
        if function is None:
            shown = f"unknown function {name!r}" if name else "a function is missing here"
            known = [*_FUNCTIONS, "p50", "p95", "p99"]
            hint = did_you_mean(name, known) or f"the functions are {', '.join(known)}"
            scanner.error(shown, hint, at=start)
        ref: FieldRef | None = None
        quantile = float(percentile[1]) / 100 if percentile is not None else 0.5 if name == "median" else 0.0
        if scanner.take("("):
            if not scanner.take(")"):
                ref = self._field()
                if name == "quantile":
                    quantile = self._quantile()
                scanner.expect(")", "a ) is missing behind the arguments")
        elif function is not Function.COUNT:
            scanner.error(f"{name} needs a field", f"write {name}(field)")
        column = aggregate_name(function, ref, quantile)
        if scanner.take_word("as", any_case=True):
            column = self._column_name()
        made = Aggregate(function, ref, column, quantile)
        rule = aggregate_rule(made, self._columns)
        if rule:
            scanner.error(rule, at=start)
        return made

    def _column_name(self) -> str:
        name = self._scanner.name("a column name")
        self._scanner.check_name(name)
        return name.raw

    def _quantile(self) -> float:
        scanner = self._scanner
        scanner.expect(",", "quantile needs a level", "write quantile(field, 0.95)")
        term = scanner.operand()
        level = parse_number(term.text)
        if level is None or not 0.0 <= level <= 1.0:
            scanner.error("a quantile's level lies between 0 and 1", at=term.column)
        return level

    def _by(self) -> list[GroupKey]:
        keys: list[GroupKey] = []
        scanner = self._scanner
        if scanner.take_word("by", any_case=True):
            keys.append(self._key())
            while scanner.take(","):
                keys.append(self._key())
        return keys

    def _key(self) -> GroupKey:
        scanner = self._scanner
        name = scanner.name("a field")
        if name.raw.lower() != "bucket" or name.quoted or not scanner.take("("):
            return self._resolve(name)
        if self._columns.aggregated:
            scanner.error("bucket needs records, and stats made a table of them", at=name.column)
        field = scanner.name("time")
        if self._resolve(field) != FieldRef(Scope.CORE, "time"):
            scanner.error("only time has buckets", "write bucket(time, 1m)", at=field.column)
        scanner.expect(",", "a bucket needs an interval", "write bucket(time, 1m)")
        interval = scanner.operand()
        bucket = Bucket(self._interval(interval.text, interval.column))
        scanner.expect(")", "a ) is missing behind the arguments")
        if scanner.take_word("as", any_case=True):
            bucket = replace(bucket, name=self._column_name())
        return bucket

    def _interval(self, text: str, column: int) -> int:
        interval_ns = parse_duration(text)
        if interval_ns is None or not 0 < interval_ns <= INTERVAL_NS_MAX:
            self._scanner.error("not an interval", "write 30s, 5m, 1h or 1d", at=column)
        return interval_ns

    def _sort(self) -> list[Stage]:
        scanner = self._scanner
        keys: list[SortKey] = []
        while True:
            scanner.skip_space()
            sign = scanner.peek()
            if sign in ("-", "+"):
                scanner.position += 1
            ref = self._field()
            descending = sign == "-"
            if scanner.take_word("desc", any_case=True):
                descending = True
            else:
                scanner.take_word("asc", any_case=True)
            keys.append(SortKey(ref, descending))
            if not scanner.take(",") and (scanner.at_end() or scanner.peek() == "|"):
                break
        if len(keys) > KEYS_MAX:
            scanner.error(f"more than {KEYS_MAX} columns to sort by")
        return [Sort(tuple(keys))]

    def _limit(self) -> list[Stage]:
        self._scanner.skip_space()
        start = self._scanner.position
        found = self._scanner.match(_INTEGER)
        if found is None:
            if self._scanner.at_end() or self._scanner.peek() == "|":
                return [Limit(_TOP_DEFAULT)]
            self._scanner.error("limit needs a whole number", at=start)
        return [Limit(self._bounded(int(found[0]), start))]

    def _bounded(self, count: int, column: int) -> int:
        if not 0 < count <= LIMIT_MAX:
            self._scanner.error(f"a limit lies between 1 and {LIMIT_MAX}", at=column)
        return count

    def _fields(self) -> list[Stage]:
        scanner = self._scanner
        start = scanner.position
        refs = [self._field()]
        while scanner.take(","):
            refs.append(self._field())
        if len(refs) > AGGREGATES_MAX or len(set(refs)) != len(refs):
            scanner.error(f"up to {AGGREGATES_MAX} fields, each once", at=start)
        return [Fields(tuple(refs))]

    def _extract(self) -> list[Stage]:
        scanner = self._scanner
        scanner.skip_space()
        start = scanner.position
        if self._columns.kept is not None or self._columns.aggregated:
            scanner.error("extract stands before fields and stats", at=start)
        ref = FieldRef(Scope.CORE, "body")
        if scanner.peek() != "/":
            name = scanner.name("a field or a regex")
            ref = self._resolve(name)
            if self._columns.kind(ref) not in TEXT_KINDS:
                scanner.error(f"{ref} holds no text", at=name.column)
        scanner.skip_space()
        if scanner.peek() != "/":
            scanner.error("extract needs a regex", "write extract /took (?P<ms>[0-9]+)/")
        term = scanner.regex("")
        try:
            pattern, names = extract_pattern(term.text)
        except ValueError as error:
            scanner.error(f"not a regex for extract: {error}", at=term.column)
        taken = next((name for name in names if name_taken(name, self._columns) or names.count(name) > 1), None)
        if taken is not None:
            scanner.error(f"a field is named {taken!r} already", "give the group another name", at=term.column)
        return [Extract(ref, pattern, names)]
