"""A segment's frames, sealed and opened: the header in the clear, control and batch each under its own tag.

The two are sealed apart so that control can be read without its records. Both tags cover the whole header
and the segment's identity, so that a frame can't be cut, moved or renumbered.
"""

from __future__ import annotations

import pyarrow as pa

from heimdall_server.crypto.envelope import TAG_BYTES, DataCipher, RootKey, UnsealError
from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.records import RECORD_SCHEMA, default_column
from heimdall_server.storage.journal.framing import FRAME_HEADER_BYTES, FrameHeader, SegmentHead

_CONTROL_LANE = 1
_BATCH_LANE = 2


class FrameCipher:
    """Seals and opens the frames of one segment. Thread-safe."""

    def __init__(self, head: SegmentHead, key: RootKey, *, place: str) -> None:
        """Unwrap the segment's key.

        Raises:
            CorruptionError: The head's key was changed.
        """
        try:
            self._cipher = DataCipher(key.unwrap(head.wrapped_key, context=head.context))
        except UnsealError as error:
            raise CorruptionError(place, str(error)) from error
        self._context = head.context

    def seal(self, header: FrameHeader, control: bytes, batch: memoryview | None, out: memoryview) -> None:
        """Write a whole frame.

        Args:
            header: With the sizes of the sealed blobs.
            control: Plain.
            batch: Plain Arrow IPC message, or None as the header says.
            out: `header.size_bytes` bytes.
        """
        packed = header.pack()
        context = self._context + packed
        body = FRAME_HEADER_BYTES + header.control_bytes
        out[:FRAME_HEADER_BYTES] = packed
        self._cipher.seal_into(
            control, out[FRAME_HEADER_BYTES:body], lane=_CONTROL_LANE, counter=header.position, context=context
        )
        if batch is not None:
            self._cipher.seal_into(batch, out[body:], lane=_BATCH_LANE, counter=header.position, context=context)

    def open_control(self, header: FrameHeader, sealed: memoryview) -> bytes:
        """The plain control.

        Raises:
            UnsealError: It was changed.
        """
        plain = bytearray(header.control_bytes - TAG_BYTES)
        self._cipher.open_into(
            sealed,
            memoryview(plain),
            lane=_CONTROL_LANE,
            counter=header.position,
            context=self._context + header.pack(),
        )
        return bytes(plain)

    def open_batch(self, header: FrameHeader, sealed: memoryview) -> pa.Buffer:
        """The plain Arrow IPC message, in memory that arrays can live in.

        Raises:
            UnsealError: It was changed.
        """
        plain = pa.allocate_buffer(header.batch_bytes - TAG_BYTES)
        self._cipher.open_into(
            sealed,
            memoryview(plain).cast("B"),
            lane=_BATCH_LANE,
            counter=header.position,
            context=self._context + header.pack(),
        )
        return plain


def encode_batch(batch: pa.RecordBatch) -> memoryview:
    """A batch as one Arrow IPC message, without its schema."""
    return memoryview(batch.serialize()).cast("B")


def decode_batch(message: pa.Buffer, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in today's schema: columns that came after it was written get their default.

    Args:
        message: What `encode_batch` made. The batch keeps it, nothing is copied.
        schema: The schema it was written with.
    """
    batch = pa.ipc.read_record_batch(message, schema)
    if schema.equals(RECORD_SCHEMA):
        return batch
    columns = [
        batch.column(name) if schema.get_field_index(name) >= 0 else default_column(name, batch.num_rows)
        for name in RECORD_SCHEMA.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
