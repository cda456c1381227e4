"""The keyring of a process that runs the privacy service, and the protector that its keys make possible."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from heimdall_server.config import Config
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.names_pass import NamesPass
from heimdall_server.protect.policy import PrivacyPolicy, default_rules
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.sealed_lately import SealedLately
from heimdall_server.wiring.keyring import ProcessKeyring, open_process_keyring


@dataclass(frozen=True, slots=True)
class PrivacyKeys:
    """What must stand before the journal is opened."""

    ring: ProcessKeyring
    protector: PolicyProtector
    lately: SealedLately
    blocklist: Blocklist

    @property
    def keyring(self) -> Keyring:
        """The keyring."""
        return self.ring.keyring

    @property
    def cipher(self) -> DataKeyFieldCipher:
        """What encrypts values where they stand."""
        return DataKeyFieldCipher(self.ring.keyring)

    @property
    def preserver(self) -> Ff1Preserver:
        """What encrypts values so that they keep their form."""
        return Ff1Preserver(self.ring.keyring.identity_key)

    async def prepare(self, policy: PrivacyPolicy) -> None:
        """Make the data keys that a policy needs and the ring lacks.

        Raises:
            StoreError: The key-encryption key's service failed, or the ring can't be written.
        """
        await prepare(self.ring.keyring, policy)


async def open_keys(config: Config, stack: contextlib.AsyncExitStack, names: NamesPass | None = None) -> PrivacyKeys:
    """Open the keyring, and make the protector with all actions that need keys, and with the second pass over dumps.

    Raises:
        KeyMismatchError, CorruptionError, ConfigurationError, StoreError: As `open_keyring`.
    """
    ring = await open_process_keyring(config, stack, classes=CLASSES)
    keyring, lately, blocklist = ring.keyring, SealedLately(), Blocklist()
    actions = keyed_actions(
        keyring,
        keyring,
        lately=lately,
        blocklist=blocklist,
        ip_prefixes=config.privacy.ip_prefixes,
        cipher=DataKeyFieldCipher(keyring),
        preserver=Ff1Preserver(keyring.identity_key),
    )
    policy = replace(config.privacy, rules=default_rules(actions)) if config.privacy.is_default else config.privacy
    protector = PolicyProtector(policy, actions, names=names)
    await prepare(keyring, policy)
    return PrivacyKeys(ring, protector, lately, blocklist)


async def prepare(keyring: Keyring, policy: PrivacyPolicy) -> None:
    """Make the data keys of what a policy encrypts. See `PrivacyKeys.prepare`."""
    await keyring.add_classes(map(key_class, policy.classes_of("encrypt")))
