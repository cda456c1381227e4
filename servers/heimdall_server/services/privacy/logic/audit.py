"""Reading the audit log, and walking its chain."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from heimdall_server.ports.audit import AuditEntry, AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.services.privacy.model import AuditPage, ChainState

PAGE_BYTES_MAX: Final = 512 * 1024
"""Roughly of the texts of one page, so that it fits into a message of 1 MiB."""
_ENTRY_BYTES: Final = 256
"""What an entry takes beside its texts, roughly."""


class AuditUseCase:
    """See the module."""

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def page(self, *, after: int, count: int, action: str, actor: str) -> AuditPage:
        """Entries behind a number, the oldest first.

        Args:
            after: 0: from the first one on.
            count: At most so many; fewer where they are large.
            action: Only actions that begin so.
            actor: Only of this caller; empty: of all.

        Raises:
            ChainBrokenError: An entry was changed; says which.
            StoreError: It can't be read.
        """
        entries: list[AuditEntry] = []
        size = 0
        found = self._log.read(after=after, action=action, actor=actor)
        async with aclosing(found):
            async for entry in found:
                size += _size(entry)
                if len(entries) == count or (entries and size > PAGE_BYTES_MAX):
                    return AuditPage(entries, entries[-1].sequence)
                entries.append(entry)
        return AuditPage(entries, 0)

    async def verify(self) -> ChainState:
        """Walk the whole chain.

        Raises:
            ChainBrokenError: Names the first entry that doesn't fit.
            StoreError: It can't be read.
        """
        started_s = self._clock.monotonic_s()
        last = await self._log.verify()
        took_s = self._clock.monotonic_s() - started_s
        return ChainState(0, b"", took_s) if last is None else ChainState(last.sequence, last.digest, took_s)


def _size(entry: AuditEntry) -> int:
    act = entry.act
    texts = (act.actor, act.action, act.reason, act.subject, *act.details, *act.details.values())
    return _ENTRY_BYTES + sum(len(text.encode()) for text in texts)
