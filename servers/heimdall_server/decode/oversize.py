"""The limit on a record's size for formats whose records aren't cut from bytes, Arrow and OTLP: measured in columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.decoding import Decoded, RowError
from heimdall_server.domain.records import RECORD_BYTES_MAX

_TEXTS = ("body", "overflow")
_MAPS = ("attributes", "resource")


def refuse_oversized(decoded: Decoded) -> Decoded:
    """Turn records over `RECORD_BYTES_MAX` into row errors, without their bytes: they would exceed the limit, too.

    Other fields are bounded by what decoders keep of them (attributes by count and size, ids by their form).

    Cost: nothing to speak of for a batch that is smaller than one record may be, else about 5 ns an attribute.
    """
    batch = decoded.batch
    if batch.nbytes <= RECORD_BYTES_MAX:
        return decoded
    sizes = sum((_text_bytes(batch.column(name)) for name in _TEXTS), np.zeros(batch.num_rows, np.int64))
    sizes = sum((_map_bytes(batch.column(name)) for name in _MAPS), sizes)
    large = np.flatnonzero(sizes > RECORD_BYTES_MAX)
    if not len(large):
        return decoded
    bad = [error.row for error in decoded.errors]
    rows = np.setdiff1d(np.arange(decoded.record_count), bad)
    errors = [
        RowError(
            int(rows[index]),
            int(rows[index]),
            f"a record of {sizes[index]} bytes is over the limit of {RECORD_BYTES_MAX}",
        )
        for index in large
    ]
    kept = batch.filter(pa.array(sizes <= RECORD_BYTES_MAX))
    return Decoded(kept, sorted([*decoded.errors, *errors], key=lambda error: error.row))


def _text_bytes(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False), np.int64)


def _map_bytes(maps: pa.MapArray) -> npt.NDArray[np.int64]:
    ends = np.concatenate(([0], np.cumsum(_text_bytes(maps.keys) + _text_bytes(maps.items))))
    offsets = maps.offsets.to_numpy()
    return np.asarray(ends[offsets[1:]] - ends[offsets[:-1]], np.int64)
