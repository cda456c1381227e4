"""One watch stream: many watches, one reader, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.errors import (
    BudgetExceededError,
    HeimdallError,
    InvalidArgumentError,
    NotFoundError,
    StreamProtocolError,
)
from heimdall_server.ports.clock import Clock
from heimdall_server.services.query.logic.question import check_datasets, understand
from heimdall_server.services.query.logic.watch.evaluator import evaluator_of, with_datasets
from heimdall_server.services.query.logic.watch.outbox import Outbox, OutboxLimits
from heimdall_server.services.query.logic.watch.runner import WatchPorts, WatchRunner, bound_to, first_place
from heimdall_server.services.query.watch_model import (
    AskProgress,
    Cancel,
    Cancelled,
    Create,
    Created,
    Event,
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


@dataclass(slots=True)
class _Watch:
    runner: WatchRunner
    task: asyncio.Task[None]


class WatchUseCase:
    """Opens watch streams."""

    def __init__(self, *, ports: WatchPorts, clock: Clock, limits: WatchLimits, datasets: Collection[str]) -> None:
        self._ports = ports
        self._clock = clock
        self._limits = limits
        self._datasets = datasets
        self.watch_count = 0
        """Watches that run, on all streams."""

    def stream(self, caller: str) -> WatchStream:
        """A new stream of one caller."""
        return WatchStream(self, self._ports, self._clock, self._limits, self._datasets, caller)


class WatchStream:
    """See the module."""

    def __init__(
        self,
        owner: WatchUseCase,
        ports: WatchPorts,
        clock: Clock,
        limits: WatchLimits,
        datasets: Collection[str],
        caller: str,
    ) -> None:
        self._owner = owner
        self._ports = ports
        self._clock = clock
        self._limits = limits
        self._datasets = sorted(datasets)
        self._caller = caller
        self._outbox = Outbox(limits.outbox)
        self._watches: dict[str, _Watch] = {}
        self._half_closed = False

    async def run(self, requests: AsyncIterator[Request], draining: asyncio.Event) -> AsyncGenerator[Event, None]:
        """Serve the stream: take requests, give events, until the client hangs up or the server drains.

        Raises:
            StreamProtocolError: A request that may not come now.
        """
        reading = asyncio.create_task(self._read(requests), name="watch-read")
        beating = asyncio.create_task(self._beat(), name="watch-beat")
        drained = asyncio.create_task(self._drain(draining), name="watch-drain")
        try:
            while (event := await self._outbox.get()) is not None:
                yield event
        finally:
            tasks = [reading, beating, drained, *(watch.task for watch in self._watches.values())]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._owner.watch_count -= len(self._watches)
            self._watches.clear()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        try:
            await self._serve(requests)
        except Exception as error:
            await self._outbox.close(error)
            if not isinstance(error, HeimdallError):
                raise
            return
        # A client may close its half and go on listening, as grpcurl does.
        self._half_closed = True
        await self._close_if_over()

    async def _close_if_over(self) -> None:
        if self._half_closed and not self._watches:
            await self._outbox.close()

    async def _serve(self, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            match request:
                case Create():
                    await self._create(request)
                case Update():
                    await self._update(request)
                case Cancel():
                    await self._cancel(request.watch_id)
                case AskProgress():
                    for watch in list(self._watches.values()):
                        await self._outbox.put(watch.runner.progress())

    async def _create(self, request: Create) -> None:
        if request.watch_id in self._watches:
            raise StreamProtocolError(f"watch {request.watch_id!r} exists already; update it, or choose another id")
        try:
            runner, created = self._runner(request)
        except HeimdallError as error:
            await self._outbox.put_last(Cancelled(request.watch_id, error, request.start.resume_token))
            return
        await self._outbox.put(created)
        task = asyncio.create_task(self._guard(runner), name=f"watch-{request.watch_id}")
        self._watches[request.watch_id] = _Watch(runner, task)
        self._owner.watch_count += 1

    def _runner(self, request: Create) -> tuple[WatchRunner, Created]:
        limit = self._limits.watches_per_stream_max
        if len(self._watches) >= limit:
            raise BudgetExceededError(retry_after_s=1.0, budget="watches on one stream", limit=limit)
        understood = understand(request.question, now_ns=self._clock.now_ns())
        datasets = check_datasets(request.datasets, self._datasets)
        query = with_datasets(understood.query, datasets, self._datasets)
        if request.start.resume_token:
            bound = bound_to(understood.canonical_text, request)
            place = self._ports.tokens.open(request.start.resume_token, bound_to=bound)
        else:
            place = first_place(request.start, self._ports.journal)
        evaluator = evaluator_of(query, horizon_ns=place.since_ns)
        runner = WatchRunner(
            self._ports,
            self._outbox,
            caller=self._caller,
            request=request,
            query=query,
            evaluator=evaluator,
            canonical_text=understood.canonical_text,
            place=place,
        )
        created = Created(
            request.watch_id, evaluator.schema, understood.canonical_text, evaluator.aggregates, request.json
        )
        return runner, created

    async def _update(self, request: Update) -> None:
        watch = self._watches.get(request.watch_id)
        if watch is None:
            await self._outbox.put_last(
                Cancelled(request.watch_id, NotFoundError("watch on this stream", request.watch_id), b"")
            )
            return
        old = watch.runner.request
        try:
            understood = understand(request.question, now_ns=self._clock.now_ns())
            query = with_datasets(understood.query, check_datasets(old.datasets, self._datasets), self._datasets)
            evaluator = evaluator_of(query)
            if evaluator.aggregates != watch.runner.aggregates:
                raise InvalidArgumentError("update.question", "must stay rows, or stay aggregates; create a new watch")
        except HeimdallError as error:
            await self._end(request.watch_id, error)
            return
        await watch.runner.update(query, evaluator, understood.canonical_text)
        await self._outbox.put(
            Created(request.watch_id, evaluator.schema, understood.canonical_text, evaluator.aggregates, old.json)
        )

    async def _cancel(self, watch_id: str) -> None:
        if watch_id not in self._watches:
            await self._outbox.put_last(Cancelled(watch_id, NotFoundError("watch on this stream", watch_id), b""))
            return
        await self._end(watch_id, None)

    async def _end(self, watch_id: str, error: BaseException | None) -> None:
        watch = self._watches.pop(watch_id)
        self._owner.watch_count -= 1
        watch.task.cancel()
        await asyncio.wait([watch.task])
        await self._outbox.put_last(Cancelled(watch_id, error, watch.runner.token()))

    async def _guard(self, runner: WatchRunner) -> None:
        """Run a watch; what ends it is told to the client, and the stream goes on."""
        error: BaseException | None = None
        try:
            await runner.run()
        except HeimdallError as problem:
            error = problem
        except Exception as problem:
            LOG.exception("watch failed", extra={"event": "watch.failed"})
            error = problem
        if self._watches.pop(runner.request.watch_id, None) is not None:
            self._owner.watch_count -= 1
        await self._outbox.put_last(Cancelled(runner.request.watch_id, error, runner.token()))
        await self._close_if_over()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._limits.heartbeat_s)
            for watch in list(self._watches.values()):
                with contextlib.suppress(HeimdallError):
                    # A full outbox has something better to say than a heartbeat.
                    await self._outbox.put(watch.runner.progress())

    async def _drain(self, draining: asyncio.Event) -> None:
        """Give every watch its token before the server goes away."""
        await draining.wait()
        for watch in list(self._watches.values()):
            await self._outbox.put_last(watch.runner.progress())
        await self._outbox.close()
