"""Records for pivots: searched as the query service searches, so admission, audit, limits and personal values are the same."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Final

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import And, Compare, Expression, Not, Operator, Or, Query
from heimdall_server.domain.graph import UNLABELLED, Tlp
from heimdall_server.language.parser import parse
from heimdall_server.ports.clock import Clock
from heimdall_server.services.graph.model_views import CutReason, RecordBatches, RecordsEnd, RecordsIn
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.model import Done, Form, Question, Rows, SearchIn

_MARKING: Final = FieldRef(Scope.CORE, "tlp")
_CUTS: Final = {"time": CutReason.TIME, "row_limit": CutReason.RECORD_COUNT}


class SearchedRecords:
    """Implements `services.graph.model_views.RecordSearch`."""

    def __init__(self, search: SearchUseCase, clock: Clock) -> None:
        self._search = search
        self._clock = clock

    async def records(self, caller: str, asked: RecordsIn, *, tlp_max: Tlp) -> RecordBatches:
        """See the protocol."""
        request = SearchIn(
            Question(Form.TREE, tree=self._tree(asked.query, tlp_max)),
            asked.time_range,
            asked.datasets,
            row_limit=asked.record_count_max + 1,  # one more, to know whether there are more
            timeout_s=asked.timeout_s,
        )
        left, cut = asked.record_count_max, None
        async with aclosing(self._search.search(caller, request)) as answers:
            async for answer in answers:
                if isinstance(answer, Rows):
                    if left:
                        yield answer.batch.slice(0, left)
                    if len(answer.batch) > left:
                        cut = CutReason.RECORD_COUNT
                    left = max(0, left - len(answer.batch))
                elif isinstance(answer, Done) and answer.missing:
                    cut = _CUTS.get(answer.missing[0].what, CutReason.STORE_LIMIT)
        yield RecordsEnd(cut)

    def _tree(self, text: str, tlp_max: Tlp) -> Query:
        parsed = parse(text, now_ns=self._clock.now_ns())
        if parsed.stages:
            raise QuerySyntaxError(text, max(text.find("|"), 0), "a pivot takes a filter without pipes")
        ceiling = under(tlp_max)
        return Query(parsed.filter if ceiling is None else And((parsed.filter, ceiling)))


def under(tlp_max: Tlp) -> Expression | None:
    """The filter that records up to a ceiling pass; None: all do."""
    if tlp_max is max(Tlp):
        return None
    if tlp_max >= UNLABELLED:
        # A record without a marking matches no comparison, and so every complement of one.
        return Not(_any(tlp for tlp in Tlp if tlp > tlp_max))
    return _any(tlp for tlp in Tlp if tlp <= tlp_max)


def _any(markings: Iterable[Tlp]) -> Expression:
    found = tuple(Compare(_MARKING, Operator.EQ, tlp.label) for tlp in markings)
    return found[0] if len(found) == 1 else Or(found)
