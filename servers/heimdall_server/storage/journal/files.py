"""The files of a journal's directory: their names, the lock, what the journal is called, durable renames.

LOCK                        held by the one process that may use the directory; names its pid
journal.json                format version, journal id, fingerprint of the key; written once
<20 digits>.segment         a segment; the digits are its sequence number
<20 digits>.new             a segment in the making; removed on open
<20 digits>.retired         a segment being taken away; finished on open
<20 digits>.spare           a former segment, its key destroyed, kept for reuse
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError, CorruptionError, StoreError
from heimdall_server.storage.journal.framing import FORMAT_VERSION, HEAD_ALIGN

STORE: Final = "journal"
"""Its name in a `StoreError`."""
_META: Final = "journal.json"
_LOCK: Final = "LOCK"


@dataclass(frozen=True, slots=True)
class JournalMeta:
    """What a journal's directory says about itself."""

    format_version: int
    journal_id: str
    """32 hexadecimal digits."""
    key_fingerprint: str
    """Of the root key that its segments' keys are wrapped under."""
    created_time_ns: int


class DirectoryLock:
    """Keeps every other process (and every other journal of this one) out of a directory."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            ConfigurationError: Another process has it.
        """
        self._descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            problem = f"journal {directory} is in use by process {owner}; stop it, or configure another directory"
            raise ConfigurationError((problem,)) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def segment_path(directory: Path, sequence: int, suffix: str = "segment") -> Path:
    """The file of a segment, or of what became of it."""
    return directory / f"{sequence:020d}.{suffix}"


def numbered_files(directory: Path, suffix: str) -> list[Path]:
    """The files with a suffix, by sequence number."""
    return sorted(path for path in directory.glob(f"*.{suffix}") if path.stem.isdigit())


def fsync_directory(directory: Path) -> None:
    """Make names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory, for its owner only, and those above it, durably. Nothing happens if it is there."""
    if directory.is_dir():
        return
    if not directory.parent.is_dir():
        make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    fsync_directory(directory.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a small file: after this it is there, whole, whatever happens; before, the old one is."""
    draft = path.with_name(f".{path.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
    draft.replace(path)
    fsync_directory(path.parent)


def read_meta(directory: Path) -> JournalMeta | None:
    """What the directory says about itself; None if it holds no journal.

    Raises:
        ConfigurationError: A newer version wrote it.
        CorruptionError: It holds segments, but not what they belong to; or that is damaged.
    """
    path = directory / _META
    try:
        value = json.loads(path.read_bytes())
        version = int(value["format_version"])
        if version > FORMAT_VERSION:
            raise newer_format(str(directory), version)
        return JournalMeta(
            format_version=version,
            journal_id=uuid.UUID(value["journal_id"]).hex,
            key_fingerprint=str(value["key_fingerprint"]),
            created_time_ns=int(value["created_time_ns"]),
        )
    except FileNotFoundError:
        if directory.is_dir() and numbered_files(directory, "segment"):
            raise CorruptionError(f"journal {directory}", f"it has segments but no {_META}") from None
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"journal file {path}", "it isn't what this program writes") from error


def make_meta(directory: Path, *, key_fingerprint: str, now_ns: int) -> JournalMeta:
    """Name a new journal, durably."""
    meta = JournalMeta(FORMAT_VERSION, uuid.uuid4().hex, key_fingerprint, now_ns)
    write_durably(directory / _META, json.dumps(asdict(meta), indent=1).encode() + b"\n")
    return meta


def stored_fingerprint(directory: Path) -> str | None:
    """The fingerprint of the key that a directory's journal was written with; None if it holds no journal.

    Raises:
        As `read_meta`.
    """
    meta = read_meta(directory)
    return None if meta is None else meta.key_fingerprint


def newer_format(place: str, version: int) -> ConfigurationError:
    """The error for what a newer version wrote."""
    problem = f"journal {place} has format {version}, this server reads up to {FORMAT_VERSION}; upgrade the server"
    return ConfigurationError((problem,))


def retire(path: Path, *, keep_spare: bool) -> Path | None:
    """Take a segment away: first its name, then its key, then its space.

    In this order a crash never leaves a segment that can't be read among those that must be.

    Returns:
        The spare file, if it was kept.
    """
    directory = path.parent
    retired = path.with_suffix(".retired")
    if path != retired:
        path.replace(retired)
        fsync_directory(directory)
    descriptor = os.open(retired, os.O_WRONLY)
    try:
        # Without the wrapped key in the head nothing in the file can be decrypted any more.
        os.pwrite(descriptor, bytes(HEAD_ALIGN), 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    if not keep_spare:
        retired.unlink()
        return None
    spare = retired.with_suffix(".spare")
    retired.replace(spare)
    return spare


@contextlib.contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn what the operating system says into `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(STORE, f"{action}: {error.strerror or error}") from error
