"""A server broken on purpose, to see that a test notices: `python -m tests.support.broken_server HOW`.

acknowledges_before_writing     records are acknowledged, and written a while later
forgets_where_sources_stand     frames don't say how far each source is: a resumed source is taken in again
forgets_what_it_answered        frames don't say which exports they answer: an identical retry is stored again
waits_for_whoever_stays         told to end, it waits for streams that nobody told
acknowledges_at_its_end         told to end, it acknowledges what still comes in, and writes none of it
leaves_at_once                  told to end, it waits for nothing and cuts everybody off
trips_at_its_end                told to end, it fails once everything is done
"""

from __future__ import annotations

# Before gRPC is loaded: what the server sets for it in the environment must be there.
from heimdall_server import __main__ as server

# isort: split
import asyncio
import dataclasses
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final
from unittest import mock

from heimdall_server.ports.journal import Entry
from heimdall_server.rpc.server import RpcServer
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring import process, shutdown

Append = Callable[[EmbeddedJournal, Sequence[Entry]], Coroutine[Any, Any, Sequence[int]]]

LATE_S: Final = 1.0
"""How long a broken server takes between the two things whose order matters."""

_append: Final[Append] = EmbeddedJournal.append
_late: set[asyncio.Task[Sequence[int]]] = set()


def _unwritten(journal: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    """Where entries would stand."""
    (head,) = journal.head().values()
    return [head + number for number in range(1, len(entries) + 1)]


async def _acknowledge_before_writing(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    async def write() -> Sequence[int]:
        await asyncio.sleep(LATE_S)
        return await _append(self, entries)

    task = asyncio.create_task(write())
    _late.add(task)
    task.add_done_callback(_late.discard)
    return _unwritten(self, entries)


async def _forget_where_sources_stand(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    return await _append(self, [dataclasses.replace(entry, sources=()) for entry in entries])


async def _forget_what_it_answered(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
    positions = await _append(self, [dataclasses.replace(entry, requests=()) for entry in entries])
    await asyncio.sleep(LATE_S)  # so that a kill comes between the record and its answer
    return positions


def _appends(append: Append) -> Callable[[], None]:
    return lambda: _replace(EmbeddedJournal, "append", append)


def _replace(where: object, name: str, by: Callable[..., object]) -> None:
    mock.patch.object(where, name, by).start()


def _wait_for_whoever_stays() -> None:
    async def drain(self: RpcServer, timeout_s: float | None = None) -> bool:
        del timeout_s
        return await self.admission.wait_idle(float("inf"))

    _replace(RpcServer, "drain", drain)


def _acknowledge_at_its_end() -> None:
    async def append(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
        return _unwritten(self, entries)

    async def drain(*parts: Any) -> None:
        _replace(EmbeddedJournal, "append", append)
        await asyncio.sleep(LATE_S)
        await shutdown.drain(*parts)

    _replace(process, "drain", drain)


def _leave_at_once() -> None:
    async def drain(*_: Any) -> None:
        return

    _replace(process, "drain", drain)


def _trip_at_its_end() -> None:
    async def drain(*parts: Any) -> None:
        await shutdown.drain(*parts)
        msg = "broken on purpose"
        raise RuntimeError(msg)

    _replace(process, "drain", drain)


BREAKS: Final[dict[str, Callable[[], None]]] = {
    "acknowledges_before_writing": _appends(_acknowledge_before_writing),
    "forgets_where_sources_stand": _appends(_forget_where_sources_stand),
    "forgets_what_it_answered": _appends(_forget_what_it_answered),
    "waits_for_whoever_stays": _wait_for_whoever_stays,
    "acknowledges_at_its_end": _acknowledge_at_its_end,
    "leaves_at_once": _leave_at_once,
    "trips_at_its_end": _trip_at_its_end,
}

if __name__ == "__main__":
    BREAKS[sys.argv.pop(1)]()
    server.main()
