"""A question, in whatever form it came, as the one tree; and the rules that the grammar can't tell."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import All, Bucket, Limit, Query, Sort, Stats, TimeRange, Where
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.services.query.model import Form, Question, Understood

_TIME_NS_MAX: Final = 2**63 - 1


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
    return sorted(set(asked)) if asked else sorted(configured)


def check_time_range(time_range: TimeRange) -> TimeRange:
    """The range, within what a record's time can be.

    Raises:
        InvalidArgumentError: Its end isn't after its start.
    """
    start, end = time_range.start_ns_inclusive, time_range.end_ns_exclusive
    if start is not None and end is not None and end <= start:
        raise InvalidArgumentError("time_range.end_time_exclusive", "must be after start_time_inclusive")
    # No record is before 1970, nor after what 64 bits of nanoseconds hold; the contract's timestamps go further.
    return TimeRange(
        None if start is None else min(max(start, 0), _TIME_NS_MAX),
        None if end is None else min(max(end, 0), _TIME_NS_MAX),
    )


def check_watchable(query: Query) -> None:
    """Refuse stages that have no meaning on a stream that doesn't end.

    Raises:
        InvalidArgumentError: Which, and why.
    """
    stats: Stats | None = None
    seen_limit = False
    for stage in query.stages:
        if isinstance(stage, Stats):
            if stats is not None or seen_limit:
                raise InvalidArgumentError("question", "a watch has one stats, and no limit before it")
            stats = stage
        elif isinstance(stage, Sort) and stats is None:
            raise InvalidArgumentError("question", "records of a watch come in journal order and can't be sorted")
        elif isinstance(stage, Where) and seen_limit and stats is None:
            raise InvalidArgumentError("question", "a where behind a limit has no meaning in a watch; put it before")
        elif isinstance(stage, Where | Limit) and stats is not None and any(isinstance(k, Bucket) for k in stats.by):
            raise InvalidArgumentError(
                "question", "behind a stats by buckets, a watch can't leave groups out: one that was sent can't go back"
            )
        seen_limit = seen_limit or isinstance(stage, Limit)
