"""A disk in memory that fails by a seed, and that knows what a loss of power leaves of what wasn't synced.

A file is what reading shows (`cache`), what the disk has (`stored`) and the changes in between. A loss of power
keeps any of those changes, sector by sector, in any order; of a directory any of the names. After a failed sync
of a file its changes are neither kept nor remembered: reading shows them, a later sync doesn't write them. That
is what Linux does. A failed sync of a directory keeps them for the next one: file systems log names.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
Change = Callable[[bytearray], None]


class PowerCutError(Exception):
    """The process or the machine is gone; nothing it does has any effect any more."""


@dataclass(eq=False)
class SimFile:
    """A file, whatever it is called."""

    number: int
    cache: bytearray = field(default_factory=bytearray)
    stored: bytearray = field(default_factory=bytearray)
    dirty: list[Change] = field(default_factory=list)
    locked_by: int = 0

    def change(self, change: Change) -> None:
        """Change what reading shows."""
        change(self.cache)
        self.dirty.append(change)

    def store(self) -> None:
        """All changes reach the disk."""
        for change in self.dirty:
            change(self.stored)
        self.dirty.clear()

    def store_some(self, chance: random.Random) -> None:
        """Any changes reach the disk, the others are lost."""
        states = [bytes(self.stored)]
        for change in self.dirty:
            change(self.stored)
            states.append(bytes(self.stored))
        self.dirty.clear()
        likely = chance.choice((0.0, 0.3, 0.7, 1.0))

        def pick() -> bytes:
            return states[-1] if chance.random() < likely else chance.choice(states)

        size = len(pick())
        found = bytearray(states[0][:size].ljust(size, b"\0"))
        for start in range(0, size, SECTOR):
            sectors = [state[start : start + SECTOR] for state in (states[0], states[-1])]
            if len(states) > 2 or sectors[0] != sectors[1]:
                kept = pick()[start : start + SECTOR]
                found[start : start + SECTOR] = kept.ljust(min(SECTOR, size - start), b"\0")[: size - start]
        self.stored = found


@dataclass(eq=False)
class SimDirectory:
    """A directory: its names, and those that the disk has."""

    names: dict[str, SimFile | SimDirectory] = field(default_factory=dict)
    stored: dict[str, SimFile | SimDirectory] = field(default_factory=dict)
    dirty: list[tuple[SimFile | SimDirectory, str, str]] = field(default_factory=list)
    """What, its old name or nothing, its new name or nothing."""

    def change(self, node: SimFile | SimDirectory, old: str, new: str) -> None:
        """Link, rename, unlink."""
        _move(self.names, node, old, new)
        self.dirty.append((node, old, new))

    def store(self) -> None:
        """All changes reach the disk."""
        for node, old, new in self.dirty:
            _move(self.stored, node, old, new)
        self.dirty.clear()

    def store_some(self, chance: random.Random, *, forget: bool) -> None:
        """Any changes reach the disk, a rename whole or not at all."""
        likely = chance.choice((0.0, 0.5, 1.0))
        for node, old, new in self.dirty:
            if chance.random() < likely:
                _move(self.stored, node, old, new)
        if forget:
            self.dirty.clear()


def _move(names: dict[str, SimFile | SimDirectory], node: SimFile | SimDirectory, old: str, new: str) -> None:
    if old and names.get(old) is not node:
        return
    if old:
        del names[old]
    if new:
        names[new] = node


@dataclass
class Faults:
    """How often which call fails, from 0 to 1."""

    write: float = 0.0
    short_write: float = 0.0
    sync: float = 0.0
    directory: float = 0.0
    """Rename, unlink, sync of a directory."""
    read: float = 0.0
    no_space: float = 0.0
    """Writes and allocations."""
    fatal: float = 0.0
    """How often the process dies of a failed call, at its next change."""


class SimDisk:
    """A `Disk`. What fails, and what is left, follows from the seed and the calls alone."""

    def __init__(self, seed: str) -> None:
        self.faults = Faults()
        self.failures = 0
        """How many calls failed."""
        self.free = 1 << 40
        self.root = SimDirectory()
        self._chance = random.Random(seed)
        self._reading = random.Random(f"{seed} reading")
        self._cut_after = -1
        self._gone = False
        self._open: dict[int, SimFile] = {}
        self._next = 3

    @property
    def gone(self) -> bool:
        """The process or the machine is gone."""
        return self._gone

    def cut_after(self, changes: int) -> None:
        """The process dies at so many changes from now; -1: it doesn't."""
        self._cut_after = changes

    def kill(self) -> None:
        """The process dies now."""
        self._gone = True

    def restart(self, *, lost_power: bool) -> None:
        """A new process, after a loss of power on what that left."""
        if lost_power:
            self._lose_power(self.root)
        self._open.clear()
        self._gone, self._cut_after = False, -1

    def files(self, directory: Path) -> dict[str, SimFile]:
        """The files of a directory; none where there is no directory."""
        try:
            names = self._directory(directory).names
        except FileNotFoundError:
            return {}
        return {name: node for name, node in names.items() if isinstance(node, SimFile)}

    def open(self, path: Path, flags: int) -> int:
        self._check()
        directory = self._directory(path.parent)
        node = directory.names.get(path.name)
        if node is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            self._changing(self.faults.directory)
            self._next += 1
            node = SimFile(self._next)
            directory.change(node, "", path.name)
        assert isinstance(node, SimFile)
        if flags & os.O_TRUNC:
            node.change(_sized(0))
        self._next += 1
        self._open[self._next] = node
        return self._next

    def close(self, descriptor: int) -> None:
        if not self._gone:
            file = self._open.pop(descriptor)
            if file.locked_by == descriptor:
                file.locked_by = 0

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return bytes(self._read(descriptor)[offset : offset + count])

    def preadv(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        (out,) = buffers
        found = self._read(descriptor)[offset : offset + len(out)]
        if len(found) > 1 and self._reading.random() < self.faults.short_write:
            found = found[: self._reading.randrange(1, len(found))]
        out[: len(found)] = found
        return len(found)

    def pwrite(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        kept = bytes(data)
        if len(kept) > 1 and self._chance.random() < self.faults.short_write:
            kept = kept[: self._chance.randrange(1, len(kept))]
        file = self._open_file(descriptor)
        self._changing(self.faults.write, no_space=True, partly=lambda: file.change(_written(kept, offset)))
        file.change(_written(kept, offset))
        return len(kept)

    def size(self, descriptor: int) -> int:
        return len(self._open_file(descriptor).cache)

    def identity(self, descriptor: int) -> str:
        return str(self._open_file(descriptor).number)

    def truncate(self, descriptor: int, size: int) -> None:
        file = self._open_file(descriptor)
        self._changing(self.faults.write)
        file.change(_sized(size))

    def allocate(self, descriptor: int, size: int) -> None:
        file = self._open_file(descriptor)
        self._changing(self.faults.write, no_space=True)
        if size > len(file.cache):
            file.change(_sized(size))

    def fdatasync(self, descriptor: int) -> None:
        self._sync(self._open_file(descriptor))

    def fsync(self, descriptor: int) -> None:
        self._sync(self._open_file(descriptor))

    def forget(self, descriptor: int) -> None:
        file = self._open_file(descriptor)
        file.cache = bytearray(file.stored)
        for change in file.dirty:
            change(file.cache)

    def lock(self, descriptor: int) -> None:
        file = self._open_file(descriptor)
        if file.locked_by in self._open:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        file.locked_by = descriptor

    def names(self, directory: Path) -> list[str]:
        self._check()
        return list(self._directory(directory).names)

    def is_directory(self, path: Path) -> bool:
        self._check()
        try:
            self._directory(path)
        except FileNotFoundError:
            return False
        return True

    def make_directory(self, path: Path) -> None:
        parent = self._directory(path.parent)
        self._changing(self.faults.directory)
        if path.name not in parent.names:
            parent.change(SimDirectory(), "", path.name)

    def rename(self, path: Path, to: Path) -> None:
        assert path.parent == to.parent
        directory = self._directory(path.parent)
        if path.name not in directory.names:
            self._check()
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._changing(self.faults.directory)
        directory.change(directory.names[path.name], path.name, to.name)

    def unlink(self, path: Path) -> None:
        directory = self._directory(path.parent)
        if path.name not in directory.names:
            self._check()
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._changing(self.faults.directory)
        directory.change(directory.names[path.name], path.name, "")

    def sync_directory(self, directory: Path) -> None:
        found = self._directory(directory)
        self._changing(self.faults.directory, partly=lambda: found.store_some(self._chance, forget=False))
        found.store()

    def free_bytes(self, directory: Path) -> int:
        self._directory(directory)
        self._check()
        return self.free

    def _sync(self, file: SimFile) -> None:
        self._changing(self.faults.sync, partly=lambda: file.store_some(self._chance))
        file.store()

    def _changing(self, rate: float, *, no_space: bool = False, partly: Callable[[], None] | None = None) -> None:
        """Something is about to change: maybe it fails, or the process dies, with some of it done."""
        self._check()
        if self._cut_after == 0:
            if partly is not None and self._chance.random() < 0.5:
                partly()
            self._gone = True
            raise PowerCutError
        self._cut_after -= self._cut_after > 0
        full = no_space and self._chance.random() < self.faults.no_space
        if not full and self._chance.random() >= rate:
            return
        self.failures += 1
        if self._chance.random() < self.faults.fatal:
            self._cut_after = 0
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if partly is not None:
            partly()
        raise OSError(errno.EIO, "Input/output error")

    def _read(self, descriptor: int) -> bytearray:
        file = self._open_file(descriptor)
        if self._reading.random() < self.faults.read:
            self.failures += 1
            raise OSError(errno.EIO, "Input/output error")
        return file.cache

    def _check(self) -> None:
        if self._gone:
            raise PowerCutError

    def _open_file(self, descriptor: int) -> SimFile:
        self._check()
        return self._open[descriptor]

    def _directory(self, path: Path) -> SimDirectory:
        found: SimFile | SimDirectory | None = self.root
        for part in path.parts[1:]:
            found = found.names.get(part) if isinstance(found, SimDirectory) else None
        if not isinstance(found, SimDirectory):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return found

    def _lose_power(self, directory: SimDirectory) -> None:
        directory.store_some(self._chance, forget=True)
        directory.names = dict(directory.stored)
        for node in directory.names.values():
            if isinstance(node, SimDirectory):
                self._lose_power(node)
            else:
                node.store_some(self._chance)
                node.cache = bytearray(node.stored)


def _written(data: bytes, offset: int) -> Change:
    def change(content: bytearray) -> None:
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    return change


def _sized(size: int) -> Change:
    def change(content: bytearray) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    return change
