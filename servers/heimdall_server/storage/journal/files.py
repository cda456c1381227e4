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
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError, CorruptionError, StoreError
from heimdall_server.storage.journal.disk import OS_DISK, Disk, read_file, write_fully
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
    """Keeps every other process (and every other journal of this one) out of a directory.

    The file names the process while it runs, and itself. So a process that didn't end well is noticed, and so is
    a directory that was copied while one was at work in it: the copy names the file that it was copied from.
    """

    def __init__(self, directory: Path, disk: Disk = OS_DISK) -> None:
        """Take the lock. A process that was killed doesn't hold it any more.

        Raises:
            ConfigurationError: Another process has it.
        """
        self._disk = disk
        self._descriptor = disk.open(directory / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            owner, _, owned = disk.pread(self._descriptor, 128, 0).decode(errors="replace").strip().partition(" ")
            try:
                disk.lock(self._descriptor)
            except BlockingIOError as error:
                problem = (
                    f"journal {directory} is in use by process {owner or 'unknown'}; "
                    "stop it, or configure another directory"
                )
                raise ConfigurationError((problem,)) from error
            identity = disk.identity(self._descriptor)
            self.copied_from = owner if owned and owned != identity else ""
            """Process that was at work in the directory that this one is a copy of; empty: it is no such copy."""
            disk.truncate(self._descriptor, 0)
            write_fully(disk, self._descriptor, f"{os.getpid()} {identity}\n".encode(), 0)
        except BaseException:
            disk.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._disk.truncate(self._descriptor, 0)
            self._disk.close(self._descriptor)
            self._descriptor = -1


def segment_path(directory: Path, sequence: int, suffix: str = "segment") -> Path:
    """The file of a segment, or of what became of it."""
    return directory / f"{sequence:020d}.{suffix}"


def numbered_files(directory: Path, suffix: str, disk: Disk = OS_DISK) -> list[Path]:
    """The files with a suffix, by sequence number."""
    paths = [directory / name for name in disk.names(directory) if name.endswith(f".{suffix}")]
    return sorted(path for path in paths if path.stem.isdigit())


def make_directory(directory: Path, disk: Disk = OS_DISK) -> None:
    """Make a directory, for its owner only, and those above it, durably. Nothing happens if it is there."""
    if disk.is_directory(directory):
        return
    if not disk.is_directory(directory.parent):
        make_directory(directory.parent, disk)
    disk.make_directory(directory)
    disk.sync_directory(directory.parent)


def write_durably(path: Path, data: bytes, disk: Disk = OS_DISK) -> None:
    """Replace a small file: after this it is there, whole, whatever happens; before, the old one is."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = disk.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_fully(disk, descriptor, data, 0)
        disk.fdatasync(descriptor)
    finally:
        disk.close(descriptor)
    disk.rename(draft, path)
    disk.sync_directory(path.parent)


def read_meta(directory: Path, disk: Disk = OS_DISK) -> JournalMeta | None:
    """What the directory says about itself; None if it holds no journal.

    Raises:
        ConfigurationError: A newer version wrote it.
        CorruptionError: It holds segments, but not what they belong to; or that is damaged.
    """
    path = directory / _META
    try:
        value = json.loads(read_file(disk, path))
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
        if disk.is_directory(directory) and numbered_files(directory, "segment", disk):
            raise CorruptionError(f"journal {directory}", f"it has segments but no {_META}") from None
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"journal file {path}", "it isn't what this program writes") from error


def make_meta(directory: Path, *, key_fingerprint: str, now_ns: int, disk: Disk = OS_DISK) -> JournalMeta:
    """Name a new journal, durably."""
    meta = JournalMeta(FORMAT_VERSION, uuid.uuid4().hex, key_fingerprint, now_ns)
    write_durably(directory / _META, json.dumps(asdict(meta), indent=1).encode() + b"\n", disk)
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


def retire(path: Path, *, keep_spare: bool, disk: Disk = OS_DISK) -> Path | None:
    """Take a segment away: first its name, then its key, then its space.

    In this order a crash never leaves a segment that can't be read among those that must be. After an error it is
    called again, and goes on where it stopped.

    Returns:
        The spare file, if it was kept.
    """
    directory = path.parent
    retired = path.with_suffix(".retired")
    if path != retired:
        with contextlib.suppress(FileNotFoundError):
            disk.rename(path, retired)
        disk.sync_directory(directory)
    try:
        descriptor = disk.open(retired, os.O_WRONLY)
    except FileNotFoundError:
        return None
    try:
        # Without the wrapped key in the head nothing in the file can be decrypted any more.
        write_fully(disk, descriptor, bytes(HEAD_ALIGN), 0)
        disk.fdatasync(descriptor)
    finally:
        disk.close(descriptor)
    if not keep_spare:
        disk.unlink(retired)
        return None
    spare = retired.with_suffix(".spare")
    disk.rename(retired, spare)
    return spare


@contextlib.contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn what the operating system says into `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(STORE, f"{action}: {error.strerror or error}") from error
