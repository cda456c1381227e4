"""A search that was understood and allowed, and may begin."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from heimdall_server.domain.expression.tree import Query
from heimdall_server.ports.log_store import Limits, Plan
from heimdall_server.services.query.logic.tokens import Place
from heimdall_server.services.query.model import SearchIn, Understood
from heimdall_server.services.query.set_model import NO_SETS, FoundSets

TIME_S_MIN: Final = 0.001
"""Less than this an engine would take as no limit."""
_SHARED_ROWS_MAX: Final = 1000
"""Records that one answer holds for others; values of a `stats` are bounded by their bytes."""


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """See the module."""

    request: SearchIn
    understood: Understood
    place: Place
    bound_to: bytes
    datasets: Sequence[str]
    limits: Limits
    deadline_s: float
    """On the monotonic clock."""
    revision: Sequence[int | str] = ()
    """See `PersonalSearch`."""
    vain: str = ""
    """See `PersonalSearch.told_in_vain`."""
    sets: FoundSets = NO_SETS
    """What the graph told; they stand in `understood`."""

    def told(self, plan: Plan) -> Plan:
        """The plan, with what somebody who finds nothing should know."""
        return replace(plan, notice=self.vain) if self.vain else plan

    def asking(self, sets: FoundSets) -> PreparedSearch:
        """The search with the sets that its pages keep to."""
        place = replace(self.place, sets_digest=sets.digest)
        return replace(self, understood=self.understood.filled(sets.filled), place=place, sets=sets)

    @property
    def page_rows(self) -> int:
        """Rows that may still come on this page; the query's own limit isn't looked at."""
        page = min(self.request.row_limit or self.limits.result_rows, self.limits.result_rows)
        return max(page - (self.place.returned - self.place.page_start), 0)

    @property
    def own_rows(self) -> int | None:
        """Rows that the query's own limit still leaves; None: it has none, or isn't resumed."""
        limit = self.understood.row_limit
        return None if limit is None or not self.understood.resumable else max(limit - self.place.returned, 0)

    @property
    def left_s(self) -> float:
        """Until its deadline."""
        return max(self.deadline_s - time.monotonic(), TIME_S_MIN)

    @property
    def shared_key(self) -> Hashable | None:
        """Equal for searches that are answered alike if they begin at once; None: it doesn't share.

        What names personal values or sets of the graph is what its caller may know, and not shared.
        """
        understood, request = self.understood, self.request
        if request.resume_token or understood.matched or self.sets.sets:
            return None
        if understood.resumable and min(self.page_rows, self.own_rows or self.page_rows) > _SHARED_ROWS_MAX:
            return None
        limits = replace(self.limits, time_s=0.0)
        return repr((self.query, request.time_range, self.datasets, request.order, self.page_rows, limits))

    @property
    def query(self) -> Query:
        """What the store is asked: with a limit where it is known how many rows are enough, so that it stops there."""
        bounds = [self.own_rows, self.page_rows if self.request.row_limit else None]
        known = [bound for bound in bounds if bound is not None]
        return self.understood.limited(min(known)) if known else self.understood.query
