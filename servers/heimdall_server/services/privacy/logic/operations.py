"""Long work that survives a restart: who asked for what is durable before it begins, and goes on after a crash.

Each kind of work is a `Steps`, registered by wiring (see `steps`).

    create ──► durable ──► waits for its lane ──► run ──► Wait(s) ──► run ──► … ──► done
                                                   └── StoreError, Overloaded: again later    └── any other error: failed

Operations of one lane never run at the same time; one that waits leaves its lane to others.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

from heimdall_server.domain.errors import (
    BudgetExceededError,
    HeimdallError,
    InvalidArgumentError,
    NotFoundError,
    OperationStateError,
    OverloadedError,
    StoreError,
)
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind, OperationState
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import OperationLog
from heimdall_server.services.privacy.logic import metrics
from heimdall_server.services.privacy.logic.steps import Progress, Steps, StepsFactory, StoppedError, Wait

__all__ = ["OperationRunner", "Progress", "Steps", "StepsFactory", "StoppedError", "Wait", "identity_of"]

RUNNING_COUNT_MAX: Final = 1000
"""Operations that haven't ended."""
ENDED_COUNT_MAX: Final = 10_000
"""Ended operations that are kept at hand; older ones stay in the ledger."""
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 60.0
STOP_STAGE: Final = "stopping"

_LOG: Final = logging.getLogger(__name__)


class OperationRunner:
    """All operations of an instance. For one event loop."""

    def __init__(self, log: OperationLog, clock: Clock, *, mask_text: Callable[[str], str]) -> None:
        """Make a runner.

        Args:
            log: Where operations are kept.
            clock: Their times.
            mask_text: Puts classes in place of personal data in reasons. Runs in a thread.
        """
        self._log = log
        self._clock = clock
        self._mask_text = mask_text
        self._operations: dict[str, Operation] = {}
        self._factories: dict[OperationKind, StepsFactory] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lanes: dict[str, asyncio.Lock] = {}
        self._creating = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._nudges: dict[str, asyncio.Event] = {}

    def register(self, kind: OperationKind, factory: StepsFactory) -> None:
        """Say who does a kind of work; before `start`."""
        self._factories[kind] = factory

    async def start(self) -> None:
        """Read the ledger, and go on with what hadn't ended.

        Raises:
            CorruptionError, StoreError: The ledger can't be used.
        """
        for operation in await self._log.load():
            self._operations[operation.operation_id] = operation
        self._forget_oldest()
        for operation in list(self._operations.values()):
            if not operation.ended:
                self._begin(operation)

    async def close(self) -> None:
        """Stop working; what hasn't ended goes on at the next start. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()

    async def create(
        self,
        kind: OperationKind,
        *,
        actor: str,
        reason: str,
        request_id: str = "",
        identity: str = "",
        parameters: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        scope: ErasureScope | None = None,
        query: str = "",
        shown_query: str = "",
    ) -> Operation:
        """Begin an operation; it is durable when this returns.

        Args:
            kind: A registered one.
            actor: Who asks.
            reason: Why; personal data in it is masked.
            request_id: A repeat of the same actor's gives the first operation; empty: none.
            identity: Digest of what is asked for, which a repeat must share.
            parameters: For its `Steps`, as JSON values; none of them personal.
            facts: What its `Steps` go on from, as if they had noted it.
            scope: Of an erasure.
            query: Of a deletion.
            shown_query: The same without what it asks for.

        Raises:
            InvalidArgumentError: The request id was used for something else; or nobody does this kind of work here.
            BudgetExceededError: Too many operations haven't ended.
            StoreError: It couldn't be made durable; nothing was begun.
        """
        if kind not in self._factories:
            raise InvalidArgumentError("kind", f"this server doesn't do {kind.value.replace('_', ' ')}")
        masked = await asyncio.to_thread(self._mask_text, reason)
        async with self._creating:
            if request_id and (first := self._asked(actor, request_id)) is not None:
                if (first.kind, first.identity) != (kind, identity):
                    raise InvalidArgumentError("request_id", "was used for another request; take a new one")
                return first
            if sum(not one.ended for one in self._operations.values()) >= RUNNING_COUNT_MAX:
                raise BudgetExceededError(60.0, "operations at a time", RUNNING_COUNT_MAX)
            now_ns = self._clock.now_ns()
            operation = Operation(
                operation_id=f"{kind.value.replace('_', '-')}-{secrets.token_hex(6)}",
                kind=kind,
                actor=actor,
                reason=masked,
                create_time_ns=now_ns,
                update_time_ns=now_ns,
                stage="waiting for its turn",
                request_id=request_id,
                identity=identity,
                parameters=parameters or {},
                facts=facts or {},
                scope=scope,
                query=query,
                shown_query=shown_query,
            )
            await self._log.write(operation)
            self._put(operation)
            self._begin(operation)
        return operation

    def get(self, operation_id: str) -> Operation:
        """An operation as it is.

        Raises:
            NotFoundError: There is none, or it ended too long ago (see `find`).
        """
        operation = self._operations.get(operation_id)
        if operation is None:
            raise NotFoundError("operation", operation_id)
        return operation

    async def find(self, operation_id: str) -> Operation:
        """An operation as it is, however long ago it ended: what isn't at hand is looked up in the ledger.

        Raises:
            NotFoundError: There is none.
        """
        if operation_id not in self._operations and len(self._operations) >= ENDED_COUNT_MAX:
            for operation in await self._log.load():
                if operation.operation_id == operation_id:
                    return operation
        return self.get(operation_id)

    def list(self, *, running_only: bool = False) -> Sequence[Operation]:
        """The operations at hand, the newest first."""
        found = [one for one in self._operations.values() if not (running_only and one.ended)]
        return found[::-1]

    def running(self, kind: OperationKind) -> Sequence[Operation]:
        """Those of a kind that haven't ended. Costs what these cost, however many have."""
        return [one for operation_id in self._tasks if (one := self._operations[operation_id]).kind is kind]

    async def watch(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """An operation as it is, and again whenever it changes, until it ends. Changes that come fast may be told as one.

        Raises:
            NotFoundError: There is none.
        """
        seen = await self.find(operation_id)
        yield seen
        while not seen.ended:
            changed = self._changed
            now = self._operations.get(operation_id, seen)
            if now is seen:
                await changed.wait()
                continue
            seen = now
            yield seen

    async def cancel(self, operation_id: str) -> Operation:
        """Ask an operation to stop, which it does between two steps.

        Returns:
            As it is then: cancelled, or on the way.

        Raises:
            NotFoundError: There is none.
            OperationStateError: It has ended, or can't be stopped any more.
        """
        operation = await self.find(operation_id)
        if operation.ended:
            raise OperationStateError(operation_id, operation.state.value, "it has ended")
        factory = self._factories.get(operation.kind)
        if factory is not None and not factory().can_stop(operation):
            raise OperationStateError(operation_id, operation.state.value, "it has begun and can't be stopped any more")
        if not operation.stop_requested:
            operation = await self.change(operation_id, stop_requested=True, stage=STOP_STAGE)
        self.nudge(operation_id)
        return self.get(operation_id)

    def nudge(self, operation_id: str) -> None:
        """Let an operation that waits look again at once."""
        if (event := self._nudges.get(operation_id)) is not None:
            event.set()

    async def change(self, operation_id: str, **changes: Any) -> Operation:  # noqa: ANN401 - fields of `Operation`
        """Change an operation, durably.

        Raises:
            OperationStateError: It has ended.
            StoreError: It isn't durable.
        """
        return await self._write(operation_id, lambda one: one.changed(now_ns=self._clock.now_ns(), **changes))

    def show(self, operation_id: str, **counts: int) -> None:
        """Change counts for those who watch; nothing is written."""
        self._put(self.get(operation_id).changed(now_ns=self._clock.now_ns(), **counts))

    def _asked(self, actor: str, request_id: str) -> Operation | None:
        found = (one for one in self._operations.values() if (one.actor, one.request_id) == (actor, request_id))
        return next(found, None)

    def _put(self, operation: Operation) -> None:
        self._operations[operation.operation_id] = operation
        self._changed.set()
        self._changed = asyncio.Event()

    def _begin(self, operation: Operation) -> None:
        task = asyncio.create_task(self._work(operation.operation_id), name=operation.operation_id)
        self._tasks[operation.operation_id] = task
        open_count = metrics.OPERATIONS.labels(operation.kind.value)
        open_count.inc()
        task.add_done_callback(lambda _: open_count.dec())
        task.add_done_callback(lambda _: self._tasks.pop(operation.operation_id, None))

    async def _work(self, operation_id: str) -> None:
        """Run an operation to its end. A ledger that can't be written holds it up, nothing else ends this."""
        nudge = self._nudges[operation_id] = asyncio.Event()
        retry_s = RETRY_S_MIN
        try:
            while True:
                try:
                    wait = await self._turn(operation_id)
                    retry_s = RETRY_S_MIN
                except (StoreError, OverloadedError) as error:
                    _LOG.warning("operation waits", extra={"operation": operation_id, "problem": str(error)})
                    self._put(self.get(operation_id).changed(now_ns=self._clock.now_ns(), problem=_told(error)))
                    wait, retry_s = Wait(retry_s), min(2 * retry_s, RETRY_S_MAX)
                if wait is None:
                    break
                await _wait(nudge, wait.seconds)
        finally:
            del self._nudges[operation_id]
        self._forget_oldest()

    async def _turn(self, operation_id: str) -> Wait | None:
        operation = self.get(operation_id)
        factory = self._factories.get(operation.kind)
        if factory is None:
            await self._end(operation_id, OperationState.FAILED, "this server doesn't do such work")
            return None
        steps = factory()
        async with self._lanes.setdefault(steps.lane, asyncio.Lock()):
            operation = self.get(operation_id)
            if operation.stop_requested and steps.can_stop(operation):
                await self._end(operation_id, OperationState.CANCELLED)
                return None
            try:
                wait = await steps.run(operation, Progress(self, operation_id))
            except StoppedError:
                await self._end(operation_id, OperationState.CANCELLED)
                return None
            except (StoreError, OverloadedError):
                raise
            except HeimdallError as error:
                await self._end(operation_id, OperationState.FAILED, str(error))
                return None
            except Exception:  # noqa: BLE001 - a bug in one kind of work must not leave an operation that never ends
                _LOG.exception("operation failed", extra={"operation": operation_id})
                await self._end(operation_id, OperationState.FAILED, "internal error; the server's log has the detail")
                return None
        if wait is None:
            await self._end(operation_id, OperationState.DONE)
            return None
        await self._waits(operation_id, wait)
        return wait

    async def _waits(self, operation_id: str, wait: Wait) -> None:
        operation = self.get(operation_id)
        stage = wait.stage or operation.stage
        if stage != operation.stage or operation.problem:
            await self.change(operation_id, stage=stage, problem="")

    async def _end(self, operation_id: str, state: OperationState, problem: str = "") -> None:
        def end(operation: Operation) -> Operation:
            stage = operation.stage if state is OperationState.FAILED else ""
            return operation.finished(state, now_ns=self._clock.now_ns(), problem=problem, stage=stage)

        metrics.count_ended(await self._write(operation_id, end))

    async def _write(self, operation_id: str, change: Callable[[Operation], Operation]) -> Operation:
        """Make a change durable, then seen. One after the other, so that the ledger's last word is the newest."""
        async with self._writing:
            await self._log.write(change(self.get(operation_id)))
            # Counts that were shown meanwhile stay.
            operation = change(self.get(operation_id))
            self._put(operation)
        return operation

    def _forget_oldest(self) -> None:
        ended = [one.operation_id for one in self._operations.values() if one.ended]
        for operation_id in ended[: max(0, len(ended) - ENDED_COUNT_MAX)]:
            del self._operations[operation_id]


def identity_of(value: Mapping[str, Any]) -> str:
    """A short name for what was asked for; JSON values, of which personal ones must be digests already."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _told(error: HeimdallError) -> str:
    """An engine's own words are for the log."""
    return f"the store {error.store} failed; it is tried again" if isinstance(error, StoreError) else str(error)


async def _wait(nudge: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await nudge.wait()
    except TimeoutError:
        return
    nudge.clear()
