"""Deletion of records: written into the journal, carried out by the projections, over when no segment holds them any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from heimdall_server.domain.operations import Operation
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import DeletedSlice, Deletion, Entry, Journal
from heimdall_server.services.privacy.logic.kinds.model import SHARD, out_of_date, tail_wait
from heimdall_server.services.privacy.logic.steps import Progress, Wait

_STORED_WAIT_S: Final = 5.0
_RETRY_S: Final = 0.1
_DELETING: Final = "deleting from the stores"
_GRAPH_WAIT_S: Final = 1.0
_GRAPH: Final = "deleted from the stores; taking out of the graph what only these records told"


def is_written(operation: Operation) -> bool:
    """Whether the journal holds a deletion: before that nobody who makes records of what came in earlier knows it."""
    return operation.facts.get("position") is not None


class RecordDeletion:
    """Deletes what a filter finds. See `Steps`."""

    lane = "deletion"

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        barrier: Callable[[], Awaitable[int]],
        wait_stored: Callable[[int, float], Awaitable[bool]],
        deleted_count: Callable[[str], int],
        live_epochs: Callable[[], Sequence[int | str]],
        reach: Callable[[Operation, int], Awaitable[tuple[DeletedSlice, ...] | None]] | None = None,
        take_out: Callable[[Deletion, int], Awaitable[bool]] | None = None,
        tail_s: float = 5.0,
        nudge_s: float = 600.0,
    ) -> None:
        """Take what it acts on.

        Args:
            journal: Where it is written.
            clock: For the times of the operation.
            barrier: See `PrivacyPorts.barrier`: what was sent before the deletion is deleted, too.
            wait_stored: Waits until the store has applied a position, for so many seconds; whether it has.
            deleted_count: Records that the store deleted for a deletion since the process started.
            live_epochs: Of the index keys. The parameter `epochs` of an operation, if it has any, says which ones its filter names
                tokens of.
            reach: Asks the store, which has applied a position, where it has records that are meant up to there; None: nobody asks.
            take_out: Takes what only these records told out of the graph, once the store has deleted them; whether that is done by
                now. None: there is no graph.
            tail_s: See `PrivacyPorts`.
            nudge_s: See `PrivacyPorts`.
        """
        self._journal = journal
        self._clock = clock
        self._barrier = barrier
        self._wait_stored = wait_stored
        self._deleted_count = deleted_count
        self._live_epochs = live_epochs
        self._reach = reach
        self._take_out = take_out
        self._tail_s = tail_s
        self._nudge_s = nudge_s

    def can_stop(self, operation: Operation) -> bool:
        """Only before it has begun."""
        return "through" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`."""
        if "through" not in operation.facts:
            through = await self._barrier()
            self._check_epochs(operation)
            facts = {"through": through, "journal_id": self._journal.journal_id}
            await progress.note(stage=_DELETING, facts=facts)
        through = int(progress.operation.facts["through"])
        if not is_written(progress.operation):
            if self._reach is not None and not await self._wait_stored(through, _STORED_WAIT_S):
                return Wait(_RETRY_S, "waiting for the store to have everything that came before")
            # A crash right behind this writes it twice: the second one finds nothing.
            await progress.note(facts={"position": await self._write(progress.operation, through)})
        if not operation.inaccessible_time_ns:
            position = int(progress.operation.facts["position"])
            if not await self._wait_stored(position, _STORED_WAIT_S):
                return Wait(_RETRY_S, _DELETING)
            if self._take_out is not None and not await self._take_out(await self._written(position), position):
                return Wait(_GRAPH_WAIT_S, _GRAPH)
            count = max(operation.affected_count, self._deleted_count(operation.operation_id))
            await progress.note(stage="deleted", inaccessible_time_ns=self._clock.now_ns(), affected_count=count)
        stage = f"deleted; waiting for the journal to let go of position {through}"
        wait = await tail_wait(
            self._journal, self._clock, through, stage=stage, tail_s=self._tail_s, nudge_s=self._nudge_s
        )
        if wait is None:
            await progress.note(shredded_time_ns=self._clock.now_ns())
        return wait

    def _check_epochs(self, operation: Operation) -> None:
        """Refuse a filter that can't know some of the tokens up to where it deletes.

        Raises:
            OperationStateError: An index key was made after its values had become tokens.
        """
        planned = operation.parameters.get("epochs")
        if planned is not None and not set(self._live_epochs()) <= set(planned):
            raise out_of_date(operation)

    async def _write(self, operation: Operation, through: int) -> int:
        parameters = operation.parameters
        slices = None if self._reach is None else await self._reach(operation, through)
        deletion = Deletion(
            deletion_id=operation.operation_id,
            filter=operation.query,
            start_time_ns=parameters.get("start_time_ns"),
            end_time_ns=parameters.get("end_time_ns"),
            datasets=tuple(parameters.get("datasets", ())),
            through=through,
            slices=slices,
        )
        (position,) = await self._journal.append([Entry(None, deletions=(deletion,))])
        return position

    async def _written(self, position: int) -> Deletion:
        """As it stands in the journal, which holds it for as long as it isn't done."""
        async for frame in self._journal.read_control(SHARD, after=position - 1, through=position):
            for deletion in frame.entry.deletions:
                return deletion
        msg = f"journal position {position} holds no deletion"
        raise RuntimeError(msg)
