"""Rows that matched, as a watch shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.services.query.watch_model import Packed


class Keys(NamedTuple):
    """Where each of some rows stands in the journal."""

    positions: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Keys:
        """Those of a batch with positions."""
        return cls(batch.column("position").to_numpy(), batch.column("row").to_numpy())

    @classmethod
    def joined(cls, some: Iterable[Keys]) -> Keys:
        """Of several, one behind the other."""
        positions, rows = zip(*some, strict=True)
        return cls(np.concatenate(positions), np.concatenate(rows))

    def part(self, start: int, count: int) -> Keys:
        """Of some of the rows, copied."""
        end = start + count
        return Keys(self.positions[start:end].copy(), self.rows[start:end].copy())


class Matched:
    """Rows that matched, as the query shows them, and where each stands. Immutable."""

    __slots__ = ("_shown", "keys", "packed")

    def __init__(self, shown: pa.RecordBatch | None, keys: Keys, packed: Packed | None = None) -> None:
        """Hold rows.

        Args:
            shown: The rows; None: they are packed.
            keys: As many.
            packed: The rows as bytes; None: they aren't.
        """
        self._shown = shown
        self.keys = keys
        self.packed = packed

    @property
    def shown(self) -> pa.RecordBatch:
        """The rows."""
        if self.packed is not None:
            return self.packed.batch()
        return self._shown

    @property
    def count(self) -> int:
        """How many."""
        return len(self.keys.positions)

    @property
    def size_bytes(self) -> int:
        """What the rows weigh, on the wire; many small buffers weigh more than their bytes."""
        if self.packed is not None:
            return self.packed.size_bytes
        return int(pa.ipc.get_record_batch_size(self.shown))

    def slice(self, start: int, count: int) -> Matched:
        """Some of the rows."""
        if start == 0 and count >= self.count:
            return self
        return Matched(self.shown.slice(start, count), self.keys.part(start, count))
