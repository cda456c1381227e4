"""The expression tree: a filter and the stages behind it.

Semantics, the same in every store and in watches:

* A missing field matches no term, no comparison, no `exists`, and therefore every NOT of one. Missing is:
  an empty string, a zero id, severity 0; for an attribute, a key in none of its maps (an attribute that is
  an empty text isn't missing). Core numbers and times are never missing. NaN matches nothing but `exists`.
* `Words` on a TEXT field: a word is a maximal run of ASCII alphanumerics and non-ASCII characters; case is
  ignored for ASCII letters only; several words are a phrase and must be consecutive words.
* `Words` never stand on another kind of field: there it is `Compare` with EQ. `Compare` never stands on TEXT.
* `Compare` on an attribute with a number literal compares the number map; EQ with a number literal also
  matches a string attribute that is exactly the literal's text (`literals.number_text`). With a string
  literal EQ compares the string map exactly; the order operators compare strings by bytes. With a bool: the
  bool map, EQ only, and the strings `true` / `false` too.
* `Compare` on a computed text column with a number literal compares the number that the text spells (EQ also
  matches the literal's text); with a string literal it compares texts.
* `Wildcard`, `Regex` and `Cidr` look at texts only: strings, string attributes, ids as lower-case hex.
* `Wildcard`: `*` any run, `?` one character, over the whole value, case matters. On a TEXT field it is about
  words instead: `*` is any run of word characters, `?` one of them, other characters stand for themselves
  (case ignored as for words), and an end of the pattern that isn't `*` lies at the edge of a word. So
  `time*` finds a word that begins with "time", `*time*` any word that has it inside.
* `Regex`: RE2 syntax, unanchored, case matters, `.` isn't a line break (unless `(?s)`); on missing: no match.
* `Compare` with EQ and a text on a field of the graph (`Scope.GRAPH`) asks the graph; a planner puts `Holds` in its place, and no store sees it.
* `Holds`: a text of the record (its body, a text attribute of its own or of its resource) holds a value of a set as
  `canonical.observables` would find it there: with what stands beside it, so `1203.0.113.7` isn't 203.0.113.7. A digest counts as a
  maximal run of ASCII letters, digits, `_` and `-`, case ignored; the word of a token as a word of the body or of `tokens`.
* `Cidr`: the value parses as an address (IPv4, or IPv6 with mapped IPv4 taken as IPv4) inside the network.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import TypeAlias

from heimdall_server.domain.entity_sets import EntitySet
from heimdall_server.domain.expression.fields import FieldRef

Literal: TypeAlias = str | float | bool
"""Times are `float`-free: they travel as `TimeLiteral`."""


@dataclass(frozen=True, slots=True)
class TimeLiteral:
    """An instant, in nanoseconds since 1970 UTC."""

    ns: int


class Operator(enum.StrEnum):
    """Comparisons of a field with a literal."""

    EQ = "eq"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"


@dataclass(frozen=True, slots=True)
class All:
    """Matches every record."""


@dataclass(frozen=True, slots=True)
class And:
    """Every operand matches; at least one operand."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """An operand matches; at least one operand."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The complement of its operand."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class Words:
    """One word, or a phrase of consecutive ones, in a TEXT field."""

    field: FieldRef
    words: tuple[str, ...]
    """Lower case (ASCII), each a single word."""
    text: str = dataclasses.field(default="", compare=False, repr=False)
    """As a person typed it; empty: unknown, or of no further use. No part of what is asked: it tells whoever looks for
    personal values (`planner.personal_terms`) what stood between the words, and goes no further than that."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A field against a literal. Severity names have become numbers, ids lower-case hex."""

    field: FieldRef
    operator: Operator
    value: Literal | TimeLiteral


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A pattern with `*` and `?`; a backslash makes the next character plain."""

    field: FieldRef
    pattern: str


@dataclass(frozen=True, slots=True)
class Regex:
    """An RE2 pattern."""

    field: FieldRef
    pattern: str


@dataclass(frozen=True, slots=True)
class Cidr:
    """An IP network, as in `10.0.0.0/8`."""

    field: FieldRef
    network: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The record carries the field."""

    field: FieldRef


@dataclass(frozen=True, slots=True)
class Holds:
    """The record holds an entity of a set. Only planners make it: it never comes from a text or from the wire."""

    field: FieldRef
    """What was asked of the graph, of `Scope.GRAPH`."""
    value: str
    """With what."""
    entities: EntitySet
    """What the graph told."""


Expression: TypeAlias = All | And | Or | Not | Words | Compare | Wildcard | Regex | Cidr | Exists | Holds


class Function(enum.StrEnum):
    """Aggregates of `stats`."""

    COUNT = "count"
    COUNT_DISTINCT = "count_distinct"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"
    QUANTILE = "quantile"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate and the name of its column."""

    function: Function
    field: FieldRef | None
    """None: `count()`."""
    name: str
    quantile: float = 0.0
    """0..1, for QUANTILE."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Grouping by time: `bucket(time, 1m)`."""

    interval_ns: int
    name: str = "time"


GroupKey: TypeAlias = FieldRef | Bucket


@dataclass(frozen=True, slots=True)
class Where:
    """Keep the rows that match; after `stats`, on its columns."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Extract:
    """New columns from the named groups of a regex on a field; no match: missing."""

    field: FieldRef
    pattern: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Aggregate; also what `timechart` (a Bucket first) and `top` (count, sort, limit) become."""

    aggregates: tuple[Aggregate, ...]
    by: tuple[GroupKey, ...] = ()


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by."""

    field: FieldRef
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Sort:
    """Order the rows; missing values last."""

    keys: tuple[SortKey, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """Keep the first rows."""

    count: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Keep these columns, in this order."""

    fields: tuple[FieldRef, ...]


Stage: TypeAlias = Where | Extract | Stats | Sort | Limit | Fields


@dataclass(frozen=True, slots=True)
class Query:
    """A filter and its stages, in order."""

    filter: Expression
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Half-open; None: no bound on that side."""

    start_ns_inclusive: int | None = None
    end_ns_exclusive: int | None = None
