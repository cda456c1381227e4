"""The keyring of a process that runs the privacy service, and the protector that its keys make possible."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from heimdall_server.config import Config
from heimdall_server.crypto.field_cipher import AesGcmFieldCipher
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, OpenKeyring, open_keyring
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import DEFAULT_RULES, default_rules
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.sealed_lately import SealedLately
from heimdall_server.storage.journal.files import stored_fingerprint


@dataclass(slots=True)
class PrivacyKeys:
    """What must stand before the journal is opened."""

    opened: OpenKeyring
    places: KeyPlaces
    kek: KekConfig
    protector: PolicyProtector
    lately: SealedLately
    deleted: dict[str, int] = field(default_factory=dict)
    """Records that the store deleted, by deletion, since the process started."""

    @property
    def file_path(self) -> Path:
        """Where keys lie."""
        return self.places.keyring.parent


async def open_keys(config: Config, stack: contextlib.AsyncExitStack) -> PrivacyKeys:
    """Open the keyring, and make the protector with all actions that need keys.

    Raises:
        KeyMismatchError, CorruptionError, ConfigurationError, StoreError: As `open_keyring`.
    """
    value = config.keys.value
    kek = KekConfig("env", value=value) if value is not None else KekConfig("file", file=config.key_file)
    folder = config.key_file.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    places = KeyPlaces(
        folder / "keyring", config.key_file, config.data_dir / "keyring.id", stored_fingerprint(config.journal.path)
    )
    opened = await open_keyring(kek, places, classes=CLASSES)
    stack.push_async_callback(opened.close)
    keyring, lately = opened.keyring, SealedLately()
    actions = keyed_actions(
        keyring,
        keyring,
        lately=lately,
        cipher=AesGcmFieldCipher(keyring.identity_key("field cipher")),
        preserver=Ff1Preserver(keyring.identity_key),
    )
    policy = config.privacy
    if policy.rules == DEFAULT_RULES:
        # Nobody chose: with keys, what would be masked is tokenised.
        policy = replace(policy, rules=default_rules(actions))
    return PrivacyKeys(opened, places, kek, PolicyProtector(policy, actions), lately)
