"""The journal as watches see it: what was deleted is no longer in it, although its segments live on for a while.

A watch that resumes from before a deletion is sent to the store, which has carried it out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.ports.journal import Frame, JournalReader, Positions

SHARD = 0


class JournalWithoutDeleted:
    """A `JournalReader` whose tail lies behind the last deletion."""

    def __init__(self, journal: JournalReader, deleted_through: Callable[[], int]) -> None:
        """Take a journal.

        Args:
            journal: The real one.
            deleted_through: Last position that any deletion so far reaches; 0: there was none.
        """
        self._journal = journal
        self._deleted_through = deleted_through

    def head(self) -> Positions:
        """See `Journal`."""
        return self._journal.head()

    def tail(self) -> Positions:
        """See `Journal`."""
        first = self._deleted_through() + 1
        return {shard: max(tail, first) if shard == SHARD else tail for shard, tail in self._journal.tail().items()}

    async def read(self, shard: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        """See `Journal`. A deletion that comes while old frames are being read ends it with `NotFoundError`, too."""
        async for frame in self._journal.read(shard, after=after, through=through):
            if shard == SHARD and frame.position <= self._deleted_through():
                raise NotFoundError("journal position", str(frame.position))
            yield frame
