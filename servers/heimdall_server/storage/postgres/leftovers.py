"""Processes of a PostgreSQL data folder that nobody looks after any more: of a server that was killed, or of a postmaster that was.

Whoever calls this holds Heimdall's data folder, so no other server's PostgreSQL can be meant. A process is known by its program
and its working directory, which for PostgreSQL is its data folder, never by a number in a file: numbers are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.postgres.config import STORE

_POLL_S: Final = 0.02


def end_leftovers(data: Path, *, timeout_s: float) -> int:
    """End them: a postmaster cleanly if it does that in time, the others by force. Blocks.

    Returns:
        How many there were.

    Raises:
        StoreError: One doesn't end.
    """
    found = processes_of(data)
    if found:
        postmaster = _postmaster(data)
        if postmaster in found:
            _signal(postmaster, signal.SIGINT)
        # Without a postmaster they notice that by themselves, unless they are stuck.
        if not _gone(lambda: not processes_of(data), timeout_s):
            for pid in processes_of(data):
                _signal(pid, signal.SIGKILL)
            if not _gone(lambda: not processes_of(data), timeout_s):
                raise StoreError(STORE, f"processes {processes_of(data)} of {data} don't end; stop them by hand")
    # A number in it that somebody else has now would keep PostgreSQL from starting.
    (data / "postmaster.pid").unlink(missing_ok=True)
    return len(found)


def processes_of(data: Path) -> list[int]:
    """The processes of PostgreSQL that work in a data folder, whose path has no links in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            program = (entry / "exe").readlink().name.removesuffix(" (deleted)")
            if program == "postgres" and (entry / "cwd").readlink() == data:
                found.append(int(entry.name))
    return found


def _postmaster(data: Path) -> int:
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return 0


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _gone(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
