"""The keyring of a process that runs the privacy service, and the protector that its keys make possible."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from heimdall_server.config import Config
from heimdall_server.crypto.field_cipher import AesGcmFieldCipher
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, OpenKeyring, open_keyring
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import default_rules
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
    policy = replace(config.privacy, rules=default_rules(actions)) if config.privacy.is_default else config.privacy
    return PrivacyKeys(opened, places, kek, PolicyProtector(policy, actions), lately)
