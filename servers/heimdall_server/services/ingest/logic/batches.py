"""What an Append stream's batch must be, by itself and beside what came before."""

from __future__ import annotations

from collections.abc import Iterable

import google_crc32c

from heimdall_server.domain.errors import InvalidArgumentError, OffsetConflictError, OffsetGapError
from heimdall_server.services.ingest.model import BatchIn


def check_batch(
    batch: BatchIn, *, source: str, received: int, whole_payloads: bool, known: Iterable[tuple[int, int, int]]
) -> None:
    """Check a batch against the stream.

    Args:
        batch: As it came.
        source: Its source, for errors.
        received: Where the stream stands.
        whole_payloads: Offsets count records, and a payload can't be taken in part.
        known: (offset, next_offset, CRC-32C) of batches before `received`.

    Raises:
        InvalidArgumentError: Its offsets don't fit its payload, or the payload was damaged.
        OffsetGapError: Bytes before it are missing.
        OffsetConflictError: Other bytes came at the same offset.
    """
    if batch.next_offset <= batch.offset:
        raise InvalidArgumentError("batch.next_offset", "must be greater than batch.offset")
    size = len(batch.payload)
    if not whole_payloads and batch.next_offset - batch.offset != size:
        rule = f"must be batch.offset + {size}, the length of the payload"
        raise InvalidArgumentError("batch.next_offset", rule)
    if batch.offset > received:
        raise OffsetGapError(source, received, batch.offset)
    if google_crc32c.value(batch.payload) != batch.crc32c:
        raise InvalidArgumentError("batch.crc32c", "must be the CRC-32C of the payload; was it damaged on the way?")
    if whole_payloads and batch.offset < received < batch.next_offset:
        raise OffsetConflictError(source, batch.offset)
    if batch.offset < received:
        _compare(batch, source, known, whole_payloads=whole_payloads)


def _compare(batch: BatchIn, source: str, known: Iterable[tuple[int, int, int]], *, whole_payloads: bool) -> None:
    """Batches that lie within this one must be equal to their part of it; cut otherwise, they can't be compared."""
    for offset, next_offset, crc in known:
        if offset < batch.offset or next_offset > batch.next_offset:
            continue
        whole = offset == batch.offset and next_offset == batch.next_offset
        if whole_payloads and not whole:
            continue
        part = batch.payload if whole else batch.payload[offset - batch.offset : next_offset - batch.offset]
        if google_crc32c.value(part) != crc:
            raise OffsetConflictError(source, offset)
