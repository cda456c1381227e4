"""From records cut of lines to a decoded chunk: what plain text and syslog have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.decode.civil import Stamps
from heimdall_server.decode.columns import Attributes, Variants, assemble
from heimdall_server.decode.lines import Records
from heimdall_server.domain.decoding import DecodeContext, Decoded, RowError
from heimdall_server.domain.records import RECORD_BYTES_MAX

INVALID_UTF8_ATTRIBUTE: Final = "invalid_utf8"
"""True where bytes of the record weren't UTF-8 and became U+FFFD."""


@dataclass(slots=True)
class Fields:
    """What was read from records, in the form that `columns.assemble` takes."""

    core: dict[str, Variants] = field(default_factory=dict)
    attributes: list[tuple[str, pa.Array]] = field(default_factory=list)
    maps: list[pa.MapArray] = field(default_factory=list)
    stamps: Stamps | None = None
    columns_kept: bool = False
    """See `columns.assemble`."""


def decode_records(
    records: Records, chunk: bytes, context: DecodeContext, read: Callable[[Records], Fields], *, shift: int
) -> Decoded:
    """Read the records of a chunk.

    Args:
        records: The cut chunk.
        chunk: What it was cut from, for the dead letters.
        context: What the source says.
        read: Reads the fields of the records that can be read.
        shift: Bytes of `chunk` before the first record.

    Returns:
        Records with a problem are errors; a blank one is neither that nor a record.
    """
    counted = records.text.str.contains(r"\S").to_numpy(writable=True)
    rows = np.cumsum(counted) - 1
    starts = records.offsets + shift
    errors = [
        RowError(
            row=int(rows[index]),
            offset=int(starts[index]),
            reason=reason,
            raw=chunk[int(starts[index]) : min(int(starts[index + 1]), int(starts[index]) + RECORD_BYTES_MAX)],
        )
        for index, reason in sorted(records.problems.items())
        if counted[index]
    ]
    good = counted.copy()
    good[list(records.problems)] = False
    part = records if good.all() else records.only(np.flatnonzero(good))
    fields = read(part)
    if part.damaged.any():
        fields.attributes.append((INVALID_UTF8_ATTRIBUTE, pa.array(part.damaged, mask=~part.damaged)))
    batch = assemble(
        len(part),
        context,
        core=fields.core,
        attributes=Attributes(fields.attributes, fields.maps),
        stamps=fields.stamps,
        rows=rows[good],
        columns_kept=fields.columns_kept,
    )
    return Decoded(batch, errors)
