"""Pairs of many keys (`key=value` lines, syslog's structured data) → maps, without a column a key."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.decode import cells


def pair_maps(pairs: pl.DataFrame, count: int) -> list[pa.MapArray]:
    """Make map columns of pairs, one for each type that occurs.

    Args:
        pairs: Columns `row` (ascending), `key` and `value` (text); `quoted` where a value is text whatever it
            looks like. Keys of a row are distinct.
        count: Records.
    """
    quoted = pairs.filter("quoted")
    bare = pairs.filter(~pl.col("quoted"))
    maps = [_map(quoted["row"], quoted["key"], cells.to_arrow(quoted["value"]), count)]
    for part in cells.variants(bare["value"]):
        held = part.is_valid()
        kept = bare.filter(pl.Series(held))
        maps.append(_map(kept["row"], kept["key"], part.filter(held), count))
    return [built for built in maps if len(built.keys)]


def _map(rows: pl.Series, keys: pl.Series, values: pa.Array, count: int) -> pa.MapArray:
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:] = np.cumsum(np.bincount(rows.to_numpy(), minlength=count))
    return pa.MapArray.from_arrays(pa.array(offsets), cells.to_arrow(keys), values)
