"""Erasure: a subject's values become inaccessible at once, and the keys that could open them are destroyed.

The tokens are in the operation before anything is done, so they outlive the vault: from there the tombstones of every
erasure come back where a vault was restored from a backup.
"""

from __future__ import annotations

from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.vault import Tombstone
from heimdall_server.services.privacy.logic.kinds.model import SHARD, VAULT_LANE, PrivacyPorts, data_classes
from heimdall_server.services.privacy.logic.kinds.shredding import shred
from heimdall_server.services.privacy.logic.steps import Progress, Wait


def names_of(operation: Operation) -> list[TokenName]:
    """The tokens that an erasure is about, those of all epochs that lived when it was asked for."""
    parsed = (TokenName.parse(text) for text in (operation.scope.tokens if operation.scope else ()))
    return [name for name in parsed if name is not None]


def tombstones_of(operation: Operation) -> list[Tombstone]:
    """What keeps the erased values from coming back, as far as the erasure reaches by now."""
    through = int(operation.facts.get("through", 0))
    blocked = bool(operation.parameters.get("block", False))
    time_ns = operation.inaccessible_time_ns or operation.create_time_ns
    return [Tombstone(name, through, blocked, operation.operation_id, time_ns) for name in names_of(operation)]


def erased_by(operation: Operation) -> list[Tombstone]:
    """The tombstones that an operation of any kind has decided on: what a vault restored from a backup must hear of."""
    if operation.kind is not OperationKind.ERASE or "through" not in operation.facts:
        return []
    return tombstones_of(operation)


class Erasure:
    """Erases a subject. See `Steps`."""

    lane = VAULT_LANE

    def __init__(self, ports: PrivacyPorts) -> None:
        self._ports = ports

    def can_stop(self, operation: Operation) -> bool:
        """Only before it has begun."""
        return "through" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`."""
        ports, names = self._ports, names_of(operation)
        if not operation.inaccessible_time_ns:
            head = ports.journal.head().get(SHARD, 0)
            await progress.note(stage="making the values inaccessible", facts={"through": head})
            deleted = int(operation.facts.get("values_deleted", 0))
            deleted += await ports.vault.bury(tombstones_of(progress.operation))
            # Values that were sealed before this moment may still be on their way into the journal.
            ports.sealed_lately.forget(names)
            await progress.note(facts={"through": await ports.barrier(), "values_deleted": deleted})
            deleted += await ports.vault.bury(tombstones_of(progress.operation))
            await progress.note(
                inaccessible_time_ns=ports.clock.now_ns(), stage="inaccessible", facts={"values_deleted": deleted}
            )
        classes = data_classes(ports, sorted({name.data_class for name in names}))
        wait = await shred(ports, progress, classes)
        if wait is None:
            await progress.note(shredded_time_ns=ports.clock.now_ns(), stage="shredded")
        return Wait(wait.seconds, f"inaccessible, {wait.stage}") if wait is not None and wait.stage else wait
