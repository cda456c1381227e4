"""Frames of polars → the graph's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
import pyarrow as pa

from heimdall_server.domain.graph import EDGE_KINDS, EDGE_SCHEMA, VERTEX_KINDS, VERTEX_SCHEMA, EdgeKind, VertexKind

_DEFAULTS: Final[Mapping[str, Any]] = {"type": "", "value": "", "day": 0, "hours": None, "relation": ""}
"""Of columns that a frame may lack."""


def vertices(kind: VertexKind, frame: pl.DataFrame) -> pa.Table:
    """Vertices of a kind.

    Args:
        kind: Theirs.
        frame: `id` (binary), `provenance`, the span, and what of `type`, `value`, `day`, `hours` they have.
    """
    return _table(VERTEX_SCHEMA, VERTEX_KINDS.index(kind), frame)


def edges(kind: EdgeKind, frame: pl.DataFrame) -> pa.Table:
    """Edges of a kind.

    Args:
        kind: Theirs.
        frame: `start` and `end` (binary), `provenance`, the span, and `relation` if they have one.
    """
    return _table(EDGE_SCHEMA, EDGE_KINDS.index(kind), frame)


def _table(schema: pa.Schema, kind: int, frame: pl.DataFrame) -> pa.Table:
    columns = []
    for field in schema:
        if field.name == "kind":
            column: Any = pa.repeat(pa.scalar(kind, field.type), len(frame))
        elif field.name in frame.columns:
            column = frame[field.name].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(field.type)
        else:
            column = pa.repeat(pa.scalar(_DEFAULTS[field.name], field.type), len(frame))
        columns.append(column)
    return pa.table(columns, schema=schema)
