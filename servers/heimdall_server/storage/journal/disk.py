"""What the journal asks of a file system, as a port: the real one here, simulated and broken ones in tests.

Descriptors are numbers, errors are `OSError`, calls mean what the system calls of the same name mean. What is
promised is only this: after `fsync` or `fdatasync` of a file its bytes survive a loss of power, and after
`sync_directory` its names do. What wasn't synced may be there, in part, or not, in any order. After a failed
sync the bytes it was for may be gone although reading shows them, until `forget` was called.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

_NO_FALLOCATE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
Data = bytes | bytearray | memoryview


class Disk(Protocol):
    """A file system. Thread-safe."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file, made for its owner only where `os.O_CREAT` says so."""
        ...

    def close(self, descriptor: int) -> None:
        """Close a file; whatever was locked through it isn't any more."""
        ...

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """Read up to so many bytes."""
        ...

    def preadv(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Read into memory; may read less than there is."""
        ...

    def pwrite(self, descriptor: int, data: Data, offset: int) -> int:
        """Write; may write less than it is given."""
        ...

    def size(self, descriptor: int) -> int:
        """The file's size in bytes."""
        ...

    def identity(self, descriptor: int) -> str:
        """What tells this file from a copy of it."""
        ...

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file, or extend it with zeros."""
        ...

    def allocate(self, descriptor: int, size: int) -> None:
        """Reserve blocks up to a size; does nothing where the file system can't."""
        ...

    def fdatasync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        ...

    def fsync(self, descriptor: int) -> None:
        """Make the file's bytes and attributes durable."""
        ...

    def forget(self, descriptor: int) -> None:
        """Drop what is cached of the file, so that reading tells what the disk has."""
        ...

    def lock(self, descriptor: int) -> None:
        """Lock the file for this descriptor alone.

        Raises:
            BlockingIOError: Another one has it.
        """
        ...

    def names(self, directory: Path) -> list[str]:
        """What a directory holds."""
        ...

    def is_directory(self, path: Path) -> bool:
        """Is there such a directory?"""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a directory for its owner only; nothing happens if it is there."""
        ...

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name, in place of a file that has it. Atomic."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a file's name away."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """Make a directory's names durable."""
        ...

    def free_bytes(self, directory: Path) -> int:
        """Room that is left for us."""
        ...


class OsDisk:
    """The operating system's."""

    def open(self, path: Path, flags: int) -> int:
        """See `Disk`."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, descriptor: int) -> None:
        """See `Disk`."""
        os.close(descriptor)

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """See `Disk`."""
        return os.pread(descriptor, count, offset)

    def preadv(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        """See `Disk`."""
        return os.preadv(descriptor, buffers, offset)

    def pwrite(self, descriptor: int, data: Data, offset: int) -> int:
        """See `Disk`."""
        return os.pwrite(descriptor, data, offset)

    def size(self, descriptor: int) -> int:
        """See `Disk`."""
        return os.fstat(descriptor).st_size

    def identity(self, descriptor: int) -> str:
        """See `Disk`. Not the device: its number may change when the machine starts anew."""
        return str(os.fstat(descriptor).st_ino)

    def truncate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(descriptor, size)

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`. Where it isn't supported writing is slower, not less safe."""
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise

    def fdatasync(self, descriptor: int) -> None:
        """See `Disk`."""
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """See `Disk`."""
        os.fsync(descriptor)

    def forget(self, descriptor: int) -> None:
        """See `Disk`. Only clean pages go, so it follows a sync."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def lock(self, descriptor: int) -> None:
        """See `Disk`."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def names(self, directory: Path) -> list[str]:
        """See `Disk`."""
        return [path.name for path in directory.iterdir()]

    def is_directory(self, path: Path) -> bool:
        """See `Disk`."""
        return path.is_dir()

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        path.mkdir(mode=0o700, exist_ok=True)

    def rename(self, path: Path, to: Path) -> None:
        """See `Disk`."""
        path.replace(to)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink()

    def sync_directory(self, directory: Path) -> None:
        """See `Disk`."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, directory: Path) -> int:
        """See `Disk`."""
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize


OS_DISK: Final = OsDisk()


def write_fully(disk: Disk, descriptor: int, data: Data, offset: int) -> None:
    """Write all of it, however little the disk takes at a time.

    Raises:
        OSError: Some of it may have been written.
    """
    rest = memoryview(data)
    while rest:
        count = disk.pwrite(descriptor, rest, offset)
        if count == 0:
            raise OSError(errno.EIO, "nothing was written")
        offset += count
        rest = rest[count:]


def read_fully(disk: Disk, descriptor: int, out: memoryview, offset: int) -> bool:
    """Fill memory from a file.

    Returns:
        False if the file ends first.
    """
    done = 0
    while done < len(out):
        count = disk.preadv(descriptor, [out[done:]], offset + done)
        if count == 0:
            return False
        done += count
    return True


def read_file(disk: Disk, path: Path) -> bytes:
    """All of a small file.

    Raises:
        FileNotFoundError: There is none.
    """
    descriptor = disk.open(path, os.O_RDONLY)
    try:
        data = bytearray(disk.size(descriptor))
        if not read_fully(disk, descriptor, memoryview(data), 0):
            raise OSError(errno.EIO, "the file ends early")
        return bytes(data)
    finally:
        disk.close(descriptor)
