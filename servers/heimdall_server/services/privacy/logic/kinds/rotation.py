"""Rotations: of the key-encryption key, of data keys, of the index key. Each can be stopped between two steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from heimdall_server.domain.operations import Operation
from heimdall_server.ports.keys import KeyEncryption
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
        wanted = list(operation.parameters.get("data_classes", ()))
        return await shred(self._ports, progress, data_classes(self._ports, wanted))


class IndexRotation:
    """A new epoch of tokens. Nothing stored is rewritten: whoever searches asks for all live epochs. See `Steps`."""

    lane = "index"

    def __init__(self, ports: PrivacyPorts, *, epochs_changed: Callable[[], Awaitable[None]]) -> None:
        """Take what it acts on.

        Args:
            ports: See there.
            epochs_changed: Lets live watches ask for the new epoch, too.
        """
        self._ports = ports
        self._epochs_changed = epochs_changed

    def can_stop(self, operation: Operation) -> bool:
        """Before the epoch is made."""
        return "epoch" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`. A crash between two steps makes one more epoch, which costs a search one more word."""
        if "epoch" not in operation.facts:
            epoch = await self._ports.keys.new_epoch()
            await progress.note(facts={"epoch": epoch}, affected_count=1)
        self._ports.sealed_lately.clear()
        await self._epochs_changed()
        return None


class KekRotation:
    """All keys are wrapped under another key-encryption key; no data is touched. See `Steps`."""

    lane = "kek"

    def __init__(
        self,
        ports: PrivacyPorts,
        *,
        next_kek: Callable[[], Awaitable[KeyEncryption]],
        adopt: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what it acts on.

        Args:
            ports: See there.
            next_kek: The key to go over to; the same one when asked again. Raises ConfigurationError if there is none.
            adopt: Makes it the one that the next start uses, as far as that is ours to do. Safe to repeat.
        """
        self._ports = ports
        self._next_kek = next_kek
        self._adopt = adopt

    def can_stop(self, operation: Operation) -> bool:
        """Before the keys are wrapped anew."""
        return "wrapped_by" not in operation.facts

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        """See `Steps`."""
        if "wrapped_by" not in operation.facts:
            await progress.note(stage="wrapping the keys anew")
            kek = await self._next_kek()
            await self._ports.keys.rewrap(kek)
            count = sum(key.state != "destroyed" and key.kind != "kek" for key in self._ports.keys.list())
            await progress.note(facts={"wrapped_by": kek.key_id}, affected_count=count)
        await self._adopt()
        return None
