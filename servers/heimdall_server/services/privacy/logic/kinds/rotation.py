"""Rotations: of the key-encryption key, of data keys, of the index key. Each can be stopped between two steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from heimdall_server.domain.operations import Operation
from heimdall_server.services.privacy.logic.kinds.model import VAULT_LANE, PrivacyPorts, data_classes
from heimdall_server.services.privacy.logic.kinds.shredding import shred
from heimdall_server.services.privacy.logic.steps import Progress, Wait


class DekRotation:
    """A new generation of data keys; the old ones are destroyed once nothing needs them. See `Steps`."""

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
        """See `Steps`. A crash between two steps makes one more epoch, which costs a search one more word."""
        if "epoch" not in operation.facts:
            epoch = await self._ports.keys.new_epoch()
            await progress.note(facts={"epoch": epoch}, affected_count=1)
        self._ports.sealed_lately.clear()
        return None


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
        """See `Steps`. A crash before it is noted makes one more rotation, which does no harm."""
        if "wrapped_by" not in operation.facts:
            await progress.note(stage="wrapping the keys anew")
            wrapped_by = await self._rotate()
            count = sum(key.state != "destroyed" and key.kind != "kek" for key in self._ports.keys.list())
            await progress.note(facts={"wrapped_by": wrapped_by}, affected_count=count)
        return None
