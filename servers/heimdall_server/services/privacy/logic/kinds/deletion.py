"""Deletion of records: written into the journal, carried out by the projection, over when no segment holds them any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Deletion, Entry, Journal
from heimdall_server.services.privacy.logic.kinds.model import Progress
from heimdall_server.services.privacy.logic.kinds.tail import wait_for_tail

_WAIT_S: Final = 5.0


class RecordDeletion:
    """Deletes what a filter finds."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        barrier: Callable[[], Awaitable[int]],
        wait_stored: Callable[[int, float], Awaitable[bool]],
        deleted_count: Callable[[str], int],
        poll_s: float = 1.0,
        nudge_s: float = 600.0,
    ) -> None:
        """Take what it acts on.

        Args:
            journal: Where it is written.
            clock: For the times of the operation.
            barrier: See `PrivacyPorts.barrier`: what was sent before the deletion is deleted, too.
            wait_stored: Waits until the store has applied a position, for so many seconds; whether it has.
            deleted_count: Records that the store deleted for a deletion since the process started.
            poll_s: How often the journal's tail is looked at.
            nudge_s: See `wait_for_tail`.
        """
        self._journal = journal
        self._clock = clock
        self._barrier = barrier
        self._wait_stored = wait_stored
        self._deleted_count = deleted_count
        self._poll_s = poll_s
        self._nudge_s = nudge_s

    async def run(self, progress: Progress) -> None:
        """Do what is left."""
        operation = progress.operation
        if "through" not in operation.facts:
            await progress.note(facts={**operation.facts, "through": await self._barrier()})
        through = int(progress.operation.facts["through"])
        if "position" not in progress.operation.facts:
            # A crash right behind this writes it twice: the second one finds nothing.
            position = await self._write(progress, through)
            await progress.note(facts={**progress.operation.facts, "position": position})
        position = int(progress.operation.facts["position"])
        await progress.note(stage="deleting from the stores")
        while not await self._wait_stored(position, _WAIT_S):
            await progress.note(stage="deleting from the stores")
        if not operation.inaccessible_time_ns:
            count = self._deleted_count(operation.operation_id)
            await progress.note(
                inaccessible_time_ns=self._clock.now_ns(), affected_count=max(count, operation.affected_count)
            )
        await progress.note(stage=f"deleted; waiting for the journal to let go of position {through}")
        await wait_for_tail(self._journal, through, poll_s=self._poll_s, nudge_s=self._nudge_s, looked=progress.check)
        await progress.note(shredded_time_ns=self._clock.now_ns(), stage="deleted")

    async def _write(self, progress: Progress, through: int) -> int:
        parameters = progress.operation.parameters
        deletion = Deletion(
            deletion_id=progress.operation.operation_id,
            filter=progress.operation.query,
            start_time_ns=parameters.get("start_time_ns"),
            end_time_ns=parameters.get("end_time_ns"),
            datasets=tuple(parameters.get("datasets", ())),
            through=through,
        )
        (position,) = await self._journal.append([Entry(None, deletions=(deletion,))])
        return position
