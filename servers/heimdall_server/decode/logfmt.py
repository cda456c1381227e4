"""`key=value` lines: the pairs of each record's first line become fields, named as in `mapping`."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.decode import cells, mapping
from heimdall_server.decode.line_records import Fields
from heimdall_server.decode.lines import Records
from heimdall_server.decode.pairs import pair_maps

_PAIR: Final = r'[A-Za-z_][\w.@/-]*=(?:"(?:[^"\\]|\\.)*"|[^\s"]*)'
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "\\t": "\t", "\\r": "\r"}


def read_pairs(records: Records, *, is_dump: bool = False) -> Fields:
    """Read records of `key=value` pairs.

    A quoted value is text; others are typed as cells are. Where a key comes twice, the last one counts. The
    body is the message's pair (with the lines that joined the record), or the whole line if it has none.

    Args:
        records: The cut chunk.
        is_dump: All pairs stay attributes, too.
    """
    heads = records.heads()
    pairs = _pairs(heads)
    core_columns: dict[str, list[pa.Array]] = {}
    for key in pairs["key"].unique().to_list():
        if mapping.target_of(key) is not None:
            core_columns[key] = [_column(pairs.filter(pl.col("key") == key), len(records))]
    core, attributes = mapping.split(core_columns, keep=is_dump)
    body = core.pop("body", [])
    rest = pairs.filter(~pl.col("key").is_in(list(core_columns)))
    return Fields(
        core={**core, "body": cells.to_arrow(_body(records, heads, body))},
        attributes=attributes,
        maps=pair_maps(rest, len(records)),
        columns_kept=is_dump,
    )


def _pairs(heads: pl.Series) -> pl.DataFrame:
    """One row a pair: record, key, value, and whether it was quoted."""
    found = heads.str.extract_all(_PAIR)
    rows = np.repeat(np.arange(len(heads), dtype=np.int64), found.list.len().to_numpy())
    flat = pl.DataFrame({"pair": found.explode(keep_nulls=False, empty_as_null=False)})
    parts = flat.select(pl.col("pair").str.splitn("=", 2).struct.rename_fields(["key", "raw"])).unnest("pair")
    quoted = pl.col("raw").str.starts_with('"')
    plain = pl.when(quoted).then(pl.col("raw").str.strip_chars('"')).otherwise(pl.col("raw"))
    frame = parts.select(pl.Series("row", rows), "key", "raw", quoted.alias("quoted"), plain.alias("value"))
    escaped = frame["quoted"] & frame["raw"].str.contains("\\", literal=True)
    if escaped.any():
        # Only the enclosing quotes go: the text may begin or end with an escaped one.
        inner = pl.col("raw").str.head(-1).str.slice(1).str.replace_many(_ESCAPES)
        frame = frame.with_columns(pl.when(pl.lit(escaped)).then(inner).otherwise(pl.col("value")).alias("value"))
    return frame.unique(subset=["row", "key"], keep="last", maintain_order=True)


def _column(pairs: pl.DataFrame, count: int) -> pa.Array:
    values = pl.Series([None], dtype=pl.String).new_from_index(0, count)
    return cells.to_arrow(cells.present(values.scatter(pairs["row"], pairs["value"])))


def _body(records: Records, heads: pl.Series, parts: list[pa.Array]) -> pl.Series:
    first = heads
    if parts:
        first = pl.select(pl.coalesce(*[pl.lit(pl.Series(part)) for part in parts], pl.lit(heads))).to_series()
    rests = records.rests()
    joined = rests != ""
    if not joined.any():
        return first
    return pl.select(pl.when(joined).then(first + "\n" + rests).otherwise(first)).to_series()
