"""The slow log: statements over a threshold, without values and with their plan, in the process's log and in memory for who asks.

A statement's shape is logged once a minute at most, with how often it came meanwhile; all of them are kept in memory, as many as there is room for.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.database_health import SlowStatement
from heimdall_server.storage.postgres.metrics import SLOW

LOG: Final = logging.getLogger(__name__)
_QUIET_S: Final = 60.0
"""A shape that was logged isn't logged, and its plan not asked for, again within this time."""
_SHAPES_MAX: Final = 512
"""Shapes whose last time is remembered."""
_PLANS_PER_MINUTE: Final = 20


@dataclass(slots=True)
class _Shape:
    logged_s: float
    explained_s: float
    plan: str
    plan_problem: str
    suppressed_count: int = 0


class SlowLog:
    """See the module. For one event loop."""

    def __init__(
        self,
        threshold_s: float,
        count_max: int,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Begin with nothing.

        Args:
            threshold_s: Statements that take longer are slow; 0: none is.
            count_max: Statements kept.
            clock_s: Seconds of a clock that only goes forward.
            now_ns: The time.
        """
        self.threshold_s = threshold_s
        self._kept: deque[SlowStatement] = deque(maxlen=count_max)
        self._shapes: OrderedDict[str, _Shape] = OrderedDict()
        self._plans: deque[float] = deque(maxlen=_PLANS_PER_MINUTE)
        self._clock_s = clock_s
        self._now_ns = now_ns

    def is_slow(self, duration_s: float) -> bool:
        """Whether a statement belongs here."""
        return 0 < self.threshold_s <= duration_s

    def wants_plan(self, fingerprint: str) -> bool:
        """Whether a plan should be asked for: it costs a round trip, and planning. A yes counts."""
        now_s = self._clock_s()
        known = self._shapes.get(fingerprint)
        if known is not None and now_s - known.explained_s < _QUIET_S:
            return False
        if len(self._plans) == _PLANS_PER_MINUTE and now_s - self._plans[0] < _QUIET_S:
            return False
        self._plans.append(now_s)
        return True

    def note(
        self,
        *,
        user: str,
        fingerprint: str,
        statement: str,
        duration_s: float,
        row_count: int = -1,
        outcome: str = "ok",
        plan: str = "",
        plan_problem: str = "",
    ) -> None:
        """Keep a slow statement; log it unless one of its shape was logged a moment ago."""
        SLOW.labels(user).inc()
        now_s = self._clock_s()
        shape = self._shapes.get(fingerprint)
        if shape is None:
            shape = self._shapes[fingerprint] = _Shape(-_QUIET_S, -_QUIET_S, "", "")
        self._shapes.move_to_end(fingerprint)
        while len(self._shapes) > _SHAPES_MAX:
            self._shapes.popitem(last=False)
        if plan or plan_problem:
            shape.plan, shape.plan_problem, shape.explained_s = plan, plan_problem, now_s
        entry = SlowStatement(
            self._now_ns(),
            user,
            fingerprint,
            statement,
            duration_s,
            row_count,
            outcome,
            shape.plan,
            "" if shape.plan else shape.plan_problem or "too many plans were asked for within a minute",
        )
        self._kept.append(entry)
        if now_s - shape.logged_s < _QUIET_S:
            shape.suppressed_count += 1
            return
        LOG.warning(
            "slow statement",
            extra={
                "user": user,
                "fingerprint": fingerprint,
                "statement": statement,
                "duration_s": round(duration_s, 4),
                "row_count": row_count,
                "outcome": outcome,
                "plan": entry.plan,
                "plan_problem": entry.plan_problem,
                "suppressed_count": shape.suppressed_count,
            },
        )
        shape.logged_s, shape.suppressed_count = now_s, 0

    def recent(self, *, since_ns: int = 0, count_max: int = 100) -> Sequence[SlowStatement]:
        """The newest first."""
        newer = (one for one in reversed(self._kept) if one.time_ns >= since_ns)
        return list(itertools.islice(newer, count_max))
