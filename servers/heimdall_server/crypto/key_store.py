"""Loads and changes the keyring's file: unwraps what it holds, wraps what is new, and writes the next revision."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heimdall_server.crypto.envelope import KEY_BYTES, RootKey
from heimdall_server.crypto.keyring_document import KeyEntry, KeyringDocument, Place, check, decode, encode
from heimdall_server.crypto.keyring_file import KeyringFile
from heimdall_server.crypto.live_keys import ROOT_PLACE, SINGLE_PLACES, LiveKeys, keyring_mac_key
from heimdall_server.domain.errors import CorruptionError, KeyMismatchError
from heimdall_server.ports.keys import KeyEncryption

_AT_ONCE_MAX: Final = 8
"""Calls to the KEK's service that are under way at once."""


@dataclass(slots=True)
class KeyStore:
    """The keyring at rest. Calls take turns: the caller sees to it."""

    file: KeyringFile
    kek: KeyEncryption
    """Wraps what is new."""
    former: tuple[KeyEncryption, ...] = ()
    """Those that may have wrapped older entries."""
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE_MAX), init=False)

    async def read(self) -> bytes | None:
        """The file; None: there is none."""
        return await asyncio.to_thread(self.file.read)

    async def clear(self) -> None:
        """Finish what a crash left undone."""
        await asyncio.to_thread(self.file.clear)

    async def make(self, root: RootKey, *, now_ns: int) -> bytes:
        """Write the first revision: one key of each kind, the first epoch, no data key yet.

        Returns:
            The file.
        """
        plain: dict[Place, bytes] = {place: os.urandom(KEY_BYTES) for place in (*SINGLE_PLACES, ("index", "", 0))}
        plain[ROOT_PLACE] = root.secret
        keyring_id = uuid.uuid4().hex
        bare = [KeyEntry(*place, created_time_ns=now_ns) for place in plain]
        document = KeyringDocument(keyring_id, 1, tuple(await self._wrapped(keyring_id, bare, plain)))
        content = encode(document, keyring_mac_key(root))
        await asyncio.to_thread(self.file.replace, content, expected=None)
        return content

    async def load(self, content: bytes, *, before: LiveKeys | None) -> LiveKeys:
        """Unwrap what a file holds.

        Args:
            content: The file.
            before: What was loaded earlier: its keys needn't be unwrapped again.

        Raises:
            KeyMismatchError: No KEK at hand unwraps it.
            CorruptionError: It was changed, or is no keyring.
        """
        place = str(self.file.path)
        document, mac = decode(content, place=place)
        entries = {entry.place: entry for entry in document.entries if entry.lives}
        if ROOT_PLACE not in entries:
            raise CorruptionError(place, "the keyring has no journal root; restore it from a backup")
        same = before is not None and before.document.keyring_id == document.keyring_id
        known = dict(before.plain) if before is not None and same else {}
        # The root first: with it the whole file is checked before anything else of it is believed.
        root = known.get(ROOT_PLACE) or await self.unwrap(document.keyring_id, entries[ROOT_PLACE])
        check(document, mac, keyring_mac_key(RootKey(root)), place=place)
        known[ROOT_PLACE] = root
        wanted = [entry for name, entry in entries.items() if name not in known]
        keys = await asyncio.gather(*(self.unwrap(document.keyring_id, entry) for entry in wanted))
        known |= {entry.place: key for entry, key in zip(wanted, keys, strict=True)}
        plain = {name: known[name] for name in entries}
        return LiveKeys.build(content, document, plain, before=before if same else None)

    async def write(self, keys: LiveKeys, entries: Sequence[KeyEntry], fresh: Mapping[Place, bytes]) -> LiveKeys:
        """Write the next revision, durably.

        Args:
            keys: What the file holds now.
            entries: That are new or changed.
            fresh: Keys of those that are new and not wrapped yet.

        Raises:
            StoreError: The KEK's service failed, or the file can't be written.
        """
        plain = {**keys.plain, **fresh}
        bare = [entry for entry in entries if entry.lives and not entry.wrapped]
        wrapped = await self._wrapped(keys.document.keyring_id, bare, plain)
        document = keys.document.changed([*(entry for entry in entries if entry not in bare), *wrapped])
        content = encode(document, keys.mac_key)
        await asyncio.to_thread(self.file.replace, content, expected=keys.content)
        living = {entry.place: plain[entry.place] for entry in document.entries if entry.lives}
        return LiveKeys.build(content, document, living, before=keys)

    async def unwrap(self, keyring_id: str, entry: KeyEntry) -> bytes:
        """A key of the file.

        Raises:
            KeyMismatchError: No KEK at hand wrapped it.
        """
        context = entry.context(keyring_id)
        # That which names itself as its wrapper first.
        for kek in sorted((self.kek, *self.former), key=lambda kek: kek.key_id != entry.wrapped_by):
            if _kind(kek.key_id) != _kind(entry.wrapped_by):
                # A service that is asked for what another one wrapped may call that anything.
                continue
            try:
                async with self._gate:
                    return await kek.unwrap(entry.wrapped, context=context)
            except KeyMismatchError:
                continue
        raise KeyMismatchError(entry.wrapped_by, self.kek.key_id)

    async def _wrapped(
        self, keyring_id: str, entries: Sequence[KeyEntry], plain: Mapping[Place, bytes]
    ) -> list[KeyEntry]:
        async def wrap(entry: KeyEntry) -> KeyEntry:
            async with self._gate:
                wrapped = await self.kek.wrap(plain[entry.place], context=entry.context(keyring_id))
            # Its id is asked for only now: some services tell the version when they used it.
            return replace(entry, wrapped=wrapped, wrapped_by=self.kek.key_id)

        return list(await asyncio.gather(*map(wrap, entries)))


def _kind(key_id: str) -> str:
    """`aws-kms` of `aws-kms:alias/heimdall`: one key may go by several names, but only with one keeper."""
    return key_id.partition(":")[0]
