"""One watch stream: many watches, one reader, heartbeats.

Each watch is a task; so are the reading of requests, the heartbeats and the wait for the server's drain. Whoever takes
a watch out of the table, its own task or a `cancel`, says that it ended: so it is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from heimdall_server.domain.errors import (
    BudgetExceededError,
    HeimdallError,
    InvalidArgumentError,
    NotFoundError,
    StreamLaggedError,
    StreamProtocolError,
)
from heimdall_server.domain.expression.tree import Query
from heimdall_server.language.shared_filter import Interner
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.metrics import LAGGED
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.services.query.logic.question import (
    bound_to,
    check_datasets,
    check_watchable,
    read_question,
    with_tokens,
    worked_out,
)
from heimdall_server.services.query.logic.sets import SetFinder
from heimdall_server.services.query.logic.tokens import Place
from heimdall_server.services.query.logic.watch.account import Asked
from heimdall_server.services.query.logic.watch.crowd import Crowds
from heimdall_server.services.query.logic.watch.evaluator import evaluator_of, with_datasets
from heimdall_server.services.query.logic.watch.live_sets import Following, LiveSets
from heimdall_server.services.query.logic.watch.meter import CostLimits
from heimdall_server.services.query.logic.watch.outbox import Outbox, OutboxLimits
from heimdall_server.services.query.logic.watch.runner import WatchPorts, WatchRunner
from heimdall_server.services.query.logic.watch.source import SHARD
from heimdall_server.services.query.model import ANYTHING, Question, Understood
from heimdall_server.services.query.watch_model import (
    AskProgress,
    Cancel,
    Cancelled,
    Create,
    Created,
    Event,
    Refused,
    Request,
    Update,
)

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Bounds on watches."""

    watches_per_stream_max: int = 64
    """Watches on one stream."""
    heartbeat_s: float = 10.0
    """Every watch says how far it is at least this often."""
    outbox: OutboxLimits = field(default_factory=OutboxLimits)
    bucket_open_s: float = 3600.0
    """A bucket of live aggregates takes records until one comes that is newer than its end by this. A watch that is
    resumed counts again from the oldest open bucket on, so this is also what resuming costs."""
    watches_max: int = 4096
    """Watches of the process."""
    cost: CostLimits = field(default_factory=CostLimits)


class WatchUseCase:
    """Opens watch streams."""

    def __init__(
        self,
        *,
        ports: WatchPorts,
        clock: Clock,
        limits: WatchLimits,
        datasets: Collection[str],
        personal: PersonalSearch | None = None,
        sets: SetFinder | None = None,
    ) -> None:
        self.ports = ports
        self.personal = personal
        self.sets = sets
        self._set_changes = 0
        self.terms = None if personal is None else personal.terms
        self.clock = clock
        self.limits = limits
        self.datasets = sorted(datasets)
        self.interner = Interner()
        """Of the filters that are evaluated together."""
        self.crowds = Crowds(ports.journal, limits.cost, revision=lambda: self.revision)
        self.watch_count = 0
        """Watches that run, on all streams."""

    @property
    def revision(self) -> Sequence[int | str]:
        """What filters are compiled by: as `PersonalSearch` has it, and the sets that watches ask for."""
        return (*self.personal_revision, self._set_changes)

    @property
    def personal_revision(self) -> Sequence[int | str]:
        """See `PersonalSearch`."""
        return () if self.personal is None else self.personal.revision

    def sets_changed(self) -> None:
        """Hear that a set of some watch is another one now."""
        self._set_changes += 1

    def stream(self, caller: str) -> WatchStream:
        """A new stream of one caller."""
        return WatchStream(self, caller)


class WatchStream:
    """See the module."""

    def __init__(self, owner: WatchUseCase, caller: str) -> None:
        self._owner = owner
        self._caller = caller
        self._outbox = Outbox(owner.limits.outbox)
        self._runners: dict[str, WatchRunner] = {}
        self._tasks: dict[WatchRunner, asyncio.Task[None]] = {}
        self._half_closed = False
        self._live_sets = LiveSets(owner.sets, owner.sets_changed)

    async def run(self, requests: AsyncIterator[Request], draining: asyncio.Event) -> AsyncGenerator[Event, None]:
        """Serve the stream: take requests, give events, until the client hangs up or the server drains.

        Raises:
            StreamProtocolError: A request that may not come now.
            HeimdallError: A request breaks its contract.
        """
        reading = asyncio.create_task(self._guarded(self._read(requests)), name="watch-read")
        tasks = [
            reading,
            asyncio.create_task(self._guarded(self._beat()), name="watch-beat"),
            asyncio.create_task(self._guarded(self._drain(draining, reading)), name="watch-drain"),
        ]
        if self._owner.sets is not None:
            tasks.append(asyncio.create_task(self._guarded(self._live_sets.run()), name="watch-sets"))
        try:
            while (event := await self._outbox.get()) is not None:
                yield event
        finally:
            # All of it at once, before anything is waited for: whoever ends the stream may lose patience.
            self._outbox.drop()
            ending = [*tasks, *self._tasks.values()]
            for watch_id in list(self._runners):
                self._take_out(watch_id)
            await _end(ending)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """What goes wrong beside the watches ends the stream."""
        try:
            await work
        except Exception as error:
            if not isinstance(error, HeimdallError):
                LOG.exception("watch stream failed", extra={"event": "watch.stream_failed"})
            self._outbox.close(error)

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            match request:
                case Create():
                    await self._create(request)
                case Update():
                    await self._update(request)
                case Cancel(watch_id):
                    await self._cancel(watch_id, None)
                case Refused():
                    await self._refuse(request)
                case AskProgress():
                    for runner in list(self._runners.values()):
                        await self._outbox.put_patiently(runner.progress())
        # A client may close its half and go on listening, as grpcurl does.
        self._half_closed = True
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._half_closed and not self._runners:
            self._outbox.close()

    async def _create(self, request: Create) -> None:
        self._check_free(request.watch_id)
        try:
            runner, created = await self._prepare(request)
        except HeimdallError as error:
            await self._outbox.put_patiently(Cancelled(request.watch_id, error, request.start.resume_token))
            return
        await self._outbox.put_patiently(created)
        self._runners[request.watch_id] = runner
        self._owner.watch_count += 1
        self._tasks[runner] = asyncio.create_task(self._follow(runner), name=f"watch-{request.watch_id}")

    def _check_free(self, watch_id: str) -> None:
        if watch_id in self._runners:
            raise StreamProtocolError(f"watch {watch_id!r} exists already; update it, or choose another id")

    async def _prepare(self, request: Create) -> tuple[WatchRunner, Created]:
        owner, limits = self._owner, self._owner.limits
        for count, most, what in (
            (len(self._runners), limits.watches_per_stream_max, "watches on one stream"),
            (owner.watch_count, limits.watches_max, "watches of the server"),
        ):
            if count >= most:
                raise BudgetExceededError(retry_after_s=5.0, budget=what, limit=most)
        if request.start.resume_token:

            def bound_at(place: Place) -> bytes:
                _, understood = self._read_question(request.question, place)
                return _bound_to(request.question, understood, request.datasets)

            def opened() -> Place:
                return owner.ports.tokens.open(request.start.resume_token, bound_to=bound_at)

            place = await worked_out(request.question, owner.terms, opened)
        else:
            place = self._first_place(request)
        asked, datasets = await self._understand(request.question, request.datasets, place)
        if request.start.last_count and asked.evaluator.aggregates:
            raise InvalidArgumentError("start.last_count", "says nothing about aggregates; use since_time")
        runner = WatchRunner(
            owner.ports,
            self._outbox,
            owner.clock,
            request=replace(request, question=ANYTHING),  # what it asks, is in `asked`, with tokens
            asked=asked,
            place=place,
            datasets=datasets,
            crowds=owner.crowds,
        )
        return runner, _created(request, asked)

    def _first_place(self, request: Create) -> Place:
        """Where a watch without a token begins."""
        start = request.start
        head = self._owner.ports.journal.head().get(SHARD, 0)
        now_ns = self._owner.clock.now_ns()
        if start.since_ns is not None:
            return Place({SHARD: 0}, since_ns=max(start.since_ns, 1), seam=head, now_ns=now_ns)
        return Place({SHARD: head}, seam=head, last_count=start.last_count or 0, now_ns=now_ns)

    def _read_question(self, question: Question, place: Place) -> tuple[Query, Understood]:
        """A question as it was asked, which is kept nowhere, and with tokens."""
        query = read_question(question, now_ns=place.now_ns)
        return query, with_tokens(query, self._owner.terms)

    async def _understand(self, question: Question, datasets: Collection[str], place: Place) -> tuple[Asked, list[str]]:
        owner, configured = self._owner, self._owner.datasets
        revision = owner.personal_revision
        typed, understood = await worked_out(question, owner.terms, lambda: self._read_question(question, place))
        check_watchable(understood.query)
        wanted = check_datasets(datasets, configured)
        if owner.personal is not None:
            await owner.personal.guard.allow(understood.matched)
        following = await self._live_sets.follow(understood.query)
        filled = following.found.filled(understood.query) if following is not None else understood.query
        query = with_datasets(filled, wanted, configured)
        open_ns = int(owner.limits.bucket_open_s * 1e9)
        evaluator = evaluator_of(query, open_ns=open_ns, horizon_ns=place.horizon_ns, interner=owner.interner)
        bound = _bound_to(question, understood, datasets)
        asked = Asked(query, evaluator, understood.canonical_text, bound, place.now_ns, revision)
        if understood.matched or following is not None:
            asked = replace(asked, revised=self._revising(typed, wanted, following))
        return asked, wanted

    def _revising(self, typed: Query, wanted: Sequence[str], following: Following | None) -> Callable[[Asked], Asked]:
        """What puts new tokens and sets into a watch. It alone holds the question as it was typed, in memory."""
        owner, terms = self._owner, self._owner.terms

        last_version = 0

        def revised(asked: Asked) -> Asked:
            nonlocal last_version
            revision, version = owner.personal_revision, following.version if following is not None else 0
            if revision == asked.revision and version == last_version:
                return asked
            understood = with_tokens(typed, terms)
            filled = following.filled(understood.query) if following is not None else understood.query
            last_version = version
            if filled is None:
                return replace(asked, revision=revision)
            query = with_datasets(filled, wanted, owner.datasets)
            asked.evaluator.refilter(query, owner.interner)
            return replace(asked, query=query, canonical_text=understood.canonical_text, revision=revision)

        return revised

    async def _update(self, request: Update) -> None:
        runner = self._runners.get(request.watch_id)
        if runner is None:
            await self._say_unknown(request.watch_id)
            return
        try:
            place = Place(now_ns=self._owner.clock.now_ns())
            asked, _ = await self._understand(request.question, runner.request.datasets, place)
            if asked.evaluator.aggregates != runner.aggregates:
                raise InvalidArgumentError("update.question", "must stay rows, or stay aggregates; create a new watch")
        except HeimdallError as error:
            await self._cancel(request.watch_id, error)
            return
        await runner.update(asked, _created(runner.request, asked))

    async def _refuse(self, request: Refused) -> None:
        if request.update:
            await self._cancel(request.watch_id, request.error)
            return
        self._check_free(request.watch_id)
        await self._outbox.put_patiently(Cancelled(request.watch_id, request.error, request.resume_token))

    async def _cancel(self, watch_id: str, error: HeimdallError | None) -> None:
        runner = self._take_out(watch_id)
        if runner is None:
            await self._say_unknown(watch_id)
            return
        await _end([self._tasks[runner]])
        self._outbox.put_last(Cancelled(watch_id, error, runner.token()))
        self._close_if_over()

    async def _say_unknown(self, watch_id: str) -> None:
        error = NotFoundError("watch on this stream", watch_id)
        await self._outbox.put_patiently(Cancelled(watch_id, error, b""))

    def _take_out(self, watch_id: str) -> WatchRunner | None:
        runner = self._runners.pop(watch_id, None)
        if runner is not None:
            self._owner.watch_count -= 1
        return runner

    async def _follow(self, runner: WatchRunner) -> None:
        """Run a watch; what ends it is told to the client, and the stream goes on."""
        error: Exception | None = None
        try:
            await runner.run()
        except HeimdallError as problem:
            error = problem
        except Exception as problem:
            LOG.exception("watch failed", extra={"event": "watch.failed"})
            error = problem
        finally:
            self._tasks.pop(runner, None)
        if isinstance(error, StreamLaggedError):
            LAGGED.inc()
            error.resume_token = runner.token()
        watch_id = runner.request.watch_id
        if self._runners.get(watch_id) is runner and self._take_out(watch_id):
            self._outbox.put_last(Cancelled(watch_id, error, runner.token()))
            self._close_if_over()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._owner.limits.heartbeat_s)
            for runner in list(self._runners.values()):
                # Where there is no room, there is something better to say than how far it is.
                self._outbox.offer(runner.progress())

    async def _drain(self, draining: asyncio.Event, reading: asyncio.Task[None]) -> None:
        """Give every watch its token before the server goes away."""
        await draining.wait()
        await _end([reading])
        runners = list(self._runners.values())
        await self._end_all()
        for runner in runners:
            self._outbox.put_last(runner.progress())
        self._outbox.close()

    async def _end_all(self) -> None:
        await _end(list(self._tasks.values()))
        for watch_id in list(self._runners):
            self._take_out(watch_id)


def _bound_to(question: Question, understood: Understood, datasets: Collection[str]) -> bytes:
    """What a watch's token is bound to."""
    return bound_to("watch", question, understood, sorted(datasets))


def _created(request: Create, asked: Asked) -> Created:
    return Created(
        request.watch_id, asked.evaluator.schema, asked.canonical_text, asked.evaluator.aggregates, request.json
    )


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
