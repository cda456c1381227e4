"""Erasure: a subject's values become inaccessible at once, and the keys that could open them are destroyed.

The tokens are in the operation before anything is done, so they outlive the vault: `rebury` puts the tombstones of every
erasure back where a vault was restored from a backup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.vault import Tombstone, Vault
from heimdall_server.services.privacy.logic.kinds.model import SHARD, PrivacyPorts, Progress, data_classes
from heimdall_server.services.privacy.logic.kinds.shredding import RETRY_S, shred

_NAMES: Final = "tokens"


def names_of(operation: Operation) -> list[TokenName]:
    """The tokens that an erasure is about, those of all epochs that lived when it was asked for."""
    parsed = (TokenName.parse(text) for text in operation.parameters.get(_NAMES, ()))
    return [name for name in parsed if name is not None]


def tombstones_of(operation: Operation) -> list[Tombstone]:
    """What keeps the erased values from coming back, once the erasure knows how far it reaches."""
    through = int(operation.facts.get("through", 0))
    return [
        Tombstone(
            name,
            through,
            bool(operation.parameters.get("block", False)),
            operation.operation_id,
            operation.inaccessible_time_ns or operation.create_time_ns,
        )
        for name in names_of(operation)
    ]


async def rebury(vault: Vault, operations: Sequence[Operation]) -> int:
    """Put the tombstones of all erasures into a vault that may have been restored. Returns values that were deleted.

    Raises:
        StoreError: The vault can't be reached.
    """
    erasures = [one for one in operations if one.kind is OperationKind.ERASE and "through" in one.facts]
    tombstones = [tombstone for one in erasures for tombstone in tombstones_of(one)]
    return await vault.bury(tombstones) if tombstones else 0


class Erasure:
    """Erases a subject."""

    def __init__(self, ports: PrivacyPorts) -> None:
        self._ports = ports

    async def run(self, progress: Progress) -> None:
        """Do what is left."""
        ports, operation = self._ports, progress.operation
        names = names_of(operation)
        if not operation.inaccessible_time_ns:
            await progress.note(stage="making the values inaccessible")
            head = ports.journal.head().get(SHARD, 0)
            await progress.note(facts={**operation.facts, "through": head})
            await self._bury(progress)
            # Values that were sealed before this moment may still be on their way into the journal.
            ports.sealed_lately.forget(names)
            await progress.note(facts={**progress.operation.facts, "through": await ports.barrier()})
            await self._bury(progress)
            await progress.note(inaccessible_time_ns=ports.clock.now_ns(), stage="inaccessible")
        await shred(ports, progress, data_classes(ports, sorted({name.data_class for name in names})))
        await progress.note(shredded_time_ns=ports.clock.now_ns(), stage="shredded")

    async def _bury(self, progress: Progress) -> None:
        while True:
            try:
                deleted = await self._ports.vault.bury(tombstones_of(progress.operation))
                break
            except StoreError as error:
                await progress.note(problem=f"waits for {error.store}: the values are not inaccessible yet")
                await asyncio.sleep(RETRY_S)
        facts = progress.operation.facts
        erased = int(facts.get("values_deleted", 0)) + deleted
        await progress.note(facts={**facts, "values_deleted": erased}, problem="")
