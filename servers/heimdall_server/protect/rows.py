"""From a value's place in a column to the records it stands in, and the column `tokens`, by which they are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from heimdall_server.protect.actions import Origin
from heimdall_server.protect.columns import FlatMap, Indices
from heimdall_server.protect.keys import COLUMN, SuspiciousKeys
from heimdall_server.protect.places import Placement, Written, distinct_rows

_MANY = -1


class Rows:
    """The records that values of a batch stand in."""

    def __init__(
        self,
        placements: Sequence[Placement],
        flat: Mapping[str, FlatMap],
        encoded: Mapping[str, pa.DictionaryArray],
        keys: Mapping[str, SuspiciousKeys],
    ) -> None:
        """Take what places refer to.

        Args:
            placements: Where values stand.
            flat: Columns that are maps.
            encoded: Columns whose distinct texts were searched.
            keys: Columns of keys of maps.
        """
        self._placements = placements
        self._flat = flat
        self._encoded = encoded
        self._keys = keys

    def origins(self, ids: Indices) -> list[Origin]:
        """Where values stand, one by one: for actions that treat each by itself."""
        known: dict[int, Origin] = {}
        for one in self._placements:
            mapping = self._flat.get(one.column)
            rows, counts = [_MANY] * len(one.ids), [1] * len(one.ids)
            bound = [""] * len(one.ids)
            if mapping is not None:
                keys = mapping.keys.take(pa.array(one.indices)).to_pylist()
                fields = [f"{one.column}.{key}" for key in keys]
                bound = self._bound(one)
                rows = _rows_of_entries(mapping, one.indices).tolist()
            elif one.column in self._keys:
                named = self._keys[one.column]
                fields = [f"{named.scope}.{key}" for key in named.texts.take(pa.array(one.indices)).to_pylist()]
                bound = [named.scope] * len(one.ids)
                counts = np.bincount(named.codes, minlength=len(named.texts))[one.indices].tolist()
            else:
                fields = [one.column] * len(one.ids)
                encoded = self._encoded.get(one.column)
                if encoded is None:
                    rows = one.indices.tolist()
                else:
                    counts = np.bincount(encoded.indices.to_numpy())[one.indices].tolist()
            known |= {
                number: Origin(field, row, records, to)
                for number, field, row, records, to in zip(one.ids.tolist(), fields, rows, counts, bound, strict=True)
            }
        return [known[number] for number in ids.tolist()]

    def _bound(self, one: Placement) -> list[str]:
        """For values of a map: its name where the value's key may be replaced, too."""
        named = self._keys.get(COLUMN.format(one.column))
        if named is None:
            return [""] * len(one.ids)
        return [one.column if under else "" for under in np.isin(one.indices, named.entries).tolist()]

    def words(self, written: Written, count: int) -> pa.StringArray:
        """The column `tokens`.

        Args:
            written: What was made of the values.
            count: Records.
        """
        rows: list[Indices] = []
        words: list[pa.Array] = []
        for one in self._placements:
            numbers = pa.array(one.ids)
            for of_value, everywhere in ((written.networks, True), (written.words, False)):
                if (one.column == "body" and not everywhere) or of_value.null_count == len(of_value):
                    continue
                places, which = self._rows_of(one)
                rows.append(places)
                words.append(of_value.take(numbers).take(pa.array(which)))
        if not rows:
            return pa.repeat(pa.scalar("", pa.string()), count)
        found, texts = distinct_rows(np.concatenate(rows), pa.concat_arrays(words))
        lengths = np.zeros(count + 1, np.int64)
        lengths[found + 1] = np.diff(np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1])
        ends = np.cumsum(lengths).astype(np.int32)
        return pa.StringArray.from_buffers(count, pa.py_buffer(ends), texts.buffers()[2] or pa.py_buffer(b""))

    def _rows_of(self, one: Placement) -> tuple[Indices, Indices]:
        """Records of a placement, and which of its values stands in each."""
        every = np.arange(len(one.ids))
        mapping = self._flat.get(one.column)
        if mapping is not None:
            return _rows_of_entries(mapping, one.indices), every
        if one.column in self._keys:
            named = self._keys[one.column]
            where, which = _standing(named.codes, one.indices)
            return _rows_of_entries(self._flat[named.name], named.entries[where]), which
        if one.column in self._encoded:
            return _standing(self._encoded[one.column].indices.to_numpy(), one.indices)
        return one.indices, every


def _rows_of_entries(mapping: FlatMap, entries: Indices) -> Indices:
    return np.searchsorted(mapping.offsets, entries, "right") - 1


def _standing(codes: Indices, wanted: Indices) -> tuple[Indices, Indices]:
    """Where each of the wanted codes stands, and which of them it is; a code may be wanted several times."""
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], wanted, "left")
    counts = np.searchsorted(codes[order], wanted, "right") - first
    which = np.repeat(np.arange(len(wanted)), counts)
    within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(first, counts) + within], which
