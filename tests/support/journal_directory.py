"""Journal directories as a crash leaves them, and copies of them with something wrong."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.journal.recovery import Recovered, recover
from tests.support.journal import KEY, ManualClock, crash, small_config


@dataclass(frozen=True)
class Crashed:
    """A directory whose process was killed, with one segment."""

    path: Path
    segment: Path
    offsets: Sequence[int]
    """Where each frame begins, and where the last one ends."""

    def copy(self, path: Path) -> Crashed:
        """The same elsewhere, in place of what was there."""
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)
        return Crashed(path, path / self.segment.name, self.offsets)

    def write(self, offset: int, data: bytes) -> None:
        """Overwrite a part of the segment."""
        with self.segment.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def flip(self, offset: int, bit: int = 0) -> None:
        """Change one bit of the segment."""
        with self.segment.open("r+b") as file:
            file.seek(offset)
            value = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([value ^ 1 << bit]))


async def crashed(path: Path, groups: Sequence[Sequence[Entry]]) -> Crashed:
    """A journal killed after some groups were acknowledged, one after the other."""
    config = small_config(path)
    journal = await EmbeddedJournal.open(config, key=KEY, clock=ManualClock())
    for entries in groups:
        await journal.append(entries)
    active = journal._shelf.active
    assert active.offsets is not None
    offsets = list(active.offsets)
    await crash(journal)
    return Crashed(path, active.path, offsets)


@contextlib.contextmanager
def recovered(path: Path, *, key: RootKey = KEY) -> Iterator[Recovered]:
    """What opening finds; the lock is held for the block."""
    found = recover(small_config(path), key, ManualClock())
    try:
        yield found
    finally:
        found.lock.release()
