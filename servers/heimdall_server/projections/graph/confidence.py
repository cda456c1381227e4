"""How much is believed of facts about what nearly everybody meets: as much as its warninglists say.

The same fact, under the same id, by a provenance that differs in its confidence. So every instance with the same lists makes the same facts, and
what somebody else says about the entity with more confidence counts as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.column import to_arrow
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, VertexKind
from heimdall_server.projections.graph.extraction import Facts
from heimdall_server.projections.graph.warninglists.matching import NOT_LISTED, Warninglists

_ENTITY: Final = VERTEX_KINDS.index(VertexKind.ENTITY)
_OF_ENTITY: Final = EDGE_KINDS.index(EdgeKind.OF_ENTITY)


def lowered(facts: Facts, lists: Warninglists) -> Facts:
    """Let what lists know be believed less.

    Args:
        facts: Of some records.
        lists: In force.

    Returns:
        The same facts. Those of a listed entity, of its sightings, of the values of fields that are it, and of all edges at one of these have a
        provenance with the list's confidence, unless theirs is lower.

    Cost: 0.1 to 0.3 µs a fact, and that of `Warninglists.confidences` a distinct entity.
    """
    listed = _listed(facts, lists)
    if not len(listed):
        return facts
    edges = _frame(facts.edges, ("kind", "start", "end", "provenance"))
    vertices = _frame(facts.vertices, ("id", "provenance"))
    named = edges.filter(pl.col("kind") == _OF_ENTITY).join(listed, left_on="end", right_on="id")
    around = named.group_by(id="start").agg(pl.col("level").min())
    known = pl.concat([listed, around]).group_by("id").agg(pl.col("level").min())
    of_vertices = vertices.join(known, on="id", how="left", maintain_order="left")["level"]
    ends = edges.join(known, left_on="start", right_on="id", how="left", maintain_order="left").join(
        known, left_on="end", right_on="id", how="left", maintain_order="left", suffix="_end"
    )
    of_edges = ends.select(pl.min_horizontal("level", "level_end"))["level"]
    codes = _Codes(facts)
    told_vertices = codes.of(vertices["provenance"], of_vertices)
    told_edges = codes.of(edges["provenance"], of_edges)
    return replace(
        facts,
        vertices=_with_provenance(facts.vertices, told_vertices),
        edges=_with_provenance(facts.edges, told_edges),
        provenances=tuple(codes.all),
    )


class _Codes:
    """Provenances of a batch, with those that are believed less behind them."""

    def __init__(self, facts: Facts) -> None:
        self.all = list(facts.provenances)
        self._known: dict[tuple[int, int], int] = {}

    def of(self, codes: pl.Series, levels: pl.Series) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """Codes of rows, given how much is believed of each; null: as its provenance says."""
        pairs = pl.DataFrame({"code": codes, "level": levels})
        distinct = pairs.unique(maintain_order=True)
        told = [self._code(code, level) for code, level in distinct.iter_rows()]
        found = pairs.join(
            distinct.with_columns(told=pl.Series(told, dtype=pl.UInt16)),
            on=["code", "level"],
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )
        return found["told"].to_numpy()

    def _code(self, code: int, level: int | None) -> int:
        if level is None or level >= self.all[code].confidence:
            return code
        known = self._known.get((code, level))
        if known is None:
            known = self._known[code, level] = len(self.all)
            self.all.append(replace(self.all[code], confidence=level))
        return known


def _listed(facts: Facts, lists: Warninglists) -> pl.DataFrame:
    """Entities that are on a list: `id` and `level`."""
    entities = _frame(facts.vertices, ("kind", "type", "value", "id")).filter(pl.col("kind") == _ENTITY).unique("id")
    parts = [pl.DataFrame(schema={"id": pl.Binary, "level": pl.Int16})]
    for (type_name,), part in entities.group_by("type"):
        levels = lists.confidences(str(type_name), to_arrow(part["value"]))
        found = part.select("id", level=pl.Series(levels, dtype=pl.Int16))
        parts.append(found.filter(pl.col("level") < NOT_LISTED))
    return pl.concat(parts)


def _frame(batch: pa.RecordBatch, names: tuple[str, ...]) -> pl.DataFrame:
    columns = {name: batch.column(name) for name in names}
    return pl.DataFrame(
        {
            name: pl.Series(column.cast(pa.binary()) if pa.types.is_fixed_size_binary(column.type) else column)
            for name, column in columns.items()
        }
    )


def _with_provenance(batch: pa.RecordBatch, codes: np.ndarray[Any, np.dtype[np.uint16]]) -> pa.RecordBatch:
    place = batch.schema.get_field_index("provenance")
    return batch.set_column(place, batch.schema.field(place), pa.array(codes, pa.uint16()))
