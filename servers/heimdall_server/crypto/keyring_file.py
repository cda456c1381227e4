"""The keyring's file: replaced whole or not at all, and what stood in the file before is overwritten.

A replacement takes these steps; a crash between any two leaves the old or the new file, and the next to open it finishes the rest:

1. Write a draft beside it (0600) and make it durable.
2. Give the present file a second name, so that it can still be found when it has lost its first.
3. Move the draft over the first name; make the folder durable. From here on the change is made.
4. Overwrite the blocks behind the second name with random bytes, make that durable, remove the name.

Step 4 is what destroys a key: its wrapped bytes are in no file any more. It can promise that only where the disk overwrites in place.
An SSD remaps blocks, copy-on-write file systems (Btrfs, ZFS) and snapshots keep old ones, and a backup has its own copy. There the key
is out of reach as far as the KEK is: rotate the KEK after a destruction (and let go of the old one) to make old copies of the file
worthless.

All calls block; the caller runs them in a thread. Processes that share the file take turns by a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError, StoreError

FILE_BYTES_MAX: Final = 64 << 20
_STORE: Final = "keyring"


@dataclass(frozen=True, slots=True)
class KeyringFile:
    """One file and what stands around it while it changes."""

    path: Path

    def read(self) -> bytes | None:
        """The file; None: there is none.

        Raises:
            ConfigurationError: Unreadable, too large, or others than its owner may use it.
        """
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                content = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError((f"keyring {self.path}: {error.strerror}",)) from error
        if facts.st_mode & 0o077:
            problem = f"keyring {self.path}: others than its owner may use it; run chmod 600 on it"
            raise ConfigurationError((problem,))
        if len(content) > FILE_BYTES_MAX:
            raise ConfigurationError((f"keyring {self.path}: over {FILE_BYTES_MAX} bytes, not a keyring",))
        return content

    def replace(self, content: bytes, *, expected: bytes | None) -> None:
        """Put a new file in place of the one that is there, durable before this returns.

        Args:
            content: The new file.
            expected: The file as the caller knows it; None: there is none.

        Raises:
            StoreError: It can't be written, or isn't what was expected: another process changed it.
        """
        with self._locked():
            self._clear()
            if self.read() != expected:
                raise StoreError(
                    _STORE, f"{self.path} is missing, or was changed by another process meanwhile; try again"
                )
            draft = self._beside(f"draft-{secrets.token_hex(8)}")
            _write_new(draft, content)
            if expected is not None:
                os.link(self.path, self._old)
                sync_folder(self.path.parent)
            draft.replace(self.path)
            sync_folder(self.path.parent)
            if expected is None:
                sync_folder(self.path.parent.parent)
            self._clear()

    def clear(self) -> None:
        """Finish what a crash left undone: overwrite and remove drafts and the file of before. Idempotent.

        Raises:
            StoreError: They can't be written.
        """
        if self.path.parent.exists():
            with self._locked():
                self._clear()

    def leftovers(self) -> list[Path]:
        """Drafts and files of before that are still there."""
        found = list(self.path.parent.glob(f".{self.path.name}.draft-*"))
        return [*found, self._old] if self._old.exists() else found

    @property
    def _old(self) -> Path:
        return self._beside("old")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")

    def _clear(self) -> None:
        for leftover in self.leftovers():
            # Before step 3 both names are of one file, which is still in use.
            if not (self.path.exists() and leftover.samefile(self.path)):
                overwrite(leftover)
            leftover.unlink()
            sync_folder(self.path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(_STORE, f"{self.path} can't be changed: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def overwrite(path: Path) -> None:
    """Put random bytes over a file's own, durably."""
    with path.open("r+b") as file:
        file.write(os.urandom(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
