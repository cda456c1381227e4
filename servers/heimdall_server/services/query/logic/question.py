"""A question, in whatever form it came, as the one tree; and the rules that the grammar can't tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, TypeVar

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import All, Bucket, Limit, Query, Sort, Stats, TimeRange, Where
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.services.query.logic.tokens import digest_spelled
from heimdall_server.services.query.model import Form, Question, Understood

if TYPE_CHECKING:
    # Only a process with the privacy service loads it.
    from heimdall_server.planner.personal_terms import PersonalTerms

_TIME_NS_MAX: Final = 2**63 - 1
_QUICK_CHARACTERS: Final = 1024
"""Tokens are put into a question of no more than this in a millisecond, unless it names a network."""
_T = TypeVar("_T")


def understand(question: Question, *, now_ns: int, terms: PersonalTerms | None = None) -> Understood:
    """Parse a question, and put tokens in place of the personal values that it names.

    Args:
        question: In any form.
        now_ns: What `now` means in it.
        terms: Knows personal values; None: they are taken as they were typed.

    Raises:
        QuerySyntaxError: It isn't a question, or asks of tokens what only values could tell.
    """
    return with_tokens(read_question(question, now_ns=now_ns), terms)


def read_question(question: Question, *, now_ns: int) -> Query:
    """Parse a question. What comes back may name personal values: it is for `with_tokens`, and is kept nowhere.

    Raises:
        QuerySyntaxError: It isn't one.
    """
    if question.form is Form.TREE:
        return question.tree or Query(All())
    if question.form is Form.SQL:
        return parse_sql(question.text, now_ns=now_ns)
    return parse(question.text, now_ns=now_ns)


def with_tokens(query: Query, terms: PersonalTerms | None) -> Understood:
    """A tree with tokens in place of the personal values that it names.

    Args:
        query: As it was asked.
        terms: Knows personal values; None: they are left as they are.

    Raises:
        QuerySyntaxError: It asks of tokens what only values could tell.
    """
    if terms is None:
        return Understood(query, format_query(query))
    rewritten = terms.rewrite(query)
    text = format_query(rewritten.query)
    if not rewritten.matched:
        return Understood(rewritten.query, text)
    return Understood(rewritten.query, text, rewritten.matched, rewritten.binding)


async def worked_out(question: Question, terms: PersonalTerms | None, work: Callable[[], _T]) -> _T:
    """Do what understanding a question takes: in a thread where tokens are put in and that may hold up the event loop."""
    if terms is None or not _is_long_work(question):
        return work()
    return await asyncio.to_thread(work)


def _is_long_work(question: Question) -> bool:
    """Long texts are searched for values, and a network may have a thousand tokens."""
    spelled = question.spelled()
    return len(spelled) > _QUICK_CHARACTERS or "/" in question.text or "Cidr(" in spelled


def bound_to(purpose: str, question: Question, understood: Understood, *shape: object) -> bytes:
    """What resume tokens of a question are bound to; says nothing of the values that it names.

    Args:
        purpose: Of the stream: another one's tokens don't fit; empty: a search.
        question: As it was asked.
        understood: The same, understood.
        shape: Whatever else shapes the answer.
    """
    asked = question.spelled() if understood.binding is None else repr(understood.binding)
    return digest_spelled([*([repr(purpose)] if purpose else []), asked, *map(repr, shape)])


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
