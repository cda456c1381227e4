"""What the graph holds of a dump beyond its entities: the dump, its fields, their distinct values, and where entities were sighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.domain.expression.literals import number_text
from heimdall_server.domain.graph import EdgeKind, Provenance, VertexKind
from heimdall_server.domain.graph_ids import dump_id, field_id, field_value_ids
from heimdall_server.projections.graph.facts import spans
from heimdall_server.projections.graph.tables import edges, vertices
from heimdall_server.protect.columns import FlatMap

VALUE_CHARACTERS_MAX: Final = 1024
"""A longer text of a field is no value of the graph: it says something about something."""
FIELDS: Final[Mapping[str, Any]] = {"row": pl.UInt32(), "field": pl.String(), "text": pl.String()}


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """Facts of the dumps that a batch has records of."""

    vertices: list[pa.Table]
    edges: list[pa.Table]


def fields_of(records: pa.RecordBatch) -> pl.DataFrame:
    """What each attribute of records of dumps says.

    Returns:
        `FIELDS`; numbers and truth values as they are written.
    """
    in_dump = pl.Series(records.column("dump")) != ""
    parts = [pl.DataFrame(schema=dict(FIELDS))]
    if not in_dump.any():
        return parts[0]
    for name in ("attributes", "attributes_number", "attributes_bool"):
        entries = FlatMap.of(records.column(name))
        rows = entries.rows().astype(np.uint32)
        keys, texts = pl.Series(entries.keys, dtype=pl.String), _written(pl.Series(entries.items))
        part = pl.DataFrame({"row": rows, "field": keys, "text": texts}, schema=dict(FIELDS))
        parts.append(part.filter(in_dump.gather(rows)))
    return pl.concat(parts)


def dump_facts(
    frame: pl.DataFrame,
    seen: pl.DataFrame,
    sighted: pl.DataFrame,
    fields: pl.DataFrame,
    provenances: Sequence[Provenance],
) -> DumpFacts:
    """Make them.

    Args:
        frame: Of `Records`.
        seen: Observations with `id` of their entity and the columns of `frame`.
        sighted: As `sightings` gives them.
        fields: As `fields_of` gives them.
        provenances: Whom `provenance` names.
    """
    dumps = pl.DataFrame(
        [(code, dump_id(one.dump), one.dump) for code, one in enumerate(provenances) if one.dump],
        schema={"provenance": pl.UInt16, "dump": pl.Binary, "name": pl.String},
        orient="row",
    )
    frame = frame.join(dumps, on="provenance")
    said = fields.filter(pl.col("text").str.len_chars().is_between(1, VALUE_CHARACTERS_MAX)).join(frame, on="row")
    by_dump = spans(frame, ["provenance", "dump", "name"])
    by_field = _with_field_ids(spans(said, ["provenance", "dump", "field"]))
    names = by_field.select("provenance", "field", "field_id")
    values = _values(said, seen, names)
    observed = sighted.join(dumps, on="provenance")
    in_fields = (
        spans(seen.unique(["row", "field", "id"]), ["id", "provenance", "day", "field"])
        .join(names, on=["provenance", "field"])
        .join(observed.select("provenance", "day", id="entity", sighting="id"), on=["id", "provenance", "day"])
    )
    return DumpFacts(
        [
            vertices(VertexKind.DUMP, by_dump.rename({"dump": "id", "name": "value"})),
            vertices(VertexKind.FIELD, by_field.rename({"field_id": "id", "field": "value"})),
            vertices(VertexKind.FIELD_VALUE, values),
        ],
        [
            edges(EdgeKind.HAS_FIELD, by_field.rename({"dump": "start", "field_id": "end"})),
            edges(EdgeKind.HAS_VALUE, values.rename({"field_id": "start", "id": "end"})),
            edges(EdgeKind.OF_ENTITY, values.drop_nulls("entity").rename({"id": "start", "entity": "end"})),
            edges(EdgeKind.OBSERVED_IN, observed.rename({"id": "start", "dump": "end"})),
            edges(EdgeKind.OBSERVED_IN, in_fields.drop("id").rename({"sighting": "start", "field_id": "end"})),
        ],
    )


def _with_field_ids(by_field: pl.DataFrame) -> pl.DataFrame:
    ids = list(map(field_id, by_field["dump"].to_list(), by_field["field"].to_list()))
    return by_field.with_columns(pl.Series("field_id", ids, pl.Binary))


def _values(said: pl.DataFrame, seen: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Distinct values of fields: `id`, `field_id`, `type`, `value`, `entity` (null: none) and the span."""
    whole = (
        seen.filter("whole")
        .unique(["row", "field"], keep="first", maintain_order=True)
        .select("row", "field", "value", "type", entity="id")
    )
    valued = said.join(whole, on=["row", "field"], how="left").with_columns(
        pl.coalesce("value", "text").alias("value"), pl.col("type").fill_null("")
    )
    values = spans(valued, ["provenance", "field", "type", "value", "entity"]).join(names, on=["provenance", "field"])
    values = values.with_columns(identity=pl.coalesce("entity", pl.col("value").cast(pl.Binary))).sort("field_id")
    ids = [
        pl.Series(field_value_ids(field, part["identity"].to_list()).cast(pa.binary()), dtype=pl.Binary)
        for (field,), part in values.group_by("field_id", maintain_order=True)
        if isinstance(field, bytes)
    ]
    return values.with_columns(pl.concat(ids).alias("id") if ids else pl.lit(b"", pl.Binary).alias("id"))


def _written(items: pl.Series) -> pl.Series:
    if items.dtype == pl.String:
        return items
    spell = {True: "true", False: "false"}.__getitem__ if items.dtype == pl.Boolean else number_text
    distinct = items.unique()
    return items.replace_strict(distinct, pl.Series(list(map(spell, distinct.to_list())), dtype=pl.String))
