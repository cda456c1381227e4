"""Deletions that may mean records of dead letters which came in before them.

The stores delete what they hold. What a letter holds is no record yet: when it is decoded again, it would come to stand behind the deletion's
reach. So the control state remembers deletions while letters from before them may live, and a letter's records are held against them. Of
too many the oldest are forgotten, and then the letters that they may mean can't be decoded any more: rather that than a leaked secret
that comes back.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.records import with_position
from heimdall_server.language.deletions import CompiledDeletion, Mask
from heimdall_server.ports.journal import Deletion
from heimdall_server.services.ingest.logic import metrics

DELETION_COUNT_MAX: Final = 1_000
DELETION_BYTES_MAX: Final = 1024 * 1024
"""Of all that are held, as they stand in a snapshot."""
_SHARD: Final = 0


@dataclass(frozen=True, eq=False)
class HeldDeletion:
    """One deletion."""

    deletion: Deletion
    position: int
    """Of the frame that says it."""
    row: bytes
    """As it stands in a snapshot."""

    @cached_property
    def compiled(self) -> CompiledDeletion:
        """Its filter, read when a letter first asks for it."""
        return CompiledDeletion(self.deletion)


@dataclass(frozen=True, slots=True)
class Screen:
    """What keeps a letter's records from being stored. For any thread."""

    deletions: tuple[HeldDeletion, ...]
    position: int
    """Where the letter stands in the journal, or the record did of which a store made it."""
    time_ns: int
    """When it came."""

    def kept(self, records: pa.RecordBatch) -> Mask:
        """Which records may be stored.

        Args:
            records: Columns of `RECORD_SCHEMA`, protected or not.
        """
        kept = np.ones(records.num_rows, np.bool_)
        if self.deletions and records.num_rows:
            positioned = with_position(self._as_they_came(records), shard=_SHARD, position=self.position)
            for held in self.deletions:
                kept &= ~held.compiled.meant(positioned)
        return kept

    def _as_they_came(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """A record without a time has the time of the retry now, and had the letter's."""
        index = records.schema.get_field_index("time")
        times = records.column(index).cast(pa.int64()).to_numpy()
        observed = records.column("observed_time").cast(pa.int64()).to_numpy()
        came = pa.array(np.where(times == observed, self.time_ns, times)).cast(records.schema.field(index).type)
        return records.set_column(index, records.schema.field(index), came)


class LetterDeletions:
    """See the module. The event loop owns it."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, HeldDeletion] = OrderedDict()
        self._size_bytes = 0
        self.unknown_through = 0
        """Last position that a deletion reaches of which the filter isn't known here; 0: there is none."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, deletion: Deletion, *, position: int) -> None:
        """Take in a deletion of a durable frame. One that comes again reaches as far as it says now."""
        row = [
            position, deletion.deletion_id, deletion.filter, deletion.start_time_ns, deletion.end_time_ns,
            deletion.datasets, deletion.through,
        ]  # fmt: skip
        self._drop(deletion.deletion_id)
        held = HeldDeletion(deletion, position, json.dumps(row, separators=(",", ":")).encode())
        self._held[deletion.deletion_id] = held
        self._size_bytes += len(held.row)
        while len(self._held) > DELETION_COUNT_MAX or self._size_bytes > DELETION_BYTES_MAX:
            oldest = next(iter(self._held.values())).deletion
            self._drop(oldest.deletion_id)
            self.unknown_through = max(self.unknown_through, oldest.through)
            metrics.FORGOTTEN.labels("deletions").inc()

    def forget_before(self, position: int) -> None:
        """Forget deletions whose frames are gone: so are those of the letters before them."""
        for held in list(self._held.values()):
            if held.position < position:
                self._drop(held.deletion.deletion_id)
        if self.unknown_through < position:
            self.unknown_through = 0

    def reaching(self, position: int) -> tuple[HeldDeletion, ...]:
        """Those that may mean what stands at a position."""
        return tuple(held for held in self._held.values() if held.deletion.through >= position)

    def snapshot(self) -> bytes:
        """Everything, as a JSON array."""
        return b",".join((b"[%d" % self.unknown_through, *(held.row for held in self._held.values()))) + b"]"

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot."""
        self._held.clear()
        self._size_bytes = 0
        self.unknown_through, *rows = json.loads(snapshot)
        for position, deletion_id, filter_, start_time_ns, end_time_ns, datasets, through in rows:
            deletion = Deletion(deletion_id, filter_, start_time_ns, end_time_ns, tuple(datasets), through)
            self.add(deletion, position=position)

    def _drop(self, deletion_id: str) -> None:
        held = self._held.pop(deletion_id, None)
        if held is not None:
            self._size_bytes -= len(held.row)
