"""Erasure: a subject's values become inaccessible at once, go from the graph, and the keys that could open them are destroyed.

The tokens are in the operation before anything is deleted, so they outlive the vault: from there the tombstones of every
erasure come back where a vault was restored from a backup. They are those of every epoch that something may have been protected under up to
the position through which is erased, whichever epoch began on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.ports.vault import Tombstone
from heimdall_server.services.privacy.logic.kinds.model import VAULT_LANE, PrivacyPorts, data_classes, out_of_date
from heimdall_server.services.privacy.logic.kinds.shredding import shred
from heimdall_server.services.privacy.logic.steps import Progress, Wait

_GRAPH_WAIT_S: Final = 5.0
_VAULT_WAIT_S: Final = 5.0
_RETRY_S: Final = 0.1


def names_of(operation: Operation) -> list[TokenName]:
    """The tokens that an erasure is about, those of all epochs that lived when it was asked for, and when it began."""
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


def blocked_by(operation: Operation) -> tuple[Sequence[str], Sequence[str]]:
    """Classes and keyed digests that an erasure keeps out of epochs to come; of any other operation: none."""
    if operation.kind is not OperationKind.ERASE or not operation.parameters.get("block", False):
        return (), ()
    return operation.parameters.get("classes", ()), operation.parameters.get("digests", ())


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
        ports = self._ports
        if not operation.inaccessible_time_ns:
            ports.blocklist.block(*blocked_by(operation))
            if "through" not in operation.facts:
                found = await self._reach(operation)
                if isinstance(found, Wait):
                    return found
                names, through = found
                scope = replace(operation.scope or ErasureScope(), tokens=tuple(map(str, names)))
                await progress.note(stage="making the values inaccessible", facts={"through": through}, scope=scope)
            tombstones = tombstones_of(progress.operation)
            deleted = int(operation.facts.get("values_deleted", 0)) + await ports.vault.bury(tombstones)
            ports.erased.add(tombstones)
            await progress.note(
                inaccessible_time_ns=ports.clock.now_ns(), stage="inaccessible", facts={"values_deleted": deleted}
            )
        if not operation.facts.get("graph_erased", False):
            through = int(progress.operation.facts["through"])
            if not await ports.graph.erase(list(map(str, names_of(progress.operation))), through=through):
                return Wait(_GRAPH_WAIT_S, f"inaccessible, waiting for the graph to be as far as position {through}")
            await progress.note(facts={"graph_erased": True})
        classes = data_classes(ports, sorted({name.data_class for name in names_of(progress.operation)}))
        wait = await shred(ports, progress, classes)
        if wait is None:
            await progress.note(shredded_time_ns=ports.clock.now_ns(), stage="shredded")
        return Wait(wait.seconds, f"inaccessible, {wait.stage}") if wait is not None and wait.stage else wait

    async def _reach(self, operation: Operation) -> tuple[Sequence[TokenName], int] | Wait:
        """All tokens that the values may have up to a position, and that position; a wait: the vault isn't as far.

        Nothing may be deleted before: what a value's token is under an epoch that began since it was asked for, only the value itself tells.

        Raises:
            OperationStateError: An epoch has begun, and a value is known by none of its tokens, so that nobody can tell the one it has now.
        """
        ports, names = self._ports, names_of(operation)
        known = operation.parameters.get("epochs")
        while True:
            ports.sealed_lately.forget(names)
            # Values that were sealed before this moment may still be on their way into the journal.
            through = await ports.barrier()
            is_newer = known is not None and not set(ports.tokeniser.live_epochs) <= set(known)
            if known is not None and not is_newer:
                return names, through
            if is_newer and not await ports.follower.wait_applied(through, _VAULT_WAIT_S):
                return Wait(_RETRY_S, f"an epoch has begun; waiting for the vault to be as far as position {through}")
            values = (await ports.vault.get(names)).values()
            told = await asyncio.to_thread(self._of_all_epochs, list(values))
            if is_newer and not set(told).issuperset(names):
                raise out_of_date(operation)
            also = [name for name in dict.fromkeys(told) if name not in names]
            if not also:
                return names, through
            names = [*names, *also]

    def _of_all_epochs(self, values: Sequence[SealedValue]) -> list[TokenName]:
        names: list[TokenName] = []
        for value in values:
            data_class = value.name.data_class
            try:
                plain = self._ports.sealer.open(value)
            except (KeyDestroyedError, IntegrityError):
                # Nobody can read it: it goes by the tokens that are known.
                continue
            words = self._ports.tokeniser.words_of_all_epochs(data_class, plain)
            names += [TokenName(data_class, word) for word in words]
        return names
