"""The framing of an Arrow IPC stream: how large a batch becomes, known before anything is decompressed.

A compressed buffer starts with its decompressed size, and where buffers are is in the message's metadata, a FlatBuffers
table. pyarrow doesn't show it, so the four fields needed are read here; the metadata has passed Arrow's own verifier by
then. Source: Arrow columnar format, `format/Message.fbs`; FlatBuffers, "Internals".
"""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

from heimdall_server.domain.errors import FormatError

_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH: Final = 2
_DICTIONARY_DATA: Final = 1
_ROWS, _BUFFERS, _COMPRESSION = 0, 2, 3


def batch_size(message: pa.ipc.Message) -> tuple[int, int]:
    """Rows and decompressed bytes of a record batch or dictionary batch.

    Args:
        message: As read from the stream, its body still compressed.

    Raises:
        FormatError: The metadata doesn't describe its body.
    """
    metadata = message.metadata.to_pybytes()
    body = memoryview(message.body) if message.body is not None else memoryview(b"")
    try:
        return _size(metadata, body)
    except (struct.error, IndexError) as error:
        raise FormatError(format="Arrow IPC", problem="a batch whose metadata doesn't describe its body") from error


def _size(metadata: bytes, body: memoryview) -> tuple[int, int]:
    root = struct.unpack_from("<I", metadata)[0]
    batch = _table(metadata, root, _HEADER)
    kind_at = _field(metadata, root, _HEADER_TYPE)
    if batch is not None and kind_at is not None and metadata[kind_at] == _DICTIONARY_BATCH:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if batch is None:
        return 0, len(body)
    rows_at = _field(metadata, batch, _ROWS)
    rows = struct.unpack_from("<q", metadata, rows_at)[0] if rows_at is not None else 0
    if _field(metadata, batch, _COMPRESSION) is None:
        return rows, len(body)
    buffers = _table(metadata, batch, _BUFFERS)
    if buffers is None:
        return rows, 0
    total = 0
    for number in range(struct.unpack_from("<I", metadata, buffers)[0]):
        offset, length = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * number)
        if length:
            size = struct.unpack_from("<q", body, offset)[0]
            # -1: this buffer was left uncompressed.
            total += length - 8 if size < 0 else size
    return rows, total


def _field(data: bytes, table: int, number: int) -> int | None:
    """Position of a table's field, or None if it has its default."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    if 4 + 2 * number >= size:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return table + offset if offset else None


def _table(data: bytes, table: int, number: int) -> int | None:
    """Position of the table or vector that a field refers to."""
    at = _field(data, table, number)
    return None if at is None else at + int(struct.unpack_from("<I", data, at)[0])
