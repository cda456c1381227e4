"""Counts the records that name each entity: what the graph would see in them, entity by entity and source by source.

It looks at records with the graph's own eyes (`projections.graph`), so that an entity counted here is the one that is walked there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.observables import TOKEN_TYPE
from heimdall_server.projections.graph.facts import Identify, identified
from heimdall_server.projections.graph.wanted import Wanted, observe_wanted

BYTES_MAX: Final = 64 << 20
"""Of sums that are kept apart."""
SOURCES_TOLD: Final = 10
_COMPACT_ROWS: Final = 100_000
_TIES_MAX: Final = 1_000
_ROOTS: Final = pl.Schema({"id": pl.Binary(), "root": pl.Binary()})
_SUMS: Final = pl.Schema(
    {
        "id": pl.Binary(),
        "source": pl.String(),
        "type": pl.String(),
        "value": pl.String(),
        "count": pl.Int64(),
        "first_ns": pl.Int64(),
        "last_ns": pl.Int64(),
    }
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What some records name."""

    observations: pl.DataFrame
    """Of the types that were asked for; see `observe_wanted`."""
    records: pl.DataFrame
    """`row`, `source` (the dump's name where it is of one), `time_ns`."""

    def tokens(self) -> list[str]:
        """The tokens among it, `class:word`, each once."""
        return self.observations.filter(pl.col("type") == TOKEN_TYPE)["value"].unique().to_list()

    def named(self, identify: Identify) -> pl.DataFrame:
        """Say which entities they are.

        Returns:
            `row`, `id`, `type` (a token's class), `value`, `source`, `time_ns`; a row for each field that names one.
        """
        named = identified(self.observations, identify).select("row", "id", "type", "value")
        return named.join(self.records, on="row")


@dataclass(frozen=True, slots=True)
class EntityCount:
    """Records that name an entity."""

    id: bytes
    type: str
    value: str
    count: int
    first_ns: int
    last_ns: int
    source_count: int


def see(records: pa.RecordBatch, types: frozenset[str], wanted: Wanted) -> Seen:
    """Look what records name.

    Args:
        records: With the columns `time`, `source`, `dump`, `body`, `attributes` and `resource` of `RECORD_SCHEMA`.
        types: Of entities, or classes of personal data; none: all.
        wanted: What the graph looks for.

    Cost: as `observe_wanted`, 1 to 6 µs a record.
    """
    told = pl.DataFrame(
        {
            "row": np.arange(len(records), dtype=np.uint32),
            "source": pl.Series(records.column("source"), dtype=pl.String),
            "dump": pl.Series(records.column("dump"), dtype=pl.String),
            "time_ns": pl.Series(records.column("time").cast(pa.int64())),
        }
    )
    described = told.select(
        "row", pl.when(pl.col("dump") != "").then(pl.col("dump")).otherwise(pl.col("source")).alias("source"), "time_ns"
    )
    # A token may be of any class, so tokens are looked for in any case.
    only = types | {TOKEN_TYPE} if types else None
    observations = observe_wanted(records, wanted, only=only).observations
    if only is None:
        return Seen(observations, described)
    is_token = pl.col("type") == TOKEN_TYPE
    asked = sorted(types)
    of_class = is_token & pl.col("value").str.extract(r"^([^:]+)").is_in(asked)
    return Seen(observations.filter(of_class | (~is_token & pl.col("type").is_in(asked))), described)


class Tally:
    """Sums over batches of records. Not for several threads at a time."""

    def __init__(self) -> None:
        self._sums = [pl.DataFrame(schema=_SUMS)]
        self._rows = 0

    @property
    def is_full(self) -> bool:
        """Whether it may hold no more."""
        return sum(frame.estimated_size() for frame in self._sums) > BYTES_MAX

    def add(self, named: pl.DataFrame, roots: Mapping[bytes, bytes]) -> None:
        """Count the records of a batch.

        Args:
            named: As `Seen.named` gives it.
            roots: Which entity stands for one that was merged.
        """
        if roots:
            merged = pl.DataFrame({"id": list(roots), "root": list(roots.values())}, schema=_ROOTS)
            named = named.join(merged, on="id", how="left", maintain_order="left").with_columns(
                id=pl.coalesce("root", "id")
            )
        once = named.unique(["row", "id"], keep="first", maintain_order=True)
        self._sums.append(
            once.group_by("id", "source")
            .agg(
                type=pl.col("type").first(),
                value=pl.col("value").max(),
                count=pl.len().cast(pl.Int64),
                first_ns=pl.col("time_ns").min(),
                last_ns=pl.col("time_ns").max(),
            )
            .select(_SUMS.names())
        )
        self._rows += len(self._sums[-1])
        if self._rows > _COMPACT_ROWS:
            self._sums = [self._summed()]
            self._rows = 0

    def most(self, *, record_count_min: int, count_max: int) -> tuple[list[EntityCount], int]:
        """The entities that most records name.

        Args:
            record_count_min: Only entities that so many name.
            count_max: Entities at most; of those that are named by as many as the last one, some more may come.

        Returns:
            Those of the most records first, then of the last; and how many there are in all.
        """
        self._sums = [self._summed()]
        found = (
            self._sums[0]
            .group_by("id")
            .agg(
                type=pl.col("type").first(),
                # The graph keeps the greatest of several tokens, too.
                value=pl.col("value").max(),
                count=pl.col("count").sum(),
                first_ns=pl.col("first_ns").min(),
                last_ns=pl.col("last_ns").max(),
                source_count=pl.len(),
            )
            .filter(pl.col("count") >= record_count_min)
            .sort("count", "last_ns", "id", descending=[True, True, False])
        )
        if len(found) > count_max:
            least = found["count"][count_max - 1]
            ties = found.head(count_max + _TIES_MAX).filter(pl.col("count") >= least)
        else:
            ties = found
        return [EntityCount(*row) for row in ties.iter_rows()], len(found)

    def sources(self, ids: Collection[bytes]) -> dict[bytes, list[tuple[str, int]]]:
        """Where the records of entities come from, most records first; `SOURCES_TOLD` of each at most."""
        told = (
            self._summed()
            .filter(pl.col("id").is_in(pl.Series(list(ids), dtype=pl.Binary).implode()))
            .sort("count", "source", descending=[True, False])
            .group_by("id", maintain_order=True)
            .agg(pl.col("source").head(SOURCES_TOLD), pl.col("count").head(SOURCES_TOLD))
        )
        return {id_: list(zip(sources, counts, strict=True)) for id_, sources, counts in told.iter_rows()}

    def _summed(self) -> pl.DataFrame:
        return (
            pl.concat(self._sums)
            .group_by("id", "source")
            .agg(
                pl.col("type").first(),
                pl.col("value").max(),
                pl.col("count").sum(),
                pl.col("first_ns").min(),
                pl.col("last_ns").max(),
            )
        )
