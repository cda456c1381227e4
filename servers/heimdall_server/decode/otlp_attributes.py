"""OTLP attributes in columns: lists of key and value → typed pairs, and what belongs to a resource or scope → its records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode.otlp_values import Indices, scalars
from heimdall_server.domain.records import SAFE_INTEGER_MAX

_KEY_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class Pairs:
    """Attributes of one value type."""

    owners: Indices
    """Whose attribute: index of a record, scope or resource; ascending."""
    keys: pa.DictionaryArray
    values: pa.Array
    """String, float64 or bool; no nulls."""

    def names(self) -> set[str]:
        """The distinct keys."""
        return set(self.keys.dictionary.to_pylist())

    def of_records(self, owner_of: Indices) -> Pairs:
        """Give each record the attributes of its owner.

        Args:
            owner_of: The owner of each record.
        """
        counts = np.bincount(self.owners, minlength=int(owner_of.max(initial=-1)) + 1)
        starts = np.cumsum(counts) - counts
        lengths = counts[owner_of]
        firsts = np.repeat(starts[owner_of] - (np.cumsum(lengths) - lengths), lengths)
        index = pa.array(firsts + np.arange(len(firsts)))
        return Pairs(np.repeat(np.arange(len(owner_of)), lengths), self.keys.take(index), self.values.take(index))

    def size_bytes(self, owner_of: Indices) -> int:
        """Bytes of keys and values once each record has those of its owner.

        Args:
            owner_of: The owner of each record.
        """
        sizes = pc.binary_length(self.keys.dictionary).to_numpy(zero_copy_only=False)[self.keys.indices.to_numpy()]
        if pa.types.is_string(self.values.type):
            sizes = sizes + pc.binary_length(self.values).to_numpy(zero_copy_only=False)
        of_owner = np.bincount(self.owners, sizes, minlength=int(owner_of.max(initial=-1)) + 1)
        return int(of_owner[owner_of].sum())

    def prefixed(self, prefix: str) -> Pairs:
        """The same under longer keys."""
        dictionary = pc.binary_join_element_wise(prefix, self.keys.dictionary, "")
        return Pairs(self.owners, pa.DictionaryArray.from_arrays(self.keys.indices, dictionary), self.values)

    def without(self, others: Iterable[Pairs]) -> Pairs:
        """Leave out what others have under the same key."""
        shadowing = [pairs for pairs in others if not self.names().isdisjoint(pairs.names())]
        if not shadowing:
            return self
        taken = pl.concat([_frame(pairs) for pairs in shadowing])
        kept = _frame(self).with_row_index("at").join(taken, on=["owner", "key"], how="anti", maintain_order="left")
        at = kept["at"].to_numpy().astype(np.int64)
        return Pairs(self.owners[at], self.keys.take(pa.array(at)), self.values.take(pa.array(at)))


def constant(key: str, values: pa.Array, carried: npt.NDArray[np.bool_]) -> list[Pairs]:
    """Attributes of one key.

    Args:
        key: The key.
        values: One for each owner.
        carried: Owners that have it.
    """
    owners = np.flatnonzero(carried)
    if not len(owners):
        return []
    keys = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(owners), np.int32)), pa.array([key], pa.string()))
    return [Pairs(owners, keys, values.take(pa.array(owners)))]


def pairs_of(attributes: pa.ListArray) -> list[Pairs]:
    """Attributes by value type; of those with one key the last stays.

    Args:
        attributes: A list of OtlpKeyValue for each owner, no nulls.

    Raises:
        FormatError: A value isn't an AnyValue.
    """
    offsets = attributes.offsets.to_numpy()
    flat = attributes.values
    if not len(flat):
        return []
    owners = np.repeat(np.arange(len(attributes)), np.diff(offsets))
    keys = flat.field("key").dictionary_encode()
    values = flat.field("value")
    kept = _last_of_each(owners, keys.indices.to_numpy(), len(keys.dictionary), offsets)
    if kept is not None:
        owners, keys, values = owners[kept], keys.take(pa.array(kept)), values.take(pa.array(kept))
    return _by_kind(owners, keys, values)


def _by_kind(owners: Indices, keys: pa.DictionaryArray, values: pa.BinaryArray) -> list[Pairs]:
    found: list[Pairs] = []
    missing = np.ones(len(owners), np.bool_)
    for at, column in scalars(values):
        missing[slice(None) if at is None else at] = False
        of_kind = Pairs(owners, keys, column) if at is None else Pairs(owners[at], keys.take(pa.array(at)), column)
        found += _safe(of_kind) if pa.types.is_int64(column.type) else [of_kind]
    if missing.any():
        at = np.flatnonzero(missing)
        found.append(Pairs(owners[at], keys.take(pa.array(at)), pa.repeat(pa.scalar("", pa.string()), len(at))))
    return found


def _safe(pairs: Pairs) -> list[Pairs]:
    """Integers as numbers; as text where a number would lose digits."""
    values = pairs.values.to_numpy()
    exact = (values <= SAFE_INTEGER_MAX) & (values >= -SAFE_INTEGER_MAX)
    if exact.all():
        return [Pairs(pairs.owners, pairs.keys, pa.array(values.astype(np.float64)))]
    inexact = pa.array(~exact)
    texts = Pairs(pairs.owners[~exact], pairs.keys.filter(inexact), pairs.values.filter(inexact).cast(pa.string()))
    numbers = pa.array(values[exact].astype(np.float64))
    return [Pairs(pairs.owners[exact], pairs.keys.filter(pa.array(exact)), numbers), texts]


def _last_of_each(
    owners: Indices, codes: npt.NDArray[np.int32], key_count: int, offsets: npt.NDArray[np.int32]
) -> Indices | None:
    """Indices of the pairs that stay, ascending; None: all."""
    counts = np.diff(offsets)
    if key_count <= _KEY_BITS:
        filled = counts > 0
        bits = np.left_shift(np.uint64(1), codes.astype(np.uint64))
        seen = np.bitwise_or.reduceat(bits, offsets[:-1][filled] - offsets[0])
        if (np.bitwise_count(seen) == counts[filled]).all():
            return None
    pairs = owners * key_count + codes
    _, from_end = np.unique(pairs[::-1], return_index=True)
    return None if len(from_end) == len(pairs) else np.sort(len(pairs) - 1 - from_end)


def _frame(pairs: Pairs) -> pl.DataFrame:
    return pl.DataFrame({"owner": pairs.owners, "key": pl.Series(pairs.keys.cast(pa.string()))})
