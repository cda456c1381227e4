"""What one kind of long work is to the runner, and what it may tell while it works.

`Steps.run` may be cut off anywhere (a crash, a stop) and is called again from its beginning: so it looks at how things are instead of
counting what it did. What it must remember it notes (`Progress.note`), which is durable before it returns; counts for people
(`Progress.count`) aren't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from heimdall_server.domain.operations import Operation


@dataclass(frozen=True, slots=True)
class Wait:
    """What `run` returns where it can't go on yet."""

    seconds: float
    """When to call it again."""
    stage: str = ""
    """What is waited for, for a person; empty: as noted before."""


class StoppedError(Exception):
    """Raised by `Progress.checkpoint` where somebody wants the operation to stop; `run` lets it pass."""


class Steps(Protocol):
    """One kind of work. Made anew for each operation and each run."""

    @property
    def lane(self) -> str:
        """Operations of the same lane run one after the other."""
        ...

    def can_stop(self, operation: Operation) -> bool:
        """Whether it may still be stopped, between two steps."""
        ...

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """Do what is left of the work. Safe to repeat from its beginning, however it ended before.

        Returns:
            When to be called again; None: it is done.

        Raises:
            StoreError, OverloadedError: It is called again, later and later.
            HeimdallError: It can't be done; its sentence becomes the operation's problem.
            StoppedError: From `progress.checkpoint`.
        """
        ...


StepsFactory = Callable[[], Steps]


class Keeper(Protocol):
    """Who keeps operations: the runner."""

    def get(self, operation_id: str) -> Operation:
        """An operation as it is."""
        ...

    async def change(self, operation_id: str, **changes: Any) -> Operation:  # noqa: ANN401 - fields of `Operation`
        """Change it, durably."""
        ...

    def show(self, operation_id: str, **counts: int) -> None:
        """Change counts for those who watch."""
        ...


class Progress:
    """What `run` tells while it works."""

    def __init__(self, runner: Keeper, operation_id: str) -> None:
        self._runner = runner
        self._operation_id = operation_id

    @property
    def operation(self) -> Operation:
        """As it is now."""
        return self._runner.get(self._operation_id)

    async def note(self, *, facts: Mapping[str, Any] | None = None, **changes: Any) -> Operation:  # noqa: ANN401
        """Remember something, durably.

        Args:
            facts: Put over those that are there; JSON values, none of them personal.
            changes: Fields of `Operation`: `stage`, `problem`, `inaccessible_time_ns`, `shredded_time_ns`, `affected_count`, `scope`,
                `done_count`, `total_count`.

        Raises:
            StoreError: It isn't durable: what depends on it must not be done.
        """
        if facts is not None:
            changes["facts"] = {**self.operation.facts, **facts}
        return await self._runner.change(self._operation_id, **changes)

    def count(self, done: int, total: int | None = None, *, affected: int | None = None) -> None:
        """Say how far it is. Cheap, for every batch; a restart forgets it."""
        changes = {"done_count": done, "total_count": total, "affected_count": affected}
        self._runner.show(self._operation_id, **{name: value for name, value in changes.items() if value is not None})

    async def checkpoint(self) -> None:
        """A place between two steps: others get their turn, and the operation may be stopped.

        Raises:
            StoppedError: It was asked to stop.
        """
        await asyncio.sleep(0)
        if self.operation.stop_requested:
            raise StoppedError
