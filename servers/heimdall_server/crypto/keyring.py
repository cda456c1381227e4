"""The keyring: every key of an instance, in one durable file beside the data, each wrapped under the key-encryption key (KEK).

| key | one per | makes or opens | rotated by | destroyed by |
|---|---|---|---|---|
| KEK | instance; outside: a file, the environment, AWS KMS, Vault transit | wraps all below | `rewrap` | its keeper |
| journal root | instance | wraps the data key of each journal segment; derives resume tokens' and the keyring's own MAC | never | never |
| data key | (class, generation) | derives the sub-keys that seal values (`sealing`) | `new_generation` | `destroy_generation` |
| index key | epoch | the words of tokens (`blind_index`) | `new_epoch` | `retire_epoch` |
| identity key | instance | names of personal entities, keyed hashes, format-preserving keys | never | never |
| signing key | instance | Ed25519 signatures of certificates of erasure | never | never |
| audit key | instance | nothing: the audit log's chain has no key; every ring holds one since the first | never | never |

Each wrap is bound to keyring, kind, class and number; the file as a whole has a MAC (`keyring_document`); how it is replaced, and what
the destruction of a key can't promise, is `keyring_file`'s matter. A key that a change made or destroyed is durable before the change
returns; a process that dies at any point leaves the ring as it was before or after. What Python held of a destroyed key stays in its
memory until that is used again.

What `hash` and `format_preserving` made is under the identity key and can't be shredded: erasing it means deleting the records.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from heimdall_server.crypto.blind_index import KeyedDigests
from heimdall_server.crypto.envelope import KEY_BYTES, RootKey
from heimdall_server.crypto.key_marker import check_marker, write_marker
from heimdall_server.crypto.key_store import KeyStore
from heimdall_server.crypto.keyring_document import KeyEntry, Place
from heimdall_server.crypto.keyring_file import KeyringFile
from heimdall_server.crypto.live_keys import LiveKeys
from heimdall_server.domain.errors import (
    ConfigurationError,
    HeimdallError,
    InvalidArgumentError,
    KeyMismatchError,
    NotFoundError,
    OperationStateError,
)
from heimdall_server.domain.personal import CLASS_PATTERN, EPOCHS, SealedValue, TokenName
from heimdall_server.ports.keys import KeyEncryption, KeyFacts

_PROBE: Final = "heimdall"
_SYSTEM: Final = "system"


class Keyring:
    """Implements `Tokeniser`, `Sealer`, `KeyAdministration` and `Signer`. Made by `load`.

    Reading (words, seal, open, sign) is thread-safe and takes no lock. Changes belong to the event loop and take turns; one that another
    process made is taken up by the next change.
    """

    def __init__(self, store: KeyStore, keys: LiveKeys, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._keys = keys
        self._now_ns = now_ns
        self._changing = asyncio.Lock()
        self._identity = RootKey(keys.plain["identity", "", 0])
        self._digests = KeyedDigests(self._identity.derive("keyed hashes"))
        self._signing = Ed25519PrivateKey.from_private_bytes(keys.plain["signing", "", 0])

    @classmethod
    async def load(
        cls,
        path: Path,
        kek: KeyEncryption,
        *,
        classes: Iterable[str],
        legacy_root: RootKey | None = None,
        expected_fingerprint: str | None = None,
        marker: Path | None = None,
        former: Sequence[KeyEncryption] = (),
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Keyring:
        """Load the ring, or make it where there never was one.

        Args:
            path: Its file.
            kek: Wraps and unwraps. Stays the caller's to close.
            classes: Each gets a data key if it has none.
            legacy_root: Becomes the journal root of a ring that is made now: the root key of a data folder that is older than keyrings.
            expected_fingerprint: Of the journal root, as the journal tells it; None: there is no journal.
            marker: A file in the data folder that names the ring the data belongs to, written here. Without it a lost ring can't be told
                from one that was never made, where `legacy_root` is still there.
            former: KEKs that may have wrapped some keys: a rotation was cut short.
            now_ns: The clock, in ns since 1970 UTC.

        Raises:
            KeyMismatchError: The KEK is another one, the ring is another one than the data's, or is missing although there is data.
            CorruptionError: The file was changed, or is no keyring.
            ConfigurationError: The file can't be read, or others may use it; or a class has no proper name.
            StoreError: The KEK's service failed, or the file can't be written.
        """
        wanted = _checked(classes)
        store = KeyStore(KeyringFile(path), kek, tuple(former))
        content = await store.read()
        if content is None:
            await asyncio.to_thread(check_marker, marker, "")
            found = "" if legacy_root is None else legacy_root.fingerprint
            if expected_fingerprint is not None and found != expected_fingerprint:
                raise KeyMismatchError(expected_fingerprint, found)
            content = await store.make(legacy_root or RootKey(os.urandom(KEY_BYTES)), now_ns=now_ns())
        keys = await store.load(content, before=None)
        found = keys.root.fingerprint
        if expected_fingerprint is not None and not hmac.compare_digest(found, expected_fingerprint):
            raise KeyMismatchError(expected_fingerprint, found)
        await asyncio.to_thread(check_marker, marker, keys.document.keyring_id)
        await store.clear()
        await asyncio.to_thread(write_marker, marker, keys.document.keyring_id)
        ring = cls(store, keys, now_ns)
        await ring.add_classes(wanted)
        return ring

    @property
    def keyring_id(self) -> str:
        """32 hexadecimal digits."""
        return self._keys.document.keyring_id

    @property
    def root(self) -> RootKey:
        """The journal root."""
        return self._keys.root

    def identity_key(self, purpose: str) -> bytes:
        """32 bytes for a purpose under the identity key, for example `format preserving/phone`. Never changes."""
        return self._identity.derive(f"identity/{purpose}")

    # Tokeniser

    @property
    def live_epochs(self) -> Sequence[int]:
        """Epochs whose tokens may still be stored, the newest last."""
        return tuple(ordinal % len(EPOCHS) for ordinal, _ in self._keys.indexes)

    def words(self, data_class: str, values: Sequence[str]) -> list[str]:
        """The words of canonical values under the newest epoch, in order."""
        return self._keys.indexes[-1][1].words(data_class, values)

    def words_of_all_epochs(self, data_class: str, value: str) -> tuple[str, ...]:
        """A canonical value's word under each live epoch."""
        return tuple(index.words(data_class, (value,))[0] for _, index in self._keys.indexes)

    def digests(self, data_class: str, values: Sequence[str]) -> list[str]:
        """Keyed hashes: 32 hexadecimal digits."""
        return self._digests.digests(data_class, values)

    # Sealer

    def seal(self, data_class: str, words: Sequence[str], values: Sequence[str]) -> list[SealedValue]:
        """Seal values that have these words, in order.

        Raises:
            KeyError: The class has no data key.
        """
        generation, sealed = self.seal_bytes(data_class, words, values)
        return [
            SealedValue(TokenName(data_class, word), generation, content)
            for word, content in zip(words, sealed, strict=True)
        ]

    def seal_bytes(self, data_class: str, words: Sequence[str], values: Sequence[str]) -> tuple[int, list[bytes]]:
        """As `seal`, as columns: the generation and the sealed bytes. Twice as quick, since it makes no objects.

        Raises:
            KeyError: The class has no data key.
        """
        keys = self._keys
        generation = keys.newest[data_class]
        return generation, keys.sealers[data_class, generation].seal(words, values)

    def open(self, value: SealedValue) -> str:
        """The plain value.

        Raises:
            IntegrityError: A byte was changed, or the value belongs to another token, class or generation.
            KeyDestroyedError: Its data key was destroyed.
        """
        return self._keys.sealer_of(value).open(value.name.word, value.sealed)

    def generation(self, data_class: str) -> int:
        """The newest generation of a class."""
        return self._keys.newest[data_class]

    # Signer

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._signing.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """64 bytes (RFC 8032)."""
        return self._signing.sign(message)

    # KeyAdministration

    def list(self) -> Sequence[KeyFacts]:
        """Every key, and the KEKs that wrap them, without anything secret."""
        keys = self._keys
        entries = keys.document.entries
        keks = dict.fromkeys((self._store.kek.key_id, *(entry.wrapped_by for entry in entries if entry.lives)))
        facts = [KeyFacts(kek, "kek", "", 0, "active" if at == 0 else "retired", 0) for at, kek in enumerate(keks)]
        facts.extend(self._facts(keys, entry) for entry in entries)
        return facts

    async def rewrap(self, kek: KeyEncryption) -> None:
        """Wrap all keys under another KEK, or under the newest version of the same. The old one isn't needed afterwards.

        Raises:
            StoreError: A KEK's service failed, or the file can't be written; the ring is as it was.
        """
        async with self._changing:
            keys = await self._refreshed()
            store = KeyStore(self._store.file, kek, (self._store.kek, *self._store.former))
            bare = [replace(entry, wrapped=b"", wrapped_by="") for entry in keys.document.entries if entry.lives]
            self._keys = await store.write(keys, bare, {})
            self._store = KeyStore(self._store.file, kek)

    async def add_classes(self, classes: Iterable[str]) -> None:
        """Give each class a data key that has none.

        Raises:
            ConfigurationError: A class has no proper name.
        """
        wanted = _checked(classes)
        if wanted <= self._keys.newest.keys():
            return
        async with self._changing:
            keys = await self._refreshed()
            await self._add(keys, [("data", name, 1) for name in sorted(wanted - keys.newest.keys())])

    async def new_generation(self, data_class: str) -> int:
        """Make the next data key of a class.

        Raises:
            NotFoundError: No such class.
        """
        async with self._changing:
            keys = await self._refreshed()
            if data_class not in keys.newest:
                raise NotFoundError("data class", data_class)
            generation = keys.newest[data_class] + 1
            await self._add(keys, [("data", data_class, generation)])
            return generation

    async def new_epoch(self) -> int:
        """Make the next index key. Returns the epoch.

        Raises:
            OperationStateError: All 36 epochs are alive.
        """
        async with self._changing:
            keys = await self._refreshed()
            ordinal = keys.indexes[-1][0] + 1
            if any((held - ordinal) % len(EPOCHS) == 0 for held, _ in keys.indexes):
                problem = f"all {len(EPOCHS)} epochs have a key that is still searched; retire the oldest first"
                raise OperationStateError("new index epoch", "refused", problem)
            await self._add(keys, [("index", "", ordinal)])
            return ordinal % len(EPOCHS)

    async def retire_epoch(self, epoch: int, *, actor: str = _SYSTEM) -> None:
        """Destroy an index key. A repeat does nothing.

        Args:
            epoch: Not the newest.
            actor: Who wants it; noted with the key.

        Raises:
            InvalidArgumentError: It is the newest.
            NotFoundError: There never was such an epoch.
        """
        async with self._changing:
            keys = await self._refreshed()
            entries = [e for e in keys.document.entries if e.kind == "index" and e.number % len(EPOCHS) == epoch]
            if not entries:
                raise NotFoundError("index epoch", str(epoch))
            entry = max(entries, key=lambda entry: entry.number)
            await self._destroy(keys, entry, newest=keys.indexes[-1][0], field="epoch", actor=actor)

    async def destroy_generation(self, data_class: str, generation: int, *, actor: str = _SYSTEM) -> int:
        """Destroy a data key for good.

        Args:
            data_class: Whose.
            generation: Not the newest.
            actor: Who wants it; noted with the key.

        Returns:
            When, in ns since 1970 UTC; a repeat returns the first time.

        Raises:
            InvalidArgumentError: It is the newest.
            NotFoundError: There never was such a key.
        """
        async with self._changing:
            keys = await self._refreshed()
            place: Place = ("data", data_class, generation)
            entry = next((entry for entry in keys.document.entries if entry.place == place), None)
            if entry is None:
                raise NotFoundError("data key", f"{data_class} {generation}")
            newest = keys.newest[data_class]
            return await self._destroy(keys, entry, newest=newest, field="generation", actor=actor)

    async def verify(self) -> Sequence[str]:
        """Check the ring: the file's MAC, every wrap under the KEK, that each key does its work, and what lies around the file.

        Returns:
            What is wrong, a sentence each, without anything secret; empty: nothing.
        """
        async with self._changing:
            try:
                content = await self._store.read()
                if content is None:
                    return [f"{self._store.file.path} is missing; don't stop this process: restore the file first"]
                found = await self._store.load(content, before=None)
            except HeimdallError as error:
                return [str(error)]
            problems = [f"{path} was left by a crash" for path in self._store.file.leftovers()]
            if any(
                not hmac.compare_digest(found.plain[place], key)
                for place, key in self._keys.plain.items()
                if place in found.plain
            ):
                problems.append("a key in the file is another one than this process uses; restart it")
            for (data_class, generation), sealer in sorted(found.sealers.items()):
                if sealer.open(_PROBE, sealer.seal([_PROBE], [_PROBE])[0]) != _PROBE:
                    problems.append(
                        f"the data key of {data_class}, generation {generation}, doesn't open what it sealed"
                    )
            try:
                Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.sign(_PROBE.encode()), _PROBE.encode())
            except InvalidSignature:
                problems.append("the signing key's signatures aren't valid")
            return problems

    async def _refreshed(self) -> LiveKeys:
        """The keys as the file has them: another process, or a change that failed half-way, may have written it."""
        content = await self._store.read()
        if content is not None and content != self._keys.content:
            self._keys = await self._store.load(content, before=self._keys)
        return self._keys

    async def _add(self, keys: LiveKeys, places: Sequence[Place]) -> None:
        now_ns = self._now_ns()
        entries = [KeyEntry(*place, created_time_ns=now_ns) for place in places]
        self._keys = await self._store.write(keys, entries, {place: os.urandom(KEY_BYTES) for place in places})

    async def _destroy(self, keys: LiveKeys, entry: KeyEntry, *, newest: int, field: str, actor: str) -> int:
        if not entry.lives:
            # The file of before may still be there, if the first try died in the midst of it.
            await self._store.clear()
            return entry.destroyed_time_ns
        if entry.number == newest:
            raise InvalidArgumentError(field, "must not be the newest: make the next one first")
        now_ns = self._now_ns()
        self._keys = await self._store.write(keys, [entry.destroyed(now_ns, actor)], {})
        return now_ns

    @staticmethod
    def _facts(keys: LiveKeys, entry: KeyEntry) -> KeyFacts:
        newest = {"data": keys.newest.get(entry.data_class, 0), "index": keys.indexes[-1][0]}.get(entry.kind, 0)
        state = ("active" if entry.number == newest else "retired") if entry.lives else "destroyed"
        return KeyFacts(
            key_id=f"{entry.kind}:{entry.data_class}:{entry.number}".replace("::", ":"),
            kind=entry.kind,
            data_class=entry.data_class,
            number=entry.number % len(EPOCHS) if entry.kind == "index" else entry.number,
            state=state,
            created_time_ns=entry.created_time_ns,
            destroyed_time_ns=entry.destroyed_time_ns,
            wrapped_by=entry.wrapped_by,
        )


def _checked(classes: Iterable[str]) -> set[str]:
    wanted = set(classes)
    wrong = sorted(name for name in wanted if re.fullmatch(CLASS_PATTERN, name) is None)
    if wrong:
        raise ConfigurationError(
            tuple(f"data class {name!r}: must be a-z, then a-z 0-9 _, at most 32" for name in wrong)
        )
    return wanted
