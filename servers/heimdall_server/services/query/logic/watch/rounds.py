"""One round of a crowd: what came since the last one, looked at for everybody in one go.

First everybody's rows are found, so that those that are shown can leave the batch together (`taking`); then each gets
its own, and aggregates count theirs. What each costs is measured on the way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from heimdall_server.language.shared_fields import SharedFields
from heimdall_server.language.shared_filter import Evaluation, Node, Plan
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.watch.evaluator import Evaluator, RowEvaluator, Upsert
from heimdall_server.services.query.logic.watch.matched import Matched
from heimdall_server.services.query.logic.watch.source import Piece, Standing, behind, joined
from heimdall_server.services.query.logic.watch.taking import take_together


@dataclass(slots=True)
class Found:
    """What a round has found out for one member."""

    evaluator: Evaluator
    """Which asked."""
    end: Standing
    time_ns: int
    """When the oldest frame was appended; 0: there was none."""
    matched: Matched | None = None
    closed: Sequence[Upsert] = ()
    """Of buckets that are closed: to be told before the member's standing moves."""
    told: Sequence[Upsert] = ()
    """Because it was time."""
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a round."""

    outcomes: Sequence[Found | Exception]
    """By seat what was found, or what ends its watch."""
    plan: Plan
    """For the next round."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A member as it was when the round began."""

    evaluator: Evaluator
    standing: Standing
    quiet_through: int
    is_due: bool


def evaluate(seats: Sequence[Seat], piece: Piece | None, plan: Plan | None, nodes: Sequence[Node]) -> Looked:
    """What a round finds out, by seat. In a thread.

    Args:
        seats: Who takes part.
        piece: What came; None: values are to be told, nothing came.
        plan: Of all that the seats' evaluators ask; None: to be made.
        nodes: Of whom it is to be made.
    """
    started_s = time.thread_time()
    plan = plan or Plan(nodes)
    batches = joined(piece.batches()) if piece is not None else []
    shared = [Evaluation(plan, SharedFields(batch)) for batch in batches]
    first = int(batches[0].column("position")[0].as_py()) if batches else 0
    turns = []
    for seat in seats:
        known, cursor = shared, seat.standing.cursor
        if first <= cursor:
            kept = [batch for each in batches if (batch := behind(each, cursor)).num_rows]
            known = [Evaluation(plan, SharedFields(batch)) for batch in kept]
        turns.append(_Turn(seat, known))
    for turn in turns:
        turn.filter()
    together = [turn.seat.evaluator for turn in turns if turn.known is shared and turn.error is None]
    for batch in shared:
        take_together([evaluator for evaluator in together if isinstance(evaluator, RowEvaluator)], batch)
    outcomes = [turn.outcome(piece) for turn in turns]
    metrics.WATCH_CPU_SECONDS.inc(time.thread_time() - started_s)
    return Looked(outcomes, plan)


@dataclass(slots=True)
class _Turn:
    """A seat in a round: what it costs, and what comes of it."""

    seat: Seat
    known: Sequence[Evaluation]
    error: Exception | None = None
    _cpu_s: float = 0.0

    def filter(self) -> None:
        """Find the rows that are to be shown: before anybody takes some, since they are taken for all together."""
        evaluator, started_s = self.seat.evaluator, time.thread_time()
        try:
            if isinstance(evaluator, RowEvaluator):
                for batch in self.known:
                    evaluator.node.rows(batch)
        except Exception as error:  # noqa: BLE001 # it ends this one's watch, which reports it
            self.error = error
        self._cpu_s = time.thread_time() - started_s

    def outcome(self, piece: Piece | None) -> Found | Exception:
        """What was found."""
        if self.error is not None:
            return self.error
        started_s = time.thread_time()
        try:
            found = _look(self.seat, self.known, piece)
        except Exception as error:  # noqa: BLE001 # as above
            return error
        found.cpu_s = self._cpu_s + time.thread_time() - started_s
        return found


def _look(seat: Seat, batches: Sequence[Evaluation], piece: Piece | None) -> Found:
    evaluator, end = seat.evaluator, seat.standing
    if piece is not None and end.cursor < piece.standing.cursor:
        end = piece.standing
    found = Found(evaluator, end, piece.time_ns if piece is not None else 0)
    if isinstance(evaluator, RowEvaluator):
        found.matched = evaluator.look_at(batches) if batches else None
        return found
    quiet = end.cursor < seat.quiet_through
    if batches:
        found.closed = evaluator.look(batches, quiet=quiet)
    if seat.is_due and not quiet:
        found.told = evaluator.upserts()
    return found
