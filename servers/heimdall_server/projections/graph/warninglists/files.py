"""The lists that come with the server, and those that were taken in since, which stand in the data folder and win over them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from heimdall_server.domain.warninglists import (
    ALL_ENTRIES_MAX,
    LISTS_MAX,
    Match,
    Warninglist,
    from_plain,
    to_plain,
)
from heimdall_server.ports.warninglists import InForce
from heimdall_server.projections.graph.config import WarninglistsConfig
from heimdall_server.projections.graph.warninglists.matching import Warninglists

FOLDER: Final = "warninglists"
"""In the data folder."""
FILE_BYTES_MAX: Final = 128 << 20
LOOK_AGAIN_S: Final = 10.0
"""The folder is looked at this often, when somebody asks."""
_Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found."""

    lists: Warninglists
    problems: Sequence[str] = ()
    """Files that can't be used, and settings that name no list."""


def packaged() -> Sequence[Warninglist]:
    """The lists that come with the server, by name."""
    folder = resources.files(__package__) / "lists"
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".json")), key=lambda one: one.name)
    return [from_plain(json.loads(one.read_text("utf-8"))) for one in files]


def kept(folder: Path) -> tuple[Sequence[Warninglist], Sequence[str]]:
    """The lists of a folder by name, and what is wrong with the files that can't be used."""
    found: list[Warninglist] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found.append(_read(path))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: it isn't used: {error}")
    return found, problems


def keep(folder: Path, one: Warninglist) -> None:
    """Write a list, in place of an older one; a reader sees one or the other.

    Raises:
        OSError: It can't be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, draft = folder / f"{one.name}.json", folder / f".{one.name}.{os.getpid()}.new"
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(to_plain(one), file, ensure_ascii=False, indent=0)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load(folder: Path, config: WarninglistsConfig) -> Loaded:
    """All lists in force."""
    if not config.enabled:
        return Loaded(Warninglists())
    taken, problems = kept(folder)
    by_name = {one.name: one for one in (*packaged(), *taken)}
    unknown = sorted({*config.off, *config.confidence} - set(by_name))
    told = [*problems, *(f"graph.warninglists: there is no list {name!r}" for name in unknown)]
    chosen: list[Warninglist] = []
    entry_count = 0
    for name, one in sorted(by_name.items()):
        if name in config.off:
            continue
        entry_count += len(one.entries)
        if len(chosen) == LISTS_MAX or entry_count > ALL_ENTRIES_MAX:
            told.append(f"{name}: it isn't used: together they have more than {ALL_ENTRIES_MAX:,} entries")
            entry_count -= len(one.entries)
            continue
        chosen.append(replace(one, confidence=config.confidence.get(name, one.confidence)))
    return Loaded(Warninglists(chosen), told)


class WarninglistFolder:
    """The lists in force, read again when their folder has changed; implements `ports.warninglists.WarninglistBook`. For any thread."""

    def __init__(self, folder: Path, config: WarninglistsConfig) -> None:
        """Read nothing yet.

        Args:
            folder: Where lists are that were taken in; it needn't be there.
            config: Which are used.
        """
        self._folder = folder
        self._config = config
        self._lock = threading.Lock()
        self._signature: _Signature | None = None
        self._looked_s = 0.0
        self._loaded = Loaded(Warninglists())

    def loaded(self) -> Loaded:
        """Those of now. Blocks for a second at most where there is something new to read; not for the event loop."""
        with self._lock:
            now_s = time.monotonic()
            if self._signature is None or now_s - self._looked_s >= LOOK_AGAIN_S:
                self._looked_s = now_s
                signature = _signature(self._folder)
                if signature != self._signature:
                    self._loaded = load(self._folder, self._config)
                    self._signature = signature
            return self._loaded

    async def in_force(self) -> InForce:
        """See the port."""
        loaded = await asyncio.to_thread(self.loaded)
        return InForce(loaded.lists.lists, loaded.problems)

    async def naming(self, type_name: str, value: str) -> Sequence[str]:
        """See the port."""
        return await asyncio.to_thread(lambda: self.loaded().lists.names(type_name, value))


def _read(path: Path) -> Warninglist:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"it is larger than {FILE_BYTES_MAX:,} bytes")
    one = from_plain(json.loads(path.read_text("utf-8")))
    if one.name != path.stem:
        raise ValueError(f"it holds the list {one.name!r}")
    if one.match is Match.NETWORK:
        for entry in one.entries:
            ipaddress.ip_network(entry)
    return one


def _signature(folder: Path) -> _Signature:
    """What changes when a list of a folder does."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            state = path.stat()
        except OSError:
            continue  # it went meanwhile
        found.append((path.name, state.st_mtime_ns, state.st_size))
    return tuple(found)
