"""Attribute columns → the three maps of the record schema, by the type of each value.

A decoder hands in flat columns (one key, a value or null a row) or maps that are already built; the maps are
made by counting and one `take`, without a loop over records. What is beyond the limits of a record goes to one
JSON object (`overflow`). Keys of a record must be distinct within what is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.domain.records import (
    ATTRIBUTE_COUNT_MAX,
    ATTRIBUTE_KEY_BYTES_MAX,
    ATTRIBUTE_VALUE_BYTES_MAX,
    MAP_BOOL,
    MAP_NUMBER,
    MAP_STRING,
    SAFE_INTEGER_MAX,
)

_TYPES: Final = (MAP_STRING, MAP_NUMBER, MAP_BOOL)
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Maps:
    """The attributes of a batch: three columns of its length."""

    strings: pa.MapArray
    numbers: pa.MapArray
    bools: pa.MapArray


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pairs of one value type. Rows ascend; they are distinct if all pairs have one key."""

    rows: _Rows
    key: str | pa.Array
    values: pa.Array


class MapBuilder:
    """Collects attribute columns of `count` rows and builds the maps. Not thread-safe."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pieces: tuple[list[_Piece], list[_Piece], list[_Piece]] = ([], [], [])

    def add(self, key: str, values: pa.Array) -> None:
        """Add a column under one key.

        Args:
            key: The attribute's name.
            values: `count` rows; null: the record lacks it. Booleans and numbers keep their type, integers
                beyond 2^53 become text, other scalars text as `arrays.text` writes it.
        """
        values = arrays.plain(values)
        kind = values.type
        if values.null_count == len(values):
            return
        if pa.types.is_boolean(kind):
            self._put(2, key, values)
        elif pa.types.is_floating(kind):
            self._put(1, key, values.cast(pa.float64()))
        elif pa.types.is_integer(kind):
            self._put_integers(key, values)
        else:
            self._put(0, key, arrays.text(values))

    def add_map(self, pairs: pa.MapArray) -> None:
        """Add attributes that are already a map column of strings, numbers or booleans, without null keys or values."""
        kind = pairs.type.item_type
        index = 2 if pa.types.is_boolean(kind) else 1 if arrays.is_number(kind) else 0
        offsets = np.asarray(pairs.offsets).astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        if first == last:
            return
        rows = np.repeat(np.arange(self._count), np.diff(offsets))
        keys = arrays.plain(pairs.keys.slice(first, last - first))
        values = arrays.plain(pairs.items.slice(first, last - first)).cast(_TYPES[index].item_type)
        self._pieces[index].append(_Piece(rows, keys, values))

    def add_pairs(self, rows: _Rows, keys: str | pa.Array, values: pa.Array) -> None:
        """Add pairs of one value type.

        Args:
            rows: Ascending; distinct if all pairs have one key.
            keys: One for each, as text or dictionary, or the key of all.
            values: String, float64 or bool, no nulls.
        """
        kind = values.type
        index = 2 if pa.types.is_boolean(kind) else 1 if arrays.is_number(kind) else 0
        if len(rows):
            self._pieces[index].append(_Piece(rows, keys, values.cast(_TYPES[index].item_type)))

    def build(self) -> Maps:
        """Make the three columns."""
        return Maps(*(self._merge(pieces, kind) for pieces, kind in zip(self._pieces, _TYPES, strict=True)))

    def _put(self, index: int, key: str, values: pa.Array) -> None:
        if values.null_count == 0:
            self._pieces[index].append(_Piece(np.arange(self._count), key, values))
            return
        rows = np.flatnonzero(arrays.bools(values.is_valid()))
        self._pieces[index].append(_Piece(rows, key, values.drop_null()))

    def _put_integers(self, key: str, values: pa.Array) -> None:
        extent = pc.min_max(values).as_py()
        if extent["min"] >= -SAFE_INTEGER_MAX and extent["max"] <= SAFE_INTEGER_MAX:
            self._put(1, key, values.cast(pa.float64(), safe=False))
            return
        limit = pa.scalar(SAFE_INTEGER_MAX, values.type)
        safe = pc.less_equal(values, limit)
        if not pa.types.is_unsigned_integer(values.type):
            safe = pc.and_(safe, pc.greater_equal(values, pa.scalar(-SAFE_INTEGER_MAX, values.type)))
        none = pa.scalar(None, values.type)
        for part in (
            pc.if_else(safe, values, none).cast(pa.float64(), safe=False),
            pc.if_else(safe, none, values).cast(pa.string()),
        ):
            if part.null_count < len(part):
                self._put(1 if pa.types.is_floating(part.type) else 0, key, part)

    def _merge(self, pieces: list[_Piece], kind: pa.MapType) -> pa.MapArray:
        counts = np.zeros(self._count, np.int64)
        for piece in pieces:
            if isinstance(piece.key, str):
                counts[piece.rows] += 1
            else:
                counts += np.bincount(piece.rows, minlength=self._count)
        offsets = _offsets(counts)
        if not pieces:
            return _map(offsets, pa.array([], pa.string()), pa.array([], kind.item_type), kind)
        keys, values = _keys(pieces), pa.concat_arrays([piece.values for piece in pieces])
        if len(pieces) > 1:
            order = pa.array(_interleaved(pieces, offsets))
            keys, values = keys.take(order), values.take(order)
        return _map(offsets, keys.cast(pa.string()), values, kind)


def limited(attributes: Maps, resource: Maps, count_max: int = ATTRIBUTE_COUNT_MAX) -> tuple[Maps, Maps, pa.Array]:
    """Enforce the limits of a record's attributes.

    The attributes and the resource attributes have the limit of count each. What goes over any limit is kept
    as a JSON object in text, resource attributes under the prefix `resource.`.

    Args:
        attributes: Of the records.
        resource: Of what they come from.
        count_max: How many of each a record may have.

    Returns:
        Both, within the limits, and the `overflow` column.
    """
    count = len(attributes.strings)
    cut: list[tuple[_Rows, pa.Array]] = []
    kept = [_limit(maps, prefix, cut, count_max) for maps, prefix in ((attributes, ""), (resource, "resource."))]
    if not cut:
        return kept[0], kept[1], pa.repeat(pa.scalar("", pa.string()), count)
    rows = np.concatenate([rows for rows, _ in cut])
    pairs = pl.Series(pa.concat_arrays([text for _, text in cut]))
    objects = (
        pl.DataFrame({"row": rows, "pair": pairs})
        .group_by("row", maintain_order=True)
        .agg(pl.col("pair").str.join(","))
    )
    lines = pl.DataFrame({"row": np.arange(count)}).join(objects, on="row", how="left", maintain_order="left")
    column = lines.select(pl.when(pl.col("pair").is_null()).then(pl.lit("")).otherwise("{" + pl.col("pair") + "}"))
    return kept[0], kept[1], column.to_series().to_arrow().cast(pa.string())


def _limit(maps: Maps, prefix: str, cut: list[tuple[_Rows, pa.Array]], count_max: int) -> Maps:
    columns = (maps.strings, maps.numbers, maps.bools)
    counts = [_counts(column) for column in columns]
    if (counts[0] + counts[1] + counts[2]).max(initial=0) <= count_max and not any(
        _too_long(column) for column in columns
    ):
        return maps
    taken = np.zeros(len(counts[0]), np.int64)
    kept = []
    for column, kind, lengths in zip(columns, _TYPES, counts, strict=True):
        first = int(np.asarray(column.offsets)[0])
        keys, values = (part.slice(first, int(lengths.sum())) for part in (column.keys, column.items))
        rows = np.repeat(np.arange(len(lengths)), lengths)
        good = arrays.byte_lengths(keys) <= ATTRIBUTE_KEY_BYTES_MAX
        if arrays.is_text(values.type):
            good &= arrays.byte_lengths(values) <= ATTRIBUTE_VALUE_BYTES_MAX
        before = _offsets(good)
        starts = before[_offsets(lengths)[:-1]]
        good &= taken[rows] + before[:-1] - starts[rows] < count_max
        mask = pa.array(good)
        lengths = np.bincount(rows[good], minlength=len(lengths))
        taken += lengths
        kept.append(_map(_offsets(lengths), keys.filter(mask), values.filter(mask), kind))
        if not good.all():
            lost = pa.array(~good)
            cut.append((rows[~good], _json_pairs(keys.filter(lost), values.filter(lost), prefix)))
    return Maps(*kept)


def _json_pairs(keys: pa.Array, values: pa.Array, prefix: str) -> pa.Array:
    """Each pair as `"key":value`."""
    frame = pl.DataFrame({"key": pl.Series(keys), "value": pl.Series(values)})
    encoded = frame.select(
        # A struct of one field is written as {"_":…}: what stands between is the JSON of the value.
        pl.struct((prefix + pl.col("key")).alias("_")).struct.json_encode().str.slice(5).str.head(-1)
        + ":"
        + pl.struct(pl.col("value").alias("_")).struct.json_encode().str.slice(5).str.head(-1)
    )
    return encoded.to_series().to_arrow().cast(pa.string())


def _too_long(column: pa.MapArray) -> bool:
    if arrays.byte_lengths(column.keys).max(initial=0) > ATTRIBUTE_KEY_BYTES_MAX:
        return True
    return arrays.is_text(column.type.item_type) and bool(
        arrays.byte_lengths(column.items).max(initial=0) > ATTRIBUTE_VALUE_BYTES_MAX
    )


def _counts(column: pa.MapArray) -> _Rows:
    offsets = np.asarray(column.offsets).astype(np.int64)
    return offsets[1:] - offsets[:-1]


def _offsets(counts: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> _Rows:
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def _map(offsets: _Rows, keys: pa.Array, values: pa.Array, kind: pa.MapType) -> pa.MapArray:
    return pa.MapArray.from_arrays(pa.array(offsets.astype(np.int32)), keys, values, type=kind)


def _keys(pieces: Sequence[_Piece]) -> pa.Array:
    """The key of each pair, piece after piece; as a dictionary unless some piece has its keys as plain text."""
    if any(not isinstance(piece.key, str) and not pa.types.is_dictionary(piece.key.type) for piece in pieces):
        return pa.concat_arrays([_plain_keys(piece) for piece in pieces])
    dictionaries: list[pa.Array] = []
    codes: list[npt.NDArray[np.int32]] = []
    size = 0
    for piece in pieces:
        if isinstance(piece.key, str):
            dictionaries.append(pa.array([piece.key], pa.string()))
            codes.append(np.full(len(piece.rows), size, np.int32))
        else:
            dictionaries.append(arrays.plain(piece.key.dictionary))
            codes.append((arrays.int64s(piece.key.indices) + size).astype(np.int32))
        size += len(dictionaries[-1])
    return pa.DictionaryArray.from_arrays(pa.array(np.concatenate(codes)), pa.concat_arrays(dictionaries))


def _plain_keys(piece: _Piece) -> pa.Array:
    if isinstance(piece.key, str):
        return pa.repeat(pa.scalar(piece.key, pa.string()), len(piece.rows))
    return arrays.plain(piece.key)


def _interleaved(pieces: Sequence[_Piece], offsets: _Rows) -> _Rows:
    """Where each pair of the result comes from, so that pairs of a row stand together."""
    cursor = offsets[:-1].copy()
    order = np.empty(int(offsets[-1]), np.int64)
    base = 0
    for piece in pieces:
        rows = piece.rows
        slots = cursor[rows]
        if isinstance(piece.key, str):
            cursor[rows] += 1
        else:
            lengths = np.bincount(rows, minlength=len(cursor))
            slots += np.arange(len(rows)) - _offsets(lengths)[rows]
            cursor += lengths
        order[slots] = np.arange(base, base + len(rows))
        base += len(rows)
    return order
