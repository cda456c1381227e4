"""Observations → the graph's facts: vertices and edges in columns, each with who says so.

Of every record: an entity for each value seen, and a sighting of it for each source and day, with a count for each hour. What dumps have beyond
that is in `dump_facts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.column import to_arrow
from heimdall_server.canonical.observables import TOKEN_TYPE
from heimdall_server.domain.graph import HOURS, EdgeKind, Provenance, VertexKind
from heimdall_server.domain.graph_ids import entity_ids, sighting_id
from heimdall_server.projections.graph.tables import edges, vertices

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = HOURS * HOUR_NS

Identify = Callable[[str, pa.StringArray], pa.StringArray]
"""Type and canonical values (or class and tokens) → canonical ids of entities; null: it can't be told, or was erased."""


@dataclass(frozen=True, slots=True)
class Records:
    """What of each record its facts need; all of one length."""

    provenance: pl.Series
    """UInt16."""
    time_ns: pl.Series
    """Int64."""
    place: pl.Series
    """Int64: record number in its dump, or position in the journal."""

    def frame(self) -> pl.DataFrame:
        """With the record's row, day and hour."""
        return pl.DataFrame(
            {
                "row": np.arange(len(self.time_ns), dtype=np.uint32),
                "provenance": self.provenance,
                "time_ns": self.time_ns,
                "place": self.place,
            }
        ).with_columns(
            day=(pl.col("time_ns") // DAY_NS).cast(pl.Int32),
            hour=(pl.col("time_ns") % DAY_NS // HOUR_NS).cast(pl.UInt8),
        )


def identified(observations: pl.DataFrame, identify: Identify) -> pl.DataFrame:
    """Say which entities the values are.

    Args:
        observations: As `observe` makes them.
        identify: Says it, once a distinct value.

    Returns:
        With `id` of the entity, without values that are none; a token's type is its class.
    """
    is_token = pl.col("type") == TOKEN_TYPE
    typed = observations.with_columns(
        type=pl.when(is_token).then(pl.col("value").str.extract(r"^([^:]+)")).otherwise(pl.col("type")),
        value=pl.when(is_token).then(pl.format("[{}]", "value")).otherwise(pl.col("value")),
    )
    named = [typed.clear().select("type", "value", id=pl.lit(b"", pl.Binary))]
    for (type_name,), part in typed.select("type", "value").unique(maintain_order=True).group_by("type"):
        ids = identify(str(type_name), to_arrow(part["value"]))
        binary = pl.Series("id", entity_ids(ids.drop_null()).cast(pa.binary()), dtype=pl.Binary)
        named.append(part.filter(pl.Series(ids.is_valid())).with_columns(binary))
    return typed.join(pl.concat(named), on=["type", "value"])


def spans(seen: pl.DataFrame, by: Sequence[str], *further: pl.Expr) -> pl.DataFrame:
    """What was seen, grouped: when and where first and last, and how often; and what else is asked for."""
    return seen.group_by(by, maintain_order=True).agg(
        *further,
        first_ns=pl.col("time_ns").min(),
        last_ns=pl.col("time_ns").max(),
        count=pl.len().cast(pl.Int64),
        first_place=pl.col("place").min(),
        last_place=pl.col("place").max(),
    )


def sightings(seen: pl.DataFrame, provenances: Sequence[Provenance]) -> pl.DataFrame:
    """Sightings of entities.

    Args:
        seen: `id` of an entity, once a record, with the columns of `Records.frame`.
        provenances: Whom `provenance` names.

    Returns:
        By entity, provenance and day: `id`, `entity`, `provenance`, `type` (`dump` or `log`), `value` (its name), `day`, `hours` and the span.
    """
    grouped = spans(seen, ["id", "provenance", "day"])
    index = grouped.select("id", "provenance", "day").with_row_index("group")
    hourly = seen.group_by("id", "provenance", "day", "hour").len().join(index, on=["id", "provenance", "day"])
    hours = np.zeros((len(grouped), HOURS), np.int32)
    hours[hourly["group"].to_numpy(), hourly["hour"].to_numpy()] = hourly["len"].to_numpy()
    codes = grouped["provenance"].to_list()
    names = [provenances[code].dump or provenances[code].source for code in codes]
    ids = map(sighting_id, grouped["id"].to_list(), names, grouped["day"].to_list())
    return grouped.rename({"id": "entity"}).with_columns(
        pl.Series("id", list(ids), pl.Binary),
        pl.Series("type", ["dump" if provenances[code].dump else "log" for code in codes], pl.String),
        pl.Series("value", names, pl.String),
        pl.Series("hours", hours, pl.Array(pl.Int32, HOURS)),
    )


def entity_facts(seen: pl.DataFrame, sighted: pl.DataFrame) -> tuple[list[pa.Table], list[pa.Table]]:
    """Entities, their sightings, and what joins them.

    Args:
        seen: As for `sightings`, with `type` and `value`.
        sighted: As `sightings` gives them.

    Returns:
        Vertices and edges.
    """
    entities = spans(seen, ["id", "type", "value", "provenance"])
    return (
        [vertices(VertexKind.ENTITY, entities), vertices(VertexKind.SIGHTING, sighted)],
        [edges(EdgeKind.OF_ENTITY, sighted.rename({"id": "start", "entity": "end"}))],
    )
