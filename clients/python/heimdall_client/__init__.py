"""The Heimdall SDK: append records, search them, follow them live.

>>> import heimdall_client
>>> def main():
...     with heimdall_client.connect() as client:
...         client.ingest_file("app.log", service="api")
...         for row in client.search("severity:>=ERROR", since="1h", limit=10, consistent=True):
...             print(row["time"], row["body"])
"""

from __future__ import annotations

from heimdall_client.append_driver import IngestOptions, OnRetry
from heimdall_client.client import AsyncClient, connect_async
from heimdall_client.config import ClientConfig, load_config
from heimdall_client.encodings import Encoding, Order
from heimdall_client.errors import (
    BY_REASON,
    BudgetExceededError,
    CertificateRefusedError,
    ClosedError,
    ConfigError,
    CorruptionError,
    DeadlineExceededError,
    DeadlineTooShortError,
    DrainingError,
    FieldViolation,
    FormatInvalidError,
    GaveUpError,
    HandshakeError,
    HeimdallError,
    InputError,
    InternalError,
    InvalidArgumentError,
    JournalFullError,
    MisconfiguredError,
    MissingLibraryError,
    NotFoundError,
    OffsetConflictError,
    OffsetGapError,
    OverloadedError,
    PermissionDeniedError,
    QueryInvalidError,
    QueryTimeoutError,
    QueryTooExpensiveError,
    RecordTooLargeError,
    RpcError,
    SourceFencedError,
    SourceMovedError,
    StalledError,
    StoreFailedError,
    StreamLaggedError,
    StreamProtocolError,
    TokenInvalidError,
    UnavailableError,
    UnimplementedError,
)
from heimdall_client.ingest_calls import SourceOptions, file_source_id
from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.records import AsyncRecordIngester, encode_record
from heimdall_client.rows import Row, rows_of
from heimdall_client.search import AsyncSearch
from heimdall_client.stream_ingest import IngestProgress, OnIngestProgress
from heimdall_client.sync_client import Client, connect
from heimdall_client.sync_ingest import Ingester, RecordIngester
from heimdall_client.sync_streams import Search, Watches
from heimdall_client.translate import (
    FormatLike,
    Question,
    TimeLike,
    format_name,
    parse_span_s,
    sql,
    to_time_ns,
)
from heimdall_client.watch_state import AggregateRow, Cancelled, Created, Progress, Rows, WatchEvent
from heimdall_client.watches import AsyncWatches

__all__ = [
    "BY_REASON",
    "AggregateRow",
    "AsyncClient",
    "AsyncIngester",
    "AsyncRecordIngester",
    "AsyncSearch",
    "AsyncWatches",
    "BudgetExceededError",
    "Cancelled",
    "CertificateRefusedError",
    "Client",
    "ClientConfig",
    "ClosedError",
    "ConfigError",
    "CorruptionError",
    "Created",
    "DeadlineExceededError",
    "DeadlineTooShortError",
    "DrainingError",
    "Encoding",
    "FieldViolation",
    "FormatInvalidError",
    "FormatLike",
    "GaveUpError",
    "HandshakeError",
    "HeimdallError",
    "IngestOptions",
    "IngestProgress",
    "IngestSummary",
    "Ingester",
    "InputError",
    "InternalError",
    "InvalidArgumentError",
    "JournalFullError",
    "MisconfiguredError",
    "MissingLibraryError",
    "NotFoundError",
    "OffsetConflictError",
    "OffsetGapError",
    "OnIngestProgress",
    "OnRetry",
    "Order",
    "OverloadedError",
    "PermissionDeniedError",
    "Progress",
    "QueryInvalidError",
    "QueryTimeoutError",
    "QueryTooExpensiveError",
    "Question",
    "RecordIngester",
    "RecordTooLargeError",
    "Row",
    "Rows",
    "RpcError",
    "Search",
    "SourceFencedError",
    "SourceMovedError",
    "SourceOptions",
    "StalledError",
    "StoreFailedError",
    "StreamLaggedError",
    "StreamProtocolError",
    "TimeLike",
    "TokenInvalidError",
    "UnavailableError",
    "UnimplementedError",
    "WatchEvent",
    "Watches",
    "connect",
    "connect_async",
    "encode_record",
    "file_source_id",
    "format_name",
    "load_config",
    "parse_span_s",
    "rows_of",
    "sql",
    "to_time_ns",
]
