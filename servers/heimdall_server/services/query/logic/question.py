"""A question, in whatever form it came, as the one tree."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import All, Limit, Query, Sort, Stats, TimeRange, Where
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql



class Form(enum.StrEnum):
    """How a question came."""

    TEXT = "text"
    SQL = "sql"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, before it is understood."""

    form: Form
    text: str = ""
    tree: Query | None = None


ANYTHING: Final = Question(Form.TREE, tree=Query(All()))


@dataclass(frozen=True, slots=True)
class Understood:
    """What is asked, as a tree, with its canonical text."""

    query: Query
    canonical_text: str

    @property
    def plain_rows(self) -> bool:
        """Whether the answer is records in store order, so that a broken stream can go on."""
        return not any(isinstance(stage, Stats | Sort) for stage in self.query.stages)

    @property
    def row_limit(self) -> int | None:
        """The last `limit` of the query, if it has one."""
        limits = [stage.count for stage in self.query.stages if isinstance(stage, Limit)]
        return min(limits) if limits else None


def understand(question: Question, *, now_ns: int, known_fields: Collection[str] = ()) -> Understood:
    """Parse a question.

    Raises:
        QuerySyntaxError: It isn't one.
    """
    if question.form is Form.TREE:
        query = question.tree or Query(All())
    elif question.form is Form.SQL:
        query = parse_sql(question.text, now_ns=now_ns)
    else:
        query = parse(question.text, now_ns=now_ns, known_fields=known_fields)
    return Understood(query, format_query(query))


def check_datasets(asked: Collection[str], configured: Collection[str]) -> list[str]:
    """The datasets that a query is over.

    Raises:
        InvalidArgumentError: One isn't configured.
    """
    unknown = sorted(set(asked) - set(configured))
    if unknown:
        raise InvalidArgumentError(
            "datasets", f"no dataset named {', '.join(unknown)}; configured: {', '.join(sorted(configured))}"
        )
    return sorted(asked) if asked else sorted(configured)


def check_time_range(time_range: TimeRange) -> TimeRange:
    """The range itself, if it holds any instant.

    Raises:
        InvalidArgumentError: Its end isn't after its start.
    """
    start, end = time_range.start_ns_inclusive, time_range.end_ns_exclusive
    if start is not None and end is not None and end <= start:
        raise InvalidArgumentError("time_range.end_time_exclusive", "must be after start_time_inclusive")
    return time_range


def watchable(query: Query) -> bool:
    """Whether every stage makes sense on a stream: no sort, nothing but a limit or fields behind `stats`."""
    seen_stats = False
    for stage in query.stages:
        if isinstance(stage, Sort) or (seen_stats and isinstance(stage, Stats)):
            return False
        if seen_stats and isinstance(stage, Where):
            return False
        seen_stats = seen_stats or isinstance(stage, Stats)
    return True
