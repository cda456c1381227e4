"""Records of dumps that come again: those that were applied by the same provenance, and say what they said, are left out.

So a dump that is taken in again changes nothing, however it is cut, and costs little more than reading it. A record with the number of
another, but with other words, is another record. Each of them counts once, in whatever order they come, and how often.
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
from heimdall_server.domain.graph_batches import Flags, Numbers, RecordMarks
from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.projections.graph.extraction import who_says
from heimdall_server.projections.graph.record_hashes import record_hashes

Batches = Sequence[tuple[int, pa.RecordBatch]]
"""Position in the journal, and records."""
Knows = Callable[[Provenance, Numbers, Hashes], Awaitable[Flags]]
"""As `GraphWriter.knows`."""


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


async def fresh_records(batches: Batches, instance: str, knows: Knows) -> FreshRecords:
    """Leave out what was applied before.

    Args:
        batches: Any.
        instance: Who took them in.
        knows: What was applied.

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
        is_new = ~await knows(one.provenance, one.numbers, one.hashes) & _firsts(one)
        gone[one.rows[~is_new]] = True
        if is_new.any():
            marks.append(_marks(one, is_new))
    kept = await asyncio.to_thread(_without, batches, gone) if gone.any() else batches
    return FreshRecords(kept, tuple(marks))


def besides(knows: Knows, marks: Sequence[RecordMarks]) -> Knows:
    """Answers as `knows` will once these marks are kept, too, whether they are already or not."""

    async def knows_too(provenance: Provenance, numbers: Numbers, hashes: Hashes) -> Flags:
        known = await knows(provenance, numbers, hashes)
        for one in marks:
            # Mostly a dump goes on behind what is being kept of it.
            if one.provenance == provenance and numbers.min() <= one.numbers[-1]:
                known = known | await asyncio.to_thread(_are_among, one, numbers, hashes)
        return known

    return knows_too


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


def _marks(one: _Rows, is_new: Flags) -> RecordMarks:
    numbers, hashes = one.numbers[is_new], one.hashes[is_new]
    if not bool((np.diff(numbers) > 0).all()):
        order = np.lexsort((hashes, numbers))
        numbers, hashes = numbers[order], hashes[order]
    return RecordMarks(one.provenance, numbers, hashes)


def _are_among(marks: RecordMarks, numbers: Numbers, hashes: Hashes) -> Flags:
    """Which records are among those that are being kept."""
    asked = pl.DataFrame({"number": numbers, "hash": hashes}).with_row_index("row")
    found = asked.join(pl.DataFrame({"number": marks.numbers, "hash": marks.hashes}), ["number", "hash"], "semi")
    among = np.zeros(len(numbers), bool)
    among[found["row"].to_numpy()] = True
    return among


def _without(batches: Batches, gone: npt.NDArray[np.bool_]) -> Batches:
    kept, begin = [], 0
    for position, records in batches:
        some = gone[begin : begin + len(records)]
        kept.append((position, records.filter(pa.array(~some)) if some.any() else records))
        begin += len(records)
    return kept
