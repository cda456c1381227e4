"""The Heimdall SDK: append records, search them, follow them live.

>>> import heimdall_client
>>> def main():
...     with heimdall_client.connect() as client:
...         client.ingest_file("app.log", service="api")
...         for row in client.search("severity:>=ERROR", since="1h", limit=10, consistent=True):
...             print(row["time"], row["body"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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
        EtagMismatchError,
        FieldViolation,
        FormatInvalidError,
        GaveUpError,
        HandshakeError,
        HeimdallError,
        InputError,
        IntegrityFailedError,
        InternalError,
        InvalidArgumentError,
        JournalFullError,
        MisconfiguredError,
        MissingLibraryError,
        NotFoundError,
        OffsetConflictError,
        OffsetGapError,
        OperationStateError,
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
        ValueErasedError,
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
    "EtagMismatchError",
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
    "IntegrityFailedError",
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
    "OperationStateError",
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
    "ValueErasedError",
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

_NAMES: Final = {
    "append_driver": ("IngestOptions", "OnRetry"),
    "client": ("AsyncClient", "connect_async"),
    "config": ("ClientConfig", "load_config"),
    "encodings": ("Encoding", "Order"),
    "errors": (
        "BY_REASON",
        "BudgetExceededError",
        "CertificateRefusedError",
        "ClosedError",
        "ConfigError",
        "CorruptionError",
        "DeadlineExceededError",
        "DeadlineTooShortError",
        "DrainingError",
        "EtagMismatchError",
        "FieldViolation",
        "FormatInvalidError",
        "GaveUpError",
        "HandshakeError",
        "HeimdallError",
        "InputError",
        "IntegrityFailedError",
        "InternalError",
        "InvalidArgumentError",
        "JournalFullError",
        "MisconfiguredError",
        "MissingLibraryError",
        "NotFoundError",
        "OffsetConflictError",
        "OffsetGapError",
        "OperationStateError",
        "OverloadedError",
        "PermissionDeniedError",
        "QueryInvalidError",
        "QueryTimeoutError",
        "QueryTooExpensiveError",
        "RecordTooLargeError",
        "RpcError",
        "SourceFencedError",
        "SourceMovedError",
        "StalledError",
        "StoreFailedError",
        "StreamLaggedError",
        "StreamProtocolError",
        "TokenInvalidError",
        "UnavailableError",
        "UnimplementedError",
        "ValueErasedError",
    ),
    "ingest_calls": ("SourceOptions", "file_source_id"),
    "ingester": ("AsyncIngester", "IngestSummary"),
    "records": ("AsyncRecordIngester", "encode_record"),
    "rows": ("Row", "rows_of"),
    "search": ("AsyncSearch",),
    "stream_ingest": ("IngestProgress", "OnIngestProgress"),
    "sync_client": ("Client", "connect"),
    "sync_ingest": ("Ingester", "RecordIngester"),
    "sync_streams": ("Search", "Watches"),
    "translate": ("FormatLike", "Question", "TimeLike", "format_name", "parse_span_s", "sql", "to_time_ns"),
    "watch_state": ("AggregateRow", "Cancelled", "Created", "Progress", "Rows", "WatchEvent"),
    "watches": ("AsyncWatches",),
}
"""Module by module what is exported, as the imports above say it to type checkers."""
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:
    # Loaded at their first use: gRPC and Arrow take longer to import than most commands of the CLI to run.

    def __getattr__(name: str) -> object:
        module = _HOMES.get(name)
        if module is None:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
