"""A process that appends to a journal and prints each position once it is acknowledged. Made to be killed.

python -m tests.support.journal_feeder DIRECTORY
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import KEY, LastOffsets, make_entry, small_config

WRITERS = 8
_SEGMENT_BYTES = 256 * 1024


class SystemClock:
    """The time that everybody has."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()


async def _write(journal: EmbeddedJournal, name: str) -> None:
    for number in itertools.count():
        rows = 1 + number % 40
        (position,) = await journal.append([make_entry(f"{name}-{number}", rows=rows, body_bytes=200)])
        # One write call, so that a line is there whole or not at all.
        os.write(sys.stdout.fileno(), f"{position} {name}-{number} {rows}\n".encode())


async def _main(directory: Path) -> None:
    config = small_config(directory, segment_bytes=_SEGMENT_BYTES, bytes_max=1 << 30, retain_bytes=1 << 30)
    journal = await EmbeddedJournal.open(config, key=KEY, clock=SystemClock())
    await journal.maintain(LastOffsets())
    async with asyncio.TaskGroup() as tasks:
        for writer in range(WRITERS):
            tasks.create_task(_write(journal, f"{os.getpid()}-{writer}"))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
