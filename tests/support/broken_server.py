"""A server broken on purpose, to see that a test notices: `python -m tests.support.broken_server HOW`.

acknowledges_before_writing     records are acknowledged, and written a while later
forgets_where_sources_stand     frames don't say how far each source is: a resumed source is taken in again
forgets_what_it_answered        frames don't say which exports they answer: an identical retry is stored again
"""

from __future__ import annotations

# Before gRPC is loaded: what the server sets for it in the environment must be there.
from heimdall_server import __main__ as server

# isort: split
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from typing import Final

from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal.journal import EmbeddedJournal

LATE_S: Final = 1.0
"""How long a broken server takes between the two things whose order matters."""

_append = EmbeddedJournal.append
_late: set[asyncio.Task[Sequence[int]]] = set()


async def _acknowledge_before_writing(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    async def write() -> Sequence[int]:
        await asyncio.sleep(LATE_S)
        return await _append(self, entries)

    task = asyncio.create_task(write())
    _late.add(task)
    task.add_done_callback(_late.discard)
    (head,) = self.head().values()
    return [head + number for number in range(1, len(entries) + 1)]


async def _forget_where_sources_stand(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    return await _append(self, [dataclasses.replace(entry, sources=()) for entry in entries])


async def _forget_what_it_answered(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    positions = await _append(self, [dataclasses.replace(entry, requests=()) for entry in entries])
    await asyncio.sleep(LATE_S)  # so that a kill comes between the record and its answer
    return positions


BREAKS: Final = {
    "acknowledges_before_writing": _acknowledge_before_writing,
    "forgets_where_sources_stand": _forget_where_sources_stand,
    "forgets_what_it_answered": _forget_what_it_answered,
}

if __name__ == "__main__":
    EmbeddedJournal.append = BREAKS[sys.argv.pop(1)]  # type: ignore[method-assign]
    server.main()
