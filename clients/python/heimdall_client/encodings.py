"""How rows travel, as people name it."""

from __future__ import annotations

from typing import Literal

from heimdall.query.v1 import query_service_pb2

Encoding = Literal["arrow", "json"]
"""`arrow`: columns, the cheaper one. `json`: one object a row, as the server writes it."""

Order = Literal["newest", "oldest", "journal", "journal_reversed"]
"""Of plain rows: by time, or as they came in."""


def to_encoding(encoding: Encoding) -> query_service_pb2.RowEncoding.ValueType:
    """The contract's form."""
    if encoding == "json":
        return query_service_pb2.ROW_ENCODING_JSON
    return query_service_pb2.ROW_ENCODING_ARROW_IPC


def to_order(order: Order) -> query_service_pb2.Order.ValueType:
    """The contract's form."""
    return {
        "newest": query_service_pb2.ORDER_NEWEST_FIRST,
        "oldest": query_service_pb2.ORDER_OLDEST_FIRST,
        "journal": query_service_pb2.ORDER_JOURNAL,
        "journal_reversed": query_service_pb2.ORDER_JOURNAL_REVERSED,
    }[order]
