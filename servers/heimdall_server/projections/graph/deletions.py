"""Records that were deleted before the graph came to them: it makes nothing of them."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from heimdall_server.domain.records import RECORD_SCHEMA, with_position
from heimdall_server.language.deletions import CompiledDeletion
from heimdall_server.ports.journal import Journal

SHARD: Final = 0


class DeletedRecords:
    """What deletions further on in the journal mean by frames that are read now. For one event loop; `without` may run in any thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._scanned = 0
        self._deletions: list[CompiledDeletion] = []

    def begin(self, after: int) -> None:
        """Frames behind a position will be read: nothing is known of deletions there."""
        self._scanned, self._deletions = after, []

    async def learn(self) -> None:
        """Take in the deletions that the journal has by now.

        Raises:
            CorruptionError, NotFoundError: As `Journal.read_control`.
        """
        head = self._journal.head()[SHARD]
        if head <= self._scanned:
            return
        async for frame in self._journal.read_control(SHARD, after=self._scanned, through=head):
            self._deletions += map(CompiledDeletion, frame.entry.deletions)
        self._scanned = head

    def without(self, records: pa.RecordBatch, position: int, *, first_row: int = 0) -> pa.RecordBatch:
        """The records of a frame, from a row on, that aren't deleted."""
        for one in self._deletions:
            if one.deletion.through >= position and len(records):
                gone = one.meant(with_position(records, shard=SHARD, position=position, first_row=first_row))
                if gone.any():
                    records = records.filter(pa.array(~gone))
        return records.select(RECORD_SCHEMA.names)
