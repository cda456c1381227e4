"""Rotations: of the key-encryption key, of data keys, of the index key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from heimdall_server.ports.keys import KeyEncryption
from heimdall_server.services.privacy.logic.kinds.model import PrivacyPorts, Progress, data_classes
from heimdall_server.services.privacy.logic.kinds.shredding import shred


class DekRotation:
    """A new generation of data keys; the old ones are destroyed once nothing needs them."""

    def __init__(self, ports: PrivacyPorts) -> None:
        self._ports = ports

    async def run(self, progress: Progress) -> None:
        """Do what is left."""
        wanted = list(progress.operation.parameters.get("data_classes", ()))
        await shred(self._ports, progress, data_classes(self._ports, wanted))


class IndexRotation:
    """A new epoch of tokens. Nothing stored is rewritten: whoever searches asks for all live epochs."""

    def __init__(self, ports: PrivacyPorts, *, epochs_changed: Callable[[], Awaitable[None]]) -> None:
        """Take what it acts on.

        Args:
            ports: See there.
            epochs_changed: Lets live watches ask for the new epoch, too.
        """
        self._ports = ports
        self._epochs_changed = epochs_changed

    async def run(self, progress: Progress) -> None:
        """Do what is left. A crash between the two steps makes one more epoch, which costs searches one more word."""
        if "epoch" not in progress.operation.facts:
            epoch = await self._ports.keys.new_epoch()
            await progress.note(facts={**progress.operation.facts, "epoch": epoch}, affected_count=1)
        self._ports.sealed_lately.clear()
        await self._epochs_changed()
        await progress.note(stage="in force")


class KekRotation:
    """All keys are wrapped under another key-encryption key; no data is touched."""

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

    async def run(self, progress: Progress) -> None:
        """Do what is left."""
        if "wrapped_by" not in progress.operation.facts:
            await progress.note(stage="wrapping the keys anew")
            kek = await self._next_kek()
            await self._ports.keys.rewrap(kek)
            count = sum(key.state != "destroyed" and key.kind != "kek" for key in self._ports.keys.list())
            await progress.note(facts={**progress.operation.facts, "wrapped_by": kek.key_id}, affected_count=count)
        await self._adopt()
