"""What a deletion means by records that no store holds: those of a frame, or of a dead letter that is decoded again."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.ports.journal import Deletion

Mask: TypeAlias = npt.NDArray[np.bool_]


class CompiledDeletion:
    """A deletion that can be asked of records. Thread-safe."""

    def __init__(self, deletion: Deletion) -> None:
        """Read the deletion's filter.

        Raises:
            QuerySyntaxError: It can't be read.
        """
        self.deletion = deletion
        self._matches = compile_predicate(parse(deletion.filter, now_ns=0).filter)

    def meant(self, records: pa.RecordBatch) -> Mask:
        """Which records it means, whatever their position.

        Args:
            records: Columns of `POSITIONED_SCHEMA`.
        """
        deletion = self.deletion
        meant = np.asarray(self._matches(records).to_numpy(zero_copy_only=False), np.bool_)
        times = records.column("time").cast(pa.int64()).to_numpy()
        if deletion.start_time_ns is not None:
            meant &= times >= deletion.start_time_ns
        if deletion.end_time_ns is not None:
            meant &= times < deletion.end_time_ns
        if deletion.datasets:
            datasets = pa.array(deletion.datasets)
            meant &= pc.is_in(records.column("dataset"), value_set=datasets).to_numpy(zero_copy_only=False)
        return meant
