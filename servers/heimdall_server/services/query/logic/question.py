"""A question, in whatever form it came, as the one tree."""

from __future__ import annotations

from collections.abc import Collection

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import All, Query, Sort, Stats, TimeRange, Where
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.services.query.model import Form, Question, Understood


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
