"""Watches that have looked at everything so far look at what comes next together: read once, evaluated in one go.

Rules:
* A member stands at the end of the round before, or farther on (then the records it knows are left out for it once).
  Who is behind catches up alone and joins when it can; who can't be told something at once, because its reader is
  slow, leaves with what it has to say, waits by itself and comes back. So nobody waits for another's reader.
* A round takes what has come since the last one. It is followed by a pause of some times what it cost, up to a bound:
  a quiet server answers in milliseconds, and a busy one works in the large pieces that are cheap.
* Index keys whose tokens a round's records may hold are known before it is evaluated: who asks for tokens asks for theirs, too.
* What a round finds out for someone who left meanwhile, or asks something else now, is dropped: its standing didn't
  move, so it looks at those records again.
* Members are charged for their time, in another order each round, since the first to ask pays for what is shared. Who
  costs too much goes on apart.

Where the journal ends or fails, everybody is sent away, and meets the same end alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from heimdall_server.domain.errors import HeimdallError
from heimdall_server.language.shared_filter import Plan
from heimdall_server.ports.journal import JournalReader
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.iterators import with_heartbeat
from heimdall_server.services.query.logic.watch.evaluator import Evaluator
from heimdall_server.services.query.logic.watch.meter import CostLimits
from heimdall_server.services.query.logic.watch.rounds import Found, Seat, evaluate
from heimdall_server.services.query.logic.watch.source import NEAR_FRAMES, SHARD, Piece, Standing, journal_pieces

LOG: Final = logging.getLogger(__name__)
_NO_SEAM: Final = -1
_TURN_S: Final = 0.0005
"""A delivery lets others have the event loop after so long."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a pause follows a round."""

    cost_factor: float
    """Times what the round took."""
    pause_s_max: float


ROW_PACE: Final = Pace(cost_factor=3.0, pause_s_max=0.035)
"""Rows are shown as they come: together with the way through ingest well below 200 ms."""
AGGREGATE_PACE: Final = Pace(cost_factor=9.0, pause_s_max=1.0)
"""Values are told each interval, by default five seconds: what is counted in one go is cheaper."""


class Member(Protocol):
    """A watch, as the crowd sees it. On the event loop."""

    @property
    def evaluator(self) -> Evaluator:
        """What it asks; another object once it asks something else."""
        ...

    @property
    def standing(self) -> Standing:
        """Behind what it has looked at; in the crowd never within a frame."""
        ...

    @property
    def quiet_through(self) -> int:
        """It says nothing of open buckets up to here."""
        ...

    @property
    def due_s(self) -> float:
        """When values are to be told, by the monotonic clock; infinite: there are none."""
        ...

    @property
    def patience_s(self) -> float:
        """How much later than that is soon enough."""
        ...

    def follow_keys(self) -> None:
        """Ask for the tokens of index keys that were made meanwhile, too: in the same evaluator, with another node.

        Raises:
            HeimdallError: Its watch is to end.
        """
        ...

    def deliver(self, found: Found) -> bool:
        """Tell what was found, and move on.

        Returns:
            False: it leaves the crowd; what is left to say, it says by itself.

        Raises:
            HeimdallError: Its watch is to end.
        """
        ...

    def sent_away(self, error: Exception | None) -> None:
        """It is no longer a member: because of an error of its own, or because the crowd is dissolved."""
        ...


class Crowd:
    """See the module. Belongs to one event loop; evaluates in a thread of its own, while it has members."""

    def __init__(
        self, name: str, journal: JournalReader, pace: Pace, revision: Callable[[], Sequence[int | str]]
    ) -> None:
        self._name = name
        self._journal = journal
        self._pace = pace
        self._revision = revision
        self._known_revision = revision()
        self._members: dict[Member, None] = {}
        self._plan: Plan | None = None
        self._version = 0
        """Goes up with each change of the members."""
        self._task: asyncio.Task[None] | None = None
        self._next_after = 0
        self._round_count = 0

    @property
    def member_count(self) -> int:
        """Members."""
        return len(self._members)

    def join(self, member: Member) -> bool:
        """Take a member in.

        Returns:
            False: it stands before the end of the round that is under way, or far behind, and must catch up.

        Raises:
            HeimdallError: Its watch is to end.
        """
        cursor = member.standing.cursor
        if self._task is None:
            if cursor + NEAR_FRAMES < self._journal.head().get(SHARD, 0):
                return False
            self._next_after = cursor
        elif cursor < self._next_after:
            return False
        # It may have been away when the others heard of a key.
        member.follow_keys()
        self._members[member] = None
        self._plan, self._version = None, self._version + 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch-crowd-{self._name}")
        metrics.WATCHES_TOGETHER.labels(self._name).inc()
        return True

    def discard(self, member: Member) -> None:
        """Let a member go, if it is one. What a round has found for it is dropped."""
        if member not in self._members:
            return
        del self._members[member]
        self._plan, self._version = None, self._version + 1
        metrics.WATCHES_TOGETHER.labels(self._name).dec()
        if not self._members and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        worker = ThreadPoolExecutor(1, thread_name_prefix=f"watch-{self._name}")
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    started_s = time.monotonic()
                    await self._round(worker, piece)
                    await self._pause(time.monotonic() - started_s, piece)
        except HeimdallError:
            pass  # Each member meets it alone, and its own client is told.
        except Exception:
            LOG.exception("watch round failed", extra={"event": "watch.round_failed"})
        finally:
            worker.shutdown(wait=False)
            if self._task is asyncio.current_task():
                self._task = None
                for member in list(self._members):
                    self._send_away(member, None)

    def _pieces(self) -> AsyncGenerator[Piece | None, None]:
        pieces = journal_pieces(self._journal, self._next_after, seam=_NO_SEAM)
        return with_heartbeat(pieces, self._wait_s)

    def _wait_s(self) -> float | None:
        """Until somebody has values to tell; None: nobody has."""
        due_s = min((member.due_s for member in self._members), default=math.inf)
        return None if math.isinf(due_s) else max(due_s - time.monotonic(), 0.0)

    async def _pause(self, cost_s: float, piece: Piece | None) -> None:
        if piece is None or piece.is_full:
            return  # There is a backlog, and pieces are as large as they get.
        patience_s = min((member.patience_s for member in self._members), default=math.inf)
        # One who is in a hurry makes rounds more frequent, but never takes up more than a third of the time.
        pause_s = min(cost_s * self._pace.cost_factor, max(patience_s, 2 * cost_s), self._pace.pause_s_max)
        await asyncio.sleep(pause_s)

    async def _round(self, worker: Executor, piece: Piece | None) -> None:
        started_s = time.monotonic()
        if piece is not None:
            self._next_after = piece.standing.cursor
        await self._follow_keys()
        seats = self._seats(piece, started_s)
        version, plan = self._version, self._plan
        nodes = [] if plan else [member.evaluator.node for member in self._members]
        work = functools.partial(evaluate, [seat for _, seat in seats], piece, plan, nodes)
        looked = await asyncio.get_running_loop().run_in_executor(worker, work)
        if version == self._version:
            self._plan = looked.plan
        turn_s = time.perf_counter()
        for (member, seat), outcome in zip(seats, looked.outcomes, strict=True):
            if member in self._members and member.evaluator is seat.evaluator:
                self._deliver(member, outcome)
            if time.perf_counter() - turn_s > _TURN_S:
                await asyncio.sleep(0)
                turn_s = time.perf_counter()
        metrics.WATCH_ROUND_SECONDS.labels(self._name).observe(time.monotonic() - started_s)

    async def _follow_keys(self) -> None:
        """Let everybody know of new index keys, or of another policy. Whatever is protected by them was written after they were made."""
        revision = self._revision()
        if revision == self._known_revision:
            return
        self._known_revision = revision
        turn_s = time.perf_counter()
        for member in list(self._members):
            if member not in self._members:
                continue
            try:
                member.follow_keys()
            except HeimdallError as error:
                self._send_away(member, error)
            if time.perf_counter() - turn_s > _TURN_S:
                await asyncio.sleep(0)
                turn_s = time.perf_counter()
        self._plan, self._version = None, self._version + 1

    def _seats(self, piece: Piece | None, now_s: float) -> list[tuple[Member, Seat]]:
        seats = []
        for member in self._members:
            seat = Seat(member.evaluator, member.standing, member.quiet_through, now_s >= member.due_s)
            if seat.is_due or (piece is not None and seat.standing.cursor < piece.standing.cursor):
                seats.append((member, seat))
        self._round_count += 1
        first = self._round_count % max(len(seats), 1)
        return seats[first:] + seats[:first]

    def _deliver(self, member: Member, outcome: Found | Exception) -> None:
        if isinstance(outcome, Exception):
            self._send_away(member, outcome)
            return
        try:
            stays = member.deliver(outcome)
        except HeimdallError as error:
            self._send_away(member, error)
        else:
            if not stays:
                self._send_away(member, None)

    def _send_away(self, member: Member, error: Exception | None) -> None:
        self.discard(member)
        member.sent_away(error)


class Crowds:
    """The two crowds of a server: rows are shown as they come, values each interval."""

    def __init__(
        self, journal: JournalReader, cost: CostLimits, *, revision: Callable[[], Sequence[int | str]] = tuple
    ) -> None:
        """Make them.

        Args:
            journal: What comes.
            cost: What one watch may cost.
            revision: See `PersonalSearch`.
        """
        self.cost = cost
        """What one watch may cost."""
        self._rows = Crowd("rows", journal, ROW_PACE, revision)
        self._aggregates = Crowd("aggregates", journal, AGGREGATE_PACE, revision)

    def of(self, evaluator: Evaluator) -> Crowd:
        """The crowd that a watch with this question belongs to."""
        return self._aggregates if evaluator.aggregates else self._rows
