"""Records that were deleted before the graph came to them: it makes nothing of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.records import RECORD_SCHEMA, with_position
from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import Predicate, compile_predicate
from heimdall_server.ports.journal import Deletion, Journal

SHARD: Final = 0


@dataclass(frozen=True, slots=True)
class _Compiled:
    deletion: Deletion
    matches: Predicate


class DeletedRecords:
    """What deletions further on in the journal mean by frames that are read now. For one event loop; `without` may run in any thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._scanned = 0
        self._deletions: list[_Compiled] = []

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
            for deletion in frame.entry.deletions:
                filter_ = parse(deletion.filter, now_ns=0).filter
                self._deletions.append(_Compiled(deletion, compile_predicate(filter_)))
        self._scanned = head

    def without(self, records: pa.RecordBatch, position: int, *, first_row: int = 0) -> pa.RecordBatch:
        """The records of a frame, from a row on, that aren't deleted."""
        for one in self._deletions:
            if one.deletion.through >= position and len(records):
                gone = _meant(one, with_position(records, shard=SHARD, position=position, first_row=first_row))
                if gone.any():
                    records = records.filter(pa.array(~gone))
        return records.select(RECORD_SCHEMA.names)


def _meant(one: _Compiled, records: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which records a deletion means."""
    deletion = one.deletion
    meant = np.asarray(one.matches(records).to_numpy(zero_copy_only=False), np.bool_)
    times = records.column("time").cast(pa.int64()).to_numpy()
    if deletion.start_time_ns is not None:
        meant &= times >= deletion.start_time_ns
    if deletion.end_time_ns is not None:
        meant &= times < deletion.end_time_ns
    if deletion.datasets:
        meant &= pc.is_in(records.column("dataset"), value_set=pa.array(deletion.datasets)).to_numpy(
            zero_copy_only=False
        )
    return meant
