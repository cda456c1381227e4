"""What is looked for in which records, and how much of it is taken."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.projections.graph.config import FINDABLE_TYPES
from heimdall_server.projections.graph.observations import OBSERVATIONS, TEXT_TYPES, observe

_ADDRESSES: Final = frozenset({"ipv4", "ipv6"})
_PIECE_BYTES: Final = 16 << 20
"""Records are looked at so many bytes at a time: what a search makes on its way is several times as large as its texts."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for."""

    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By glob of the source's name, the first that fits; sources that none fits are searched for `TEXT_TYPES`."""
    per_record_max: int = 256
    per_batch_max: int = 131_072
    """What is made into facts at once; the caller's to keep."""

    def of(self, source: str) -> frozenset[str] | None:
        """Types for a source; None: what is usual."""
        for glob, types in self.sources.items():
            if _pattern(glob).match(source):
                return frozenset(types) | (_ADDRESSES if "ip" in types else frozenset())
        return None


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen."""

    observations: pl.DataFrame
    """As of `observe`."""
    cut_count: int
    """Values that were left out of records that hold too many."""


def observe_wanted(records: pa.RecordBatch, wanted: Wanted, *, only: frozenset[str] | None = None) -> Observed:
    """Look for what is wanted, source by source.

    Args:
        records: Of `RECORD_SCHEMA`.
        wanted: What.
        only: Of it only these types, for whoever needs no others; None: all.

    Returns:
        The same for a record whatever others are beside it.
    """
    parts = [pl.DataFrame(schema=dict(OBSERVATIONS))]
    cut_count = 0
    for rows, some, types in _groups(records, wanted):
        for start, piece in _pieces(some):
            searched = TEXT_TYPES if types is None else [name for name in FINDABLE_TYPES if name in types]
            named = types
            if only is not None:
                searched = [name for name in searched if name in only]
                named = only if types is None else types & only
            seen = observe(piece, searched, named=named)
            kept = _cut(seen, wanted.per_record_max)
            cut_count += len(seen) - len(kept)
            parts.append(kept.with_columns(row=pl.Series(rows[kept["row"].to_numpy() + start], dtype=pl.UInt32)))
    return Observed(pl.concat(parts), cut_count)


def _groups(
    records: pa.RecordBatch, wanted: Wanted
) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.uint32]], pa.RecordBatch, frozenset[str] | None]]:
    """Records of sources that the same is wanted of, and the rows that they were."""
    every = np.arange(len(records), dtype=np.uint32)
    if not wanted.sources:
        yield every, records, None
        return
    names = pl.Series(records.column("source"), dtype=pl.String)
    by_types: dict[frozenset[str] | None, list[str]] = {}
    for name in names.unique().to_list():
        by_types.setdefault(wanted.of(name), []).append(name)
    for types, some in by_types.items():
        if types is not None and not types:
            continue
        if len(by_types) == 1:
            yield every, records, types
        else:
            rows = every[names.is_in(some).to_numpy()]
            yield rows, records.take(pa.array(rows)), types


def _pieces(records: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    count = max(1, -(-records.nbytes // _PIECE_BYTES))
    size = max(1, -(-len(records) // count))
    for start in range(0, len(records), size):
        yield start, records.slice(start, size)


def _cut(seen: pl.DataFrame, count_max: int) -> pl.DataFrame:
    """At most so many of a record: whole fields before what stands in texts, else in the order in which they were found."""
    if len(seen) <= count_max:
        return seen
    if int(np.bincount(seen["row"].to_numpy()).max()) <= count_max:
        return seen
    place = pl.struct(~pl.col("whole"), pl.int_range(pl.len())).rank("ordinal").over("row")
    return seen.filter(place <= count_max)


@functools.lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
