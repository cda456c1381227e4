"""From settings to an open keyring: makes the KEK's adapter, takes over data folders that are older than keyrings, ends rotations.

Three ways to change the KEK, each of which may die at any point and goes on at the next start or call:

* a key file: `rotate_key_file`; the new key lies at `<file>.next` until all is wrapped under it, then takes the file's name;
* another kind, key or value: the settings name it as the *next* one; `rotate_kek` wraps all under it, and from then on, whatever stands
  first in the settings, the ring itself tells that the next one opens it;
* a new version of the same key in Vault or KMS: `Keyring.rewrap` with the adapter that is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.key_file import load_key, mint_key, parse_key
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.crypto.keyring_document import decode
from heimdall_server.crypto.keyring_file import KeyringFile, overwrite, sync_folder
from heimdall_server.crypto.live_keys import ROOT_PLACE
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError, OperationStateError, StoreError
from heimdall_server.ports.keys import KeyEncryption


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Where keys lie, and what the data says about them."""

    keyring: Path
    """The ring's file, beside the data."""
    key_file: Path
    """The key file where settings name none: the KEK of kind `file`; before keyrings, the journal's root."""
    marker: Path
    """In the data folder: names the ring that the data belongs to."""
    expected_fingerprint: str | None
    """Of the journal's root, as the journal tells it; None: there is no journal."""

    @property
    def are_new(self) -> bool:
        """Whether nothing was ever encrypted here, so that keys may be made."""
        return self.expected_fingerprint is None and not self.keyring.exists() and not self.marker.exists()


@dataclass(frozen=True, slots=True)
class OpenKeyring:
    """A ring and the KEK that wraps it."""

    keyring: Keyring
    kek: KeyEncryption
    config: KekConfig
    """Of that KEK: the next one's, once a rotation to it was made."""

    async def close(self) -> None:
        """Let go of the KEK's connections. Idempotent."""
        await self.kek.close()


async def open_keyring(
    config: KekConfig, places: KeyPlaces, *, classes: Collection[str], next_config: KekConfig | None = None
) -> OpenKeyring:
    """Open the ring of a data folder, or make it where there is no data yet.

    Args:
        config: The KEK.
        places: Where keys lie.
        classes: Each gets a data key if it has none.
        next_config: The KEK to which `rotate_kek` goes. Where it has been there already, it is the one in use.

    Raises:
        KeyMismatchError: A key is missing or another one than the data's.
        CorruptionError: The ring was changed.
        ConfigurationError: Settings or files that can't be used.
        StoreError: The KEK's service failed or was too slow, or the ring can't be written.
    """
    wrapped_by = await asyncio.to_thread(_wrapped_by, places.keyring)
    async with contextlib.AsyncExitStack() as on_failure:
        in_use = config
        if next_config is not None and wrapped_by and await _is_under(next_config, places, wrapped_by):
            in_use = next_config
        kek = await asyncio.to_thread(_make, in_use, places, mint=places.are_new)
        on_failure.push_async_callback(kek.close)
        try:
            async with asyncio.timeout(in_use.open_s):
                keyring, kek = await _open(in_use, kek, places, classes)
        except TimeoutError as error:
            problem = f"{kek.key_id} didn't open the keyring within {in_use.open_s:g} s; is the service overloaded?"
            raise StoreError("key-encryption key", problem) from error
        on_failure.pop_all()
        return OpenKeyring(keyring, kek, in_use)


async def _open(
    config: KekConfig, kek: KeyEncryption, places: KeyPlaces, classes: Collection[str]
) -> tuple[Keyring, KeyEncryption]:
    file = config.file or places.key_file
    # A rotation of the key file that was cut short has left the new key there.
    draft = await asyncio.to_thread(load_key, _next(file)) if config.kind == "file" else None
    root = None if places.are_new else await asyncio.to_thread(_legacy_root, config, places)
    keyring = await Keyring.load(
        places.keyring,
        kek,
        classes=classes,
        legacy_root=root,
        expected_fingerprint=places.expected_fingerprint,
        marker=places.marker,
        former=[] if draft is None else [LocalKeyEncryption(draft)],
    )
    if draft is not None:
        return keyring, await rotate_key_file(keyring, file)
    if config.kind == "file":
        await asyncio.to_thread(_sweep, file)
    if any(not _wraps(kek, fact.wrapped_by) for fact in keyring.list() if fact.wrapped_by):
        await keyring.rewrap(kek)
    return keyring, kek


async def rotate_key_file(keyring: Keyring, file: Path) -> LocalKeyEncryption:
    """Wrap the ring under a new key file. A repeat after a crash goes on where that one stopped.

    Args:
        keyring: The ring.
        file: The key file.

    Returns:
        The new KEK.

    Raises:
        ConfigurationError: The key file can't be made.
        StoreError: The ring can't be written.
    """
    draft = _next(file)
    key = await asyncio.to_thread(load_key, draft)
    if key is None:
        key = await asyncio.to_thread(mint_key, draft)
    kek = LocalKeyEncryption(key)
    await keyring.rewrap(kek)
    await asyncio.to_thread(_move, draft, file)
    return kek


async def rotate_kek(opened: OpenKeyring, places: KeyPlaces, next_config: KekConfig | None = None) -> OpenKeyring:
    """What `keys rotate kek` does: the next KEK of the settings, a new key file, or the newest version of the service's key.

    Args:
        opened: The ring as it is; its KEK is closed where another one takes its place.
        places: Where keys lie.
        next_config: The next KEK; None, or already in use: the one in use is renewed.

    Raises:
        OperationStateError: The key comes from the environment: only whoever sets that can change it.
        StoreError, ConfigurationError: As `rotate_key_file` and `Keyring.rewrap`; the ring is as it was.
    """
    if next_config is not None and next_config != opened.config:
        next_kek = await asyncio.to_thread(_make, next_config, places, mint=True)
        async with contextlib.AsyncExitStack() as on_failure:
            on_failure.push_async_callback(next_kek.close)
            await opened.keyring.rewrap(next_kek)
            on_failure.pop_all()
        await opened.kek.close()
        return OpenKeyring(opened.keyring, next_kek, next_config)
    config = opened.config
    if config.kind == "env":
        problem = "the key comes from the environment; give the new one as keys.next"
        raise OperationStateError("rotation of the KEK", "refused", problem)
    if config.kind == "file":
        kek = await rotate_key_file(opened.keyring, config.file or places.key_file)
        return OpenKeyring(opened.keyring, kek, config)
    await opened.keyring.rewrap(opened.kek)
    return opened


def make_key_encryption(config: KekConfig, root: RootKey | None) -> KeyEncryption:
    """The adapter of a kind.

    Args:
        config: The settings.
        root: The key itself, for the kinds that hold it here.

    Raises:
        ConfigurationError: Settings that can't be used.
    """
    # The services' clients are imported where they are wanted: they cost half a second and 30 MB.
    if config.kind == "aws_kms":
        from heimdall_server.crypto.key_encryption.aws_kms import AwsKmsKeyEncryption

        return AwsKmsKeyEncryption(config)
    if config.kind == "vault_transit":
        from heimdall_server.crypto.key_encryption.vault_transit import VaultTransitKeyEncryption

        return VaultTransitKeyEncryption(config)
    if root is None:
        raise ConfigurationError((f"kek.kind: {config.kind!r} needs a key",))
    return LocalKeyEncryption(root)


def _make(config: KekConfig, places: KeyPlaces, *, mint: bool) -> KeyEncryption:
    root: RootKey | None = None
    if config.kind == "env":
        root = _parsed(config)
    elif config.kind == "file":
        file = config.file or places.key_file
        root = load_key(file)
        if root is None and mint:
            root = mint_key(file)
        if root is None:
            raise KeyMismatchError(places.expected_fingerprint or "of the keyring", "")
    return make_key_encryption(config, root)


async def _is_under(config: KekConfig, places: KeyPlaces, wrapped_by: str) -> bool:
    """Whether the ring says that it is under this KEK; the unwrapping itself is the proof."""
    file = config.file or places.key_file
    if config.kind == "file" and not await asyncio.to_thread(file.exists):
        return False
    kek = await asyncio.to_thread(_make, config, places, mint=False)
    await kek.close()
    return _wraps(kek, wrapped_by)


def _wrapped_by(path: Path) -> str:
    """What a ring names as the KEK of its journal root; empty: there is no ring."""
    content = KeyringFile(path).read()
    if content is None:
        return ""
    document, _ = decode(content, place=str(path))
    return next((entry.wrapped_by for entry in document.entries if entry.place == ROOT_PLACE), "")


def _legacy_root(config: KekConfig, places: KeyPlaces) -> RootKey | None:
    """The root of a data folder that has no keyring yet."""
    if places.keyring.exists():
        return None
    if config.kind == "env":
        return _parsed(config)
    if config.kind == "file" and config.file is not None:
        return load_key(config.file)
    return load_key(places.key_file)


def _parsed(config: KekConfig) -> RootKey:
    text = "" if config.value is None else config.value.get_secret_value()
    return parse_key(text, where="the key-encryption key of the environment")


def _wraps(kek: KeyEncryption, wrapped_by: str) -> bool:
    """Whether an entry is under this KEK, in whatever version."""
    return wrapped_by == kek.key_id or wrapped_by.startswith(f"{kek.key_id}:")


def _next(file: Path) -> Path:
    return file.with_name(f"{file.name}.next")


def _move(draft: Path, file: Path) -> None:
    """Put the new key in place of the old one, whose blocks are overwritten."""
    try:
        content = draft.read_bytes()
        target = KeyringFile(file)
        before = target.read()
        if before != content:
            target.replace(content, expected=before)
        # Under another name first: a crash must not leave something there that is no key.
        draft.replace(draft.with_name(f".{draft.name}.gone"))
        sync_folder(file.parent)
    except OSError as error:
        raise StoreError("key file", f"{file} can't be replaced: {error.strerror}") from error
    _sweep(file)


def _sweep(file: Path) -> None:
    """Overwrite and remove what a rotation that was cut short has left beside a key file."""
    for leftover in list(file.parent.glob(f".{_next(file).name}.*")):
        try:
            overwrite(leftover)
            leftover.unlink()
            sync_folder(file.parent)
        except OSError as error:
            raise StoreError("key file", f"{leftover} can't be removed: {error.strerror}") from error
