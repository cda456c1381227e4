"""Feeding a decoder as a source would: in pieces, cut anywhere, each chunk from where the last whole record ended."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import pyarrow as pa

from heimdall_server.domain.decoding import DecodeContext, Decoded, Format, RowError
from heimdall_server.domain.errors import RecordTooLargeError

OBSERVED_NS = 1_800_000_000_000_000_000
"""15 January 2027, 08:00 UTC."""


class LineDecoder(Protocol):
    """A module that cuts and decodes bytes."""

    def complete_length(self, buffer: bytes, format_: Format, /, *, at_start: bool, final: bool) -> int: ...

    def decode(self, chunk: bytes, format_: Format, context: DecodeContext, /, *, at_start: bool) -> Decoded: ...


def context(**values: Any) -> DecodeContext:
    """A context with everything that a test doesn't care for."""
    return DecodeContext(**{"source": "s", "dataset": "logs", "observed_time_ns": OBSERVED_NS, **values})


def feed(decoder: LineDecoder, format_: Format, data: bytes, cuts: Sequence[int]) -> Decoded:
    """Decode `data` as it comes in pieces that end at `cuts`."""
    batches, errors = [], list[RowError]()
    buffer, position, rows = b"", 0, 0
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    for begin, end in pairwise(edges):
        buffer += data[begin:end]
        while buffer:
            try:
                length = decoder.complete_length(buffer, format_, at_start=position == 0, final=end == len(data))
            except RecordTooLargeError:
                # Held all the same: it is then for `decode` to refuse.
                length = 0
            assert 0 <= length <= len(buffer)
            if not length:
                break
            numbered = context(dump="d", first_record_number=rows + 1)
            decoded = decoder.decode(buffer[:length], format_, numbered, at_start=position == 0)
            batches.append(decoded.batch)
            errors += [
                RowError(error.row + rows, error.offset + position, error.reason, error.field, error.raw)
                for error in decoded.errors
            ]
            rows += decoded.record_count
            position += length
            buffer = buffer[length:]
    assert not buffer
    if not batches:
        return decoder.decode(b"", format_, context(dump="d", first_record_number=1), at_start=True)
    return Decoded(pa.concat_batches(batches), errors)


def feed_held(decoder: Any, format_: Format, data: bytes, *, piece_bytes: int) -> tuple[list[Decoded], list[int], int]:
    """Feed a source with records over the limit as a server does: pass over what is too large.

    Returns:
        What was decoded, the size of each record that was passed over, and the most bytes that were held.
    """
    decoded, passed, held = [], list[int](), 0
    buffer, position, owed, skipping = b"", 0, 0, False
    for begin in range(0, len(data), piece_bytes):
        buffer += data[begin : begin + piece_bytes]
        final = begin + piece_bytes >= len(data)
        held = max(held, len(buffer))
        while buffer:
            if owed or skipping:
                if not owed:
                    owed, ended = decoder.oversize_prefix(buffer, format_, final=final)
                    passed[-1] += owed
                    skipping = not ended
                taken = min(owed, len(buffer))
                owed, position, buffer = owed - taken, position + taken, buffer[taken:]
                if not taken:
                    break
                continue
            try:
                length = decoder.complete_length(buffer, format_, at_start=position == 0, final=final)
            except RecordTooLargeError:
                passed.append(0)
                skipping = True
                continue
            if not length:
                break
            decoded.append(decoder.decode(buffer[:length], format_, context(), at_start=position == 0))
            position += length
            buffer = buffer[length:]
    return decoded, passed, held


def shown(decoded: Decoded, *names: str) -> list[Any]:
    """Columns as Python values: of one name plain, of several as tuples."""
    columns = [decoded.batch.column(name).to_pylist() for name in names]
    return columns[0] if len(names) == 1 else list(zip(*columns, strict=True))


def attributes(decoded: Decoded) -> list[dict[str, str | float | bool]]:
    """Each record's attributes, all three types in one."""
    names = ("attributes", "attributes_number", "attributes_bool")
    return [
        {key: value for part in row for key, value in part}
        for row in zip(*(decoded.batch.column(name).to_pylist() for name in names), strict=True)
    ]
