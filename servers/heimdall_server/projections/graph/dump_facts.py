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
from heimdall_server.domain.graph_batches import ProfilePart
from heimdall_server.domain.graph_ids import dump_id, field_id, field_value_ids
from heimdall_server.projections.graph.dump_profiles import FORMS, profile_parts
from heimdall_server.projections.graph.facts import spans
from heimdall_server.projections.graph.tables import edges, vertices
from heimdall_server.protect.columns import FlatMap

VALUE_CHARACTERS_MAX: Final = 1024
"""A longer text of a field is no value of the graph: it says something about something."""
FIELDS: Final[Mapping[str, Any]] = {
    "row": pl.UInt32(),
    "field": pl.String(),
    "text": pl.String(),
    "form": pl.UInt8(),
    "number": pl.Float64(),
}
"""`form` indexes `FORMS`; `number`: what was said as one, else null."""


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """Facts of the dumps that a batch has records of."""

    vertices: list[pa.Table]
    edges: list[pa.Table]
    profiles: list[ProfilePart]


def fields_of(records: pa.RecordBatch) -> pl.DataFrame:
    """What each attribute of records of dumps says.

    Returns:
        `FIELDS`; numbers and truth values as they are written.
    """
    in_dump = pl.Series(records.column("dump")) != ""
    parts = [pl.DataFrame(schema=dict(FIELDS))]
    if not in_dump.any():
        return parts[0]
    for form, name in enumerate(("attributes", "attributes_number", "attributes_bool")):
        entries = FlatMap.of(records.column(name))
        items = pl.Series(entries.items)
        part = pl.DataFrame(
            {
                "row": entries.rows().astype(np.uint32),
                "field": pl.Series(entries.keys, dtype=pl.String),
                "text": _written(items),
                "form": pl.repeat(form, len(items), dtype=pl.UInt8, eager=True),
                "number": items if FORMS[form] == "number" else pl.repeat(None, len(items), eager=True),
            },
            schema=dict(FIELDS),
        )
        parts.append(part.filter(in_dump.gather(part["row"])))
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
    told = fields.with_columns(characters=pl.col("text").str.len_chars()).join(frame, on="row")
    said, empty = told.filter(pl.col("characters") > 0), told.filter(pl.col("characters") == 0)
    by_dump = spans(frame, ["provenance", "dump", "name"])
    by_field = _with_field_ids(spans(told, ["provenance", "dump", "field"]))
    names = by_field.select("provenance", "field", "field_id")
    distinct = _distinct(said, seen, names)
    values = _with_ids(distinct.filter(~pl.col("is_long")))
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
        profile_parts(
            by_dump,
            empty.group_by("provenance", "field", maintain_order=True)
            .len("count")
            .join(names, on=["provenance", "field"]),
            distinct,
        ),
    )


def _with_field_ids(by_field: pl.DataFrame) -> pl.DataFrame:
    ids = list(map(field_id, by_field["dump"].to_list(), by_field["field"].to_list()))
    return by_field.with_columns(pl.Series("field_id", ids, pl.Binary))


def _distinct(said: pl.DataFrame, seen: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Distinct values of fields: `field_id`, `type`, `value`, `entity` (null: none), the span, and what their profiles need."""
    whole = (
        seen.filter("whole")
        .unique(["row", "field"], keep="first", maintain_order=True)
        .select("row", "field", "value", "type", entity="id")
    )
    valued = said.join(whole, on=["row", "field"], how="left").with_columns(
        pl.coalesce("value", "text").alias("value"),
        pl.col("type").fill_null(""),
        is_long=pl.col("characters") > VALUE_CHARACTERS_MAX,
    )
    by = ["provenance", "field", "type", "value", "entity", "is_long"]
    profiled = (
        pl.col("form").min(),
        pl.col("characters").min().name.suffix("_min"),
        pl.col("characters").max().name.suffix("_max"),
        pl.col("number").min().name.suffix("_min"),
        pl.col("number").max().name.suffix("_max"),
    )
    return spans(valued, by, *profiled).join(names, on=["provenance", "field"])


def _with_ids(values: pl.DataFrame) -> pl.DataFrame:
    """With the `id` of the value in its field."""
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
