"""Rows for the wire: Arrow IPC or JSON, in messages of at most 1 MiB, each with the token to go on behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.services.query.model import TokenAfter
from heimdall_server.services.query.translate.json_rows import json_rows
from heimdall_server.services.query.watch_model import Packed

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""No response message is larger: other people's clients refuse 4 MiB, and large ones stall a stream."""
_PAYLOAD_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 32 * 1024
"""Room for what stands around the rows: twice a token of at most 4 KiB."""
_ROW_OVERHEAD_BYTES: Final = 8
"""Tag and length of a JSON row."""
_CHUNK_ROWS: Final = 8_192
_TEXT_BYTES: Final = tuple(2**exponent for exponent in range(19, 4, -1))
"""To how much the texts of a row that doesn't fit are cut: the first of these that is enough."""


class RowEncoder:
    """Makes the messages of one answer or watch. Any thread, one at a time."""

    def __init__(self, encoding: pb.RowEncoding.ValueType) -> None:
        self._is_json = encoding == pb.ROW_ENCODING_JSON
        self.cut_count = 0
        """Rows that were larger than a message, and lost a part of their texts."""

    def schema(self, schema: pa.Schema) -> pb.SearchResponse.Schema:
        """Columns, and for Arrow the IPC schema message."""
        return pb.SearchResponse.Schema(
            columns=[pb.SearchResponse.Column(name=field.name, type=str(field.type)) for field in schema],
            arrow_schema=b"" if self._is_json else schema.serialize().to_pybytes(),
        )

    def batches(self, batch: pa.RecordBatch, token_after: TokenAfter) -> Iterator[pb.SearchResponse.Batch]:
        """Messages for the rows of a batch, made one at a time."""
        done = 0
        while done < batch.num_rows:
            chunk = batch.slice(done, _CHUNK_ROWS)
            for message in self._json(chunk) if self._is_json else self._arrow(chunk):
                done += message.row_count
                message.resume_token = token_after(done)
                yield message

    def packed(self, rows: Packed, token_after: TokenAfter) -> Iterator[pb.SearchResponse.Batch]:
        """The message of rows that are encoded already, as Arrow."""
        if rows.size_bytes > _PAYLOAD_BYTES_MAX:
            yield from self.batches(rows.batch(), token_after)
            return
        token = token_after(rows.row_count)
        yield pb.SearchResponse.Batch(
            row_count=rows.row_count, arrow_batch=rows.message.to_pybytes(), resume_token=token
        )

    def _arrow(self, batch: pa.RecordBatch) -> Iterator[pb.SearchResponse.Batch]:
        waiting = [batch]
        while waiting:
            piece = waiting.pop()
            if pa.ipc.get_record_batch_size(piece) <= 2 * _PAYLOAD_BYTES_MAX or piece.num_rows == 1:
                raw = piece.serialize()
                if raw.size > _PAYLOAD_BYTES_MAX and piece.num_rows == 1:
                    raw = self._cut(piece).serialize()
                if raw.size <= _PAYLOAD_BYTES_MAX:
                    yield pb.SearchResponse.Batch(row_count=piece.num_rows, arrow_batch=raw.to_pybytes())
                    continue
            half = piece.num_rows // 2
            waiting += [piece.slice(half), piece.slice(0, half)]

    def _json(self, batch: pa.RecordBatch) -> Iterator[pb.SearchResponse.Batch]:
        texts = json_rows(batch)
        ends = np.cumsum(pc.binary_length(texts).to_numpy() + _ROW_OVERHEAD_BYTES)
        start = sent = 0
        while start < len(texts):
            end = max(int(np.searchsorted(ends, sent + _PAYLOAD_BYTES_MAX, side="right")), start + 1)
            rows = texts.slice(start, end - start).to_pylist()
            if ends[end - 1] - sent > _PAYLOAD_BYTES_MAX:
                rows = json_rows(self._cut(batch.slice(start, 1))).to_pylist()
            yield pb.SearchResponse.Batch(row_count=end - start, json_rows=rows)
            start, sent = end, int(ends[end - 1])

    def _cut(self, row: pa.RecordBatch) -> pa.RecordBatch:
        """One row with its texts cut so that it fits; better than none of it, and it says so itself."""
        self.cut_count += 1
        for bytes_max in _TEXT_BYTES:
            cut = _cut_texts(row, bytes_max)
            size = len(json_rows(cut)[0].as_py().encode()) if self._is_json else cut.serialize().size
            if size + _ROW_OVERHEAD_BYTES <= _PAYLOAD_BYTES_MAX:
                break
        return cut


def _cut_texts(row: pa.RecordBatch, bytes_max: int) -> pa.RecordBatch:
    columns = []
    for column in row.columns:
        (value,) = column.to_pylist()
        if isinstance(value, str):
            columns.append(pa.array([_cut_text(value, bytes_max)], column.type))
        elif pa.types.is_map(column.type) and pa.types.is_string(column.type.item_type) and value:
            entries = [(key, _cut_text(text, bytes_max)) for key, text in value]
            columns.append(pa.array([entries], column.type))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=row.schema)


def _cut_text(text: str, bytes_max: int) -> str:
    raw = text.encode()
    if len(raw) <= bytes_max:
        return text
    return f"{raw[:bytes_max].decode(errors='ignore')}… [cut: {len(raw)} bytes]"
