"""Records of dumps that come again: those that were applied by the same provenance, and say what they said, are left out.

So a dump that is taken in again changes nothing, however it is cut, and costs little more than reading it. A record with the number of
another, but with other words, is another record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.domain.graph import Provenance
from heimdall_server.domain.graph_batches import Numbers, RecordMarks
from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.projections.graph.extraction import who_says
from heimdall_server.projections.graph.record_hashes import record_hashes

Batches = Sequence[tuple[int, pa.RecordBatch]]
"""Position in the journal, and records."""
AskMarks = Callable[[Provenance, Numbers], Awaitable[Hashes]]
"""As `GraphWriter.marks`."""


@dataclass(frozen=True, slots=True)
class FreshRecords:
    """What is to be made into facts."""

    batches: Batches
    marks: tuple[RecordMarks, ...]
    """Of the records of dumps among it."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Records of one dump by one provenance, in the order in which they come."""

    provenance: Provenance
    rows: npt.NDArray[np.int64]
    """Of all batches, one behind the other."""
    numbers: Numbers
    hashes: Hashes


async def fresh_records(batches: Batches, instance: str, ask: AskMarks) -> FreshRecords:
    """Leave out what was applied before.

    Args:
        batches: Any.
        instance: Who took them in.
        ask: What was applied.

    Returns:
        The rest; records that are no dump's are all there. The same record twice is there once.

    Cost: 1.5 µs a record of a dump.
    """
    found = await asyncio.to_thread(_of_dumps, batches, instance)
    if not found:
        return FreshRecords(batches, ())
    gone = np.zeros(sum(len(batch) for _, batch in batches), bool)
    marks = []
    for one in found:
        known = await ask(one.provenance, one.numbers)
        is_new = known != one.hashes
        firsts = _firsts(one)
        gone[one.rows[~(is_new & firsts)]] = True
        kept = np.flatnonzero(is_new & firsts)
        numbers, places = np.unique(one.numbers[kept], return_index=True)
        marks.append(RecordMarks(one.provenance, numbers, one.hashes[kept][places]))
    if not gone.any():
        return FreshRecords(batches, tuple(marks))
    return FreshRecords(
        await asyncio.to_thread(_without, batches, gone), tuple(mark for mark in marks if len(mark.numbers))
    )


def besides(ask: AskMarks, marks: Sequence[RecordMarks]) -> AskMarks:
    """Answers as `ask` will once these marks are kept, too, whether they are already or not."""

    async def asked(provenance: Provenance, numbers: Numbers) -> Hashes:
        known = await ask(provenance, numbers)
        for one in marks:
            if one.provenance == provenance and len(one.numbers):
                at = np.searchsorted(one.numbers, numbers).clip(max=len(one.numbers) - 1)
                known = np.where(one.numbers[at] == numbers, one.hashes[at], known)
        return known

    return asked


def _of_dumps(batches: Batches, instance: str) -> list[_Rows]:
    parts: dict[Provenance, list[_Rows]] = {}
    begin = 0
    for _, records in batches:
        numbers = records.column("record_number").to_numpy().astype(np.int64)
        in_dump = (numbers > 0) & np.asarray(pl.Series(records.column("dump")).ne("").to_numpy())
        if in_dump.any():
            codes, provenances = who_says(records, instance)
            hashes = record_hashes(records)
            for code, provenance in enumerate(provenances):
                rows = np.flatnonzero(in_dump & (codes.to_numpy() == code))
                if len(rows):
                    parts.setdefault(provenance, []).append(
                        _Rows(provenance, rows + begin, numbers[rows], hashes[rows])
                    )
        begin += len(records)
    return [
        _Rows(
            provenance,
            np.concatenate([one.rows for one in some]),
            np.concatenate([one.numbers for one in some]),
            np.concatenate([one.hashes for one in some]),
        )
        for provenance, some in parts.items()
    ]


def _firsts(one: _Rows) -> npt.NDArray[np.bool_]:
    """Which records weren't there before in the same batches."""
    if len(one.numbers) == 0 or bool((np.diff(one.numbers) > 0).all()):
        return np.ones(len(one.numbers), bool)
    frame = pl.DataFrame({"number": one.numbers, "hash": one.hashes})
    return frame.select(pl.struct("number", "hash").is_first_distinct()).to_series().to_numpy()


def _without(batches: Batches, gone: npt.NDArray[np.bool_]) -> Batches:
    kept, begin = [], 0
    for position, records in batches:
        some = gone[begin : begin + len(records)]
        kept.append((position, records.filter(pa.array(~some)) if some.any() else records))
        begin += len(records)
    return kept
