"""Rotations: of the key-encryption key, of data keys, of the index key. Each can be stopped between two steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from heimdall_server.domain.operations import Operation
from heimdall_server.ports.keys import KeyFacts
from heimdall_server.services.privacy.logic.kinds.model import VAULT_LANE, PrivacyPorts, data_classes
from heimdall_server.services.privacy.logic.kinds.shredding import shred
from heimdall_server.services.privacy.logic.steps import Progress, Wait


class DekRotation:
    """A new generation of data keys; the old ones are destroyed once nothing needs them. See `Steps`.

    Its own work is over when everything is sealed anew; for the destruction it then waits in a stage that begins with `RESEALED`.
    """

    lane = VAULT_LANE

    def __init__(self, ports: PrivacyPorts) -> None:
        self._ports = ports

    def can_stop(self, operation: Operation) -> bool:
        """Until the old keys are destroyed; both generations then stay in use."""
        return "keys_destroyed" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`."""
        wanted = list(operation.parameters.get("classes", ()))
        return await shred(self._ports, progress, data_classes(self._ports, wanted))


class IndexRotation:
    """A new epoch of tokens. Nothing stored is rewritten: whoever searches asks for all live epochs. See `Steps`."""

    lane = "index"

    def __init__(self, ports: PrivacyPorts) -> None:
        self._ports = ports

    def can_stop(self, operation: Operation) -> bool:
        """Before the epoch is made."""
        return "epoch" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`. After a crash the keyring itself tells whether the epoch was made.

        At the end it notes, for whoever retires the older epochs (`epochs`), up to which position their tokens may stand.
        """
        ports = self._ports
        if "epoch" not in operation.facts:
            before = str(operation.facts.get("index_key_before", ""))
            if not before:
                before = self._newest().key_id
                await progress.note(facts={"index_key_before": before})
            if self._newest().key_id == before:
                await ports.keys.new_epoch()
            await progress.note(facts={"epoch": self._newest().number}, affected_count=1)
        ports.sealed_lately.clear()
        # What is being protected under the epoch of before is on its way into the journal.
        newest = self._newest().key_id
        through = await ports.barrier()
        await progress.note(facts={"through": through, "index_key": newest, "journal_id": ports.journal.journal_id})
        return None

    def _newest(self) -> KeyFacts:
        return next(key for key in self._ports.keys.list() if key.kind == "index" and key.state == "active")


class KekRotation:
    """All keys are wrapped under another key-encryption key; no data is touched. See `Steps`."""

    lane = "kek"

    def __init__(self, ports: PrivacyPorts, *, rotate: Callable[[], Awaitable[str]]) -> None:
        """Take what it acts on.

        Args:
            ports: See there.
            rotate: Wraps all keys under the next one and makes that the one of the next start; gives its id. Safe to repeat.
        """
        self._ports = ports
        self._rotate = rotate

    def can_stop(self, operation: Operation) -> bool:
        """Before the keys are wrapped anew."""
        return "wrapped_by" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`.

        After a crash the ring itself tells whether it is under another key by now; where a service has the same name for all versions of a
        key, keys are wrapped once more, which does no harm.
        """
        if "wrapped_by" not in operation.facts:
            before = str(operation.facts.get("wrapped_before", ""))
            if not before:
                before = self._wrapped_by()
                await progress.note(stage="wrapping the keys anew", facts={"wrapped_before": before})
            if self._wrapped_by() == before:
                await self._rotate()
            count = sum(key.state != "destroyed" and key.kind != "kek" for key in self._ports.keys.list())
            await progress.note(facts={"wrapped_by": self._wrapped_by()}, affected_count=count)
        return None

    def _wrapped_by(self) -> str:
        return next(key.wrapped_by for key in self._ports.keys.list() if key.kind == "journal")
