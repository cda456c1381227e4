"""Arrow tables as payloads of `Append`: whole IPC streams of about 1 MiB, whose offsets count records."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from heimdall_client.errors import InputError


def payloads(batch: pa.RecordBatch, *, bytes_max: int) -> Iterator[tuple[bytes, int]]:
    """Cut a batch into IPC streams.

    Args:
        batch: Any number of records.
        bytes_max: A stream isn't larger, unless it holds one record only and that can't be.

    Yields:
        (IPC stream, records in it), in order.

    Raises:
        InputError: One record alone is larger.
    """
    rows = batch.num_rows
    if not rows:
        return
    # The estimate counts shared buffers in whole; what is too large after all is halved.
    step = max(1, min(rows, rows * bytes_max * 3 // 4 // max(1, batch.get_total_buffer_size())))
    for start in range(0, rows, step):
        yield from _halved(batch.slice(start, step), bytes_max)


def _halved(batch: pa.RecordBatch, bytes_max: int) -> Iterator[tuple[bytes, int]]:
    payload = _serialise(batch)
    rows = int(batch.num_rows)
    if len(payload) <= bytes_max:
        yield payload, rows
    elif rows == 1:
        name = "arrow"
        problem = f"a record of {len(payload)} bytes is over the limit of {bytes_max}"
        raise InputError(name, problem)
    else:
        yield from _halved(batch.slice(0, rows // 2), bytes_max)
        yield from _halved(batch.slice(rows // 2), bytes_max)


def cut_arrow(payload: bytes, count: int) -> bytes:
    """`Cut` of the append buffer: the stream without its first `count` records."""
    table = pa.ipc.open_stream(payload).read_all().slice(count)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _serialise(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
