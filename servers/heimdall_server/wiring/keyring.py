"""The keyring of a process, from its settings: opened at the start, closed at the end, its key-encryption key (KEK) rotated meanwhile.

Apart from `keys`, so that a process without the privacy service, whose journal's root may lie in the ring, needn't load what makes tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from heimdall_server.config import Config
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, OpenKeyring, open_keyring, rotate_kek
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.storage.journal.files import stored_fingerprint


@dataclass(slots=True)
class ProcessKeyring:
    """The ring that is open, and where its KEK goes next."""

    opened: OpenKeyring
    places: KeyPlaces
    next_kek: KekConfig | None

    @property
    def keyring(self) -> Keyring:
        """The ring; the same object for the process's life."""
        return self.opened.keyring

    def notices(self) -> list[str]:
        """What an operator should know at the start."""
        if self.next_kek is None or self.opened.config != self.next_kek:
            return []
        return ["the keyring went over to the key of keys.next: make it keys.kek, and take keys.next out"]

    def check_rotation(self) -> None:
        """Refuse what `rotate` couldn't do, before anything is begun.

        Raises:
            ConfigurationError: The KEK comes from the environment, and no other one is named.
        """
        if self.opened.config.kind == "env" and self.next_kek in (None, self.opened.config):
            problem = "keys.next: name the key to go over to; the one in use comes from the environment"
            raise ConfigurationError((problem,))

    async def rotate(self) -> str:
        """Go over to the next KEK, or renew the one in use. Returns its id.

        Raises:
            StoreError, ConfigurationError, OperationStateError: As `rotate_kek`.
        """
        self.opened = await rotate_kek(self.opened, self.places, self.next_kek)
        return self.opened.kek.key_id

    async def close(self) -> None:
        """Let go of the KEK that is in use by now. Idempotent."""
        await self.opened.close()


def key_places(config: Config) -> KeyPlaces:
    """Where the keys of a data folder lie."""
    folder = config.key_file.parent
    marker, fingerprint = config.data_dir / "keyring.id", stored_fingerprint(config.journal.path)
    return KeyPlaces(folder / "keyring", config.key_file, marker, fingerprint)


async def open_process_keyring(
    config: Config, stack: contextlib.AsyncExitStack, *, classes: Collection[str] = ()
) -> ProcessKeyring:
    """Open the ring, or make it where there is no data yet; closed by the stack.

    Raises:
        KeyMismatchError, CorruptionError, ConfigurationError, StoreError: As `open_keyring`.
    """
    places = key_places(config)
    places.keyring.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = await open_keyring(config.keys.in_use, places, classes=classes, next_config=config.keys.next)
    ring = ProcessKeyring(opened, places, config.keys.next)
    stack.push_async_callback(ring.close)
    return ring
