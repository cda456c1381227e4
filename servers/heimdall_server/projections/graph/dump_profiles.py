"""What a batch adds to the profiles of dumps and their fields, from their distinct values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl

from heimdall_server.canonical.column import to_arrow
from heimdall_server.domain.graph_batches import ProfilePart
from heimdall_server.domain.graph_profiles import SAMPLE_CHARACTERS_MAX, SAMPLE_COUNT, Hashes, Profile, Sketch, smallest
from heimdall_server.domain.personal import CLASS_PATTERN
from heimdall_server.projections.graph.record_hashes import text_hashes

FORMS: Final = ("text", "number", "truth")
"""How a value was written; `form` indexes it."""
_MASKED: Final = rf"^\[(?:hash:|enc:)?({CLASS_PATTERN})[\]:]"
"""A mask, a hash or a ciphertext, with its class. Tokens are known by their entity's type."""
_HASH_BYTES: Final = 8


def profile_parts(by_dump: pl.DataFrame, empty: pl.DataFrame, values: pl.DataFrame) -> list[ProfilePart]:
    """Make them.

    Args:
        by_dump: Records: `provenance`, `dump` (id), `count`.
        empty: Records whose field is empty: `provenance`, `field_id`, `count`.
        values: Distinct values: `provenance`, `field_id`, `type`, `value`, `entity` (id; null: none), `count`, `form`, `characters_min`,
            `characters_max`, `number_min`, `number_max`.
    """
    dumps = by_dump.select("provenance", "dump", "count").iter_rows()
    parts = [ProfilePart(id_, code, Profile(row_count=count)) for code, id_, count in dumps]
    of_empty = empty.select("provenance", "field_id", "count").iter_rows()
    parts += [ProfilePart(id_, code, Profile(empty_count=count)) for code, id_, count in of_empty]
    parts += _of_fields(values)
    return parts


def _of_fields(values: pl.DataFrame) -> Iterator[ProfilePart]:
    told = values.with_columns(
        type=pl.when(pl.col("type") != "")
        .then(pl.col("type"))
        .otherwise(
            pl.coalesce(pl.col("value").str.extract(_MASKED), pl.col("form").replace_strict(dict(enumerate(FORMS))))
        ),
        hash=pl.Series(_hashes(values)),
    )
    for (code, id_), part in told.group_by("provenance", "field_id", maintain_order=True):
        hashes = part["hash"].to_numpy()
        least = part.select("hash", "value").bottom_k(SAMPLE_COUNT, by="hash")
        types = part.group_by("type").agg(pl.col("count").sum()).sort("type")
        if isinstance(code, int) and isinstance(id_, bytes):
            profile = Profile(
                value_count=int(part["count"].sum()),
                characters_min=_whole(part["characters_min"].min()),
                characters_max=_whole(part["characters_max"].max()),
                number_min=_number(part["number_min"].min()),
                number_max=_number(part["number_max"].max()),
                types=dict(types.iter_rows()),
                sketch=Sketch.of(hashes),
                samples=smallest((number, text[:SAMPLE_CHARACTERS_MAX]) for number, text in least.iter_rows()),
            )
            yield ProfilePart(id_, code, profile)


def _hashes(values: pl.DataFrame) -> Hashes:
    """By what values are: of an entity its id, else the text; so they are the same in every field."""
    hashes = text_hashes(to_arrow(values["value"]))
    entities = values["entity"]
    rows = entities.is_not_null().arg_true().to_numpy()
    if len(rows):
        ids = entities.gather(rows).bin.slice(0, _HASH_BYTES)
        hashes[rows] = np.frombuffer(b"".join(ids.to_list()), ">u8")
    return hashes


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0


def _number(number: object) -> float | None:
    return number if isinstance(number, float) else None
