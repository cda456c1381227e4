"""The audit log in files: the adapter of `ports/audit.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from heimdall_server.domain.errors import ChainBrokenError
from heimdall_server.ports.audit import Act, AuditEntry
from heimdall_server.ports.clock import Clock
from heimdall_server.storage.ledger.chain import ChainLog
from heimdall_server.storage.ledger.files import SEGMENT_BYTES_MAX
from heimdall_server.storage.ledger.lines import ChainEntry

PURPOSE: Final = "audit"


class FileAuditLog:
    """The `AuditLog` of a folder. Entries are read and checked a segment (4 MiB) at a time."""

    def __init__(self, chain: ChainLog, mask_text: Callable[[str], str]) -> None:
        self._chain = chain
        self._mask_text = mask_text

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        clock: Clock,
        mask_text: Callable[[str], str],
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        sync: Callable[[int], None] | None = None,
    ) -> Self:
        """Open the log, or begin one.

        Args:
            directory: Its own folder, `<data_dir>/audit`.
            clock: Where the times of entries come from.
            mask_text: Puts the names of classes in place of personal data in a free text. Runs in a thread.
            segment_bytes_max: Size of a file at which the next one is begun.
            sync: Makes a file's bytes durable; None: `os.fdatasync`.

        Raises:
            ConfigurationError: Another process has it open.
            ChainBrokenError: An entry that was acknowledged is missing or was changed. Nothing is written then: keep the folder as
                evidence, and put a copy or an empty folder in its place.
            StoreError: The folder can't be used.
        """
        chain = await ChainLog.open(
            directory, PURPOSE, now_ns=clock.now_ns, segment_bytes_max=segment_bytes_max, sync=sync
        )
        return cls(chain, mask_text)

    async def append(self, act: Act) -> AuditEntry:
        """See the port. Costs a write and two syncs, which appends of the same moment share."""
        payload = asdict(act)
        if act.reason:
            payload["reason"] = await asyncio.to_thread(self._mask_text, act.reason)
        return _entry(await self._chain.append({key: value for key, value in payload.items() if value}))

    async def read(self, *, after: int = 0, action: str = "", actor: str = "") -> AsyncGenerator[AuditEntry, None]:
        """See the port."""
        async for some in self._chain.entries(after):
            for one in some:
                fits = str(one.payload.get("action", "")).startswith(action)
                if fits and actor in ("", one.payload.get("actor")):
                    yield _entry(one)

    async def verify(self) -> AuditEntry | None:
        """See the port."""
        last = await self._chain.verify()
        return None if last is None else _entry(last)

    async def close(self) -> None:
        """See the port."""
        await self._chain.close()


def _entry(entry: ChainEntry) -> AuditEntry:
    return AuditEntry(entry.sequence, entry.time_ns, _act(entry.sequence, entry.payload), entry.previous, entry.digest)


def _act(sequence: int, payload: Mapping[str, Any]) -> Act:
    try:
        return Act(**{"actor": "", "action": "", "outcome": "", **payload})
    except TypeError as error:
        raise ChainBrokenError(
            f"{PURPOSE}, entry {sequence}", "a newer version wrote it, or it isn't an act"
        ) from error
