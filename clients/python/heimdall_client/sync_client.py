"""The blocking client: a facade over `AsyncClient`, which runs on an event loop in a thread of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, Unpack

from heimdall.admin.v1 import admin_service_pb2
from heimdall.ingest.v1 import ingest_service_pb2, source_pb2
from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client.append_driver import IngestOptions, OnRetry
from heimdall_client.client import AsyncClient
from heimdall_client.config import ClientConfig, load_config
from heimdall_client.connection import UNARY_TIMEOUT_S
from heimdall_client.encodings import Encoding, Order
from heimdall_client.ingest_calls import SourceOptions
from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.loop_thread import LoopThread
from heimdall_client.search import AsyncSearch, OnProgress
from heimdall_client.stream_ingest import OnIngestProgress
from heimdall_client.sync_database import SyncDatabaseCalls
from heimdall_client.sync_graph import SyncGraphCalls
from heimdall_client.sync_graph_dumps import SyncGraphDumpCalls
from heimdall_client.sync_graph_hunts import SyncGraphHuntCalls
from heimdall_client.sync_graph_views import SyncGraphViewCalls
from heimdall_client.sync_ingest import Ingester, RecordIngester
from heimdall_client.sync_interchange import SyncInterchangeCalls
from heimdall_client.sync_privacy import SyncPrivacyCalls
from heimdall_client.sync_streams import Search, Watches, iterate
from heimdall_client.translate import FormatLike, Question, TimeLike
from heimdall_client.watch_state import WatchEvent
from heimdall_client.watches import AsyncWatches

_Result = TypeVar("_Result")


class Client(
    SyncPrivacyCalls,
    SyncGraphCalls,
    SyncGraphViewCalls,
    SyncGraphHuntCalls,
    SyncGraphDumpCalls,
    SyncInterchangeCalls,
    SyncDatabaseCalls,
):
    """A blocking client. Made by `connect`; use it as a context manager. Thread-safe.

    Each method is that of `AsyncClient`, where its arguments are told. Callbacks come from the loop's thread: they must
    not call the client. Ctrl-C cancels what the calling thread waits for.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client:
        ...         summary = client.ingest_file("app.log", service="api")
        ...         print(client.search("timeout", at_least=summary.position).to_polars())
    """

    def __init__(self, config: ClientConfig, *, timeout_s: float = UNARY_TIMEOUT_S) -> None:
        self._portal = LoopThread()
        self._twin = AsyncClient(config, timeout_s=timeout_s)

    @property
    def connection(self) -> ClientConfig:
        """Where this client connects."""
        return self._twin.connection

    def close(self) -> None:
        """Hang up and end the thread. May be called more than once."""
        if not self._portal.closed:
            try:
                self._portal.run(self._twin.aclose())
            finally:
                self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def ingester(
        self,
        source_id: str,
        *,
        options: IngestOptions | None = None,
        on_retry: OnRetry | None = None,
        on_ack: Callable[[], None] | None = None,
        **source: Unpack[SourceOptions],
    ) -> Ingester:
        """Feed a source with bytes or Arrow; see `AsyncClient.ingester`."""

        async def make() -> AsyncIngester:
            return self._twin.ingester(source_id, options=options, on_retry=on_retry, on_ack=on_ack, **source)

        return Ingester(self._portal, self._run(make()))

    def record_ingester(
        self,
        source_id: str,
        *,
        options: IngestOptions | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> RecordIngester:
        """Send a program's own log records; see `AsyncClient.record_ingester`."""
        options = options or IngestOptions()

        async def make() -> AsyncIngester:
            return self._twin.record_ingester(source_id, options=options, on_retry=on_retry, **source).ingester

        return RecordIngester(self._portal, self._run(make()), linger_s=options.linger_s)

    def ingest_stream(
        self,
        stream: BinaryIO,
        source_id: str,
        *,
        name: str = "",
        total_bytes: int | None = None,
        finish: bool = True,
        options: IngestOptions | None = None,
        on_progress: OnIngestProgress | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> IngestSummary:
        """Ingest what a binary file or pipe holds; see `AsyncClient.ingest_stream`."""
        return self._run(
            self._twin.ingest_stream(
                stream,
                source_id,
                name=name,
                total_bytes=total_bytes,
                finish=finish,
                options=options,
                on_progress=on_progress,
                on_retry=on_retry,
                **source,
            )
        )

    def ingest_file(
        self,
        path: str | os.PathLike[str],
        source_id: str = "",
        *,
        finish: bool = True,
        options: IngestOptions | None = None,
        on_progress: OnIngestProgress | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> IngestSummary:
        """Ingest a file; see `AsyncClient.ingest_file`."""
        return self._run(
            self._twin.ingest_file(
                path,
                source_id,
                finish=finish,
                options=options,
                on_progress=on_progress,
                on_retry=on_retry,
                **source,
            )
        )

    def get_source(self, source_id: str, *, dump_content_sha256: bytes = b"") -> source_pb2.Source:
        """What the server knows of a source; see `AsyncClient.get_source`."""
        return self._run(self._twin.get_source(source_id, dump_content_sha256=dump_content_sha256))

    def list_dead_letters(self, *, source_id: str = "", limit: int = 100) -> ingest_service_pb2.ListDeadLettersResponse:
        """What couldn't be decoded, newest first; see `AsyncClient.list_dead_letters`."""
        return self._run(self._twin.list_dead_letters(source_id=source_id, limit=limit))

    def retry_dead_letters(
        self,
        dead_letter_ids: Sequence[str],
        *,
        read_as: FormatLike | None = None,
        format_options: Mapping[str, str] | None = None,
    ) -> ingest_service_pb2.RetryDeadLettersResponse:
        """Decode dead letters again; see `AsyncClient.retry_dead_letters`."""
        return self._run(self._twin.retry_dead_letters(dead_letter_ids, read_as=read_as, format_options=format_options))

    def delete_dead_letters(self, dead_letter_ids: Sequence[str]) -> ingest_service_pb2.DeleteDeadLettersResponse:
        """Delete dead letters; see `AsyncClient.delete_dead_letters`."""
        return self._run(self._twin.delete_dead_letters(dead_letter_ids))

    def search(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        order: Order = "newest",
        limit: int = 0,
        timeout_s: float | None = None,
        consistent: bool = False,
        at_least: position_pb2.Position | None = None,
        resume_token: bytes = b"",
        encoding: Encoding = "arrow",
        on_progress: OnProgress | None = None,
    ) -> Search:
        """Ask for rows; see `AsyncClient.search`."""

        async def make() -> AsyncSearch:
            return self._twin.search(
                question,
                since=since,
                until=until,
                datasets=datasets,
                order=order,
                limit=limit,
                timeout_s=timeout_s,
                consistent=consistent,
                at_least=at_least,
                resume_token=resume_token,
                encoding=encoding,
                on_progress=on_progress,
            )

        return Search(self._portal, self._run(make()))

    def explain(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        order: Order = "newest",
        limit: int = 0,
        analyze: bool = False,
    ) -> query_service_pb2.ExplainResponse:
        """How a query would be answered; see `AsyncClient.explain`."""
        return self._run(
            self._twin.explain(
                question, since=since, until=until, datasets=datasets, order=order, limit=limit, analyze=analyze
            )
        )

    def fields(
        self,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 2000,
    ) -> list[query_service_pb2.Field]:
        """Fields that records carry, most covered first."""
        return self._run(self._twin.fields(since=since, until=until, datasets=datasets, limit=limit))

    def list_fields(
        self,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 2000,
    ) -> query_service_pb2.ListFieldsResponse:
        """As `fields`, with how many records were looked at; see `AsyncClient.list_fields`."""
        return self._run(self._twin.list_fields(since=since, until=until, datasets=datasets, limit=limit))

    def field_values(
        self,
        field: str,
        *,
        question: Question | None = None,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        limit: int = 20,
    ) -> query_service_pb2.ListFieldValuesResponse:
        """A field's most frequent values; see `AsyncClient.field_values`."""
        return self._run(
            self._twin.field_values(field, question=question, since=since, until=until, datasets=datasets, limit=limit)
        )

    def watches(self, *, give_up_after_s: float = math.inf, on_retry: OnRetry | None = None) -> Watches:
        """Several live queries on one stream; see `AsyncClient.watches`."""

        async def make() -> AsyncWatches:
            return self._twin.watches(give_up_after_s=give_up_after_s, on_retry=on_retry)

        return Watches(self._portal, self._run(make()))

    def watch(
        self,
        question: Question,
        *,
        since: TimeLike | None = None,
        last: int | None = None,
        resume_token: bytes = b"",
        every_s: float | None = None,
        datasets: Sequence[str] = (),
        encoding: Encoding = "arrow",
        give_up_after_s: float = math.inf,
        on_retry: OnRetry | None = None,
    ) -> Iterator[WatchEvent]:
        """Follow one query live; see `AsyncClient.watch`."""
        events = self._twin.watch(
            question,
            since=since,
            last=last,
            resume_token=resume_token,
            every_s=every_s,
            datasets=datasets,
            encoding=encoding,
            give_up_after_s=give_up_after_s,
            on_retry=on_retry,
        )
        return iterate(self._portal, events)

    def status(self) -> admin_service_pb2.GetStatusResponse:
        """Which services run, how healthy the stores are, how far each projection is behind."""
        return self._run(self._twin.status())

    def config(self) -> admin_service_pb2.GetConfigResponse:
        """The server's configuration in force, secrets redacted."""
        return self._run(self._twin.config())

    def datasets(self) -> list[admin_service_pb2.Dataset]:
        """The datasets with their retention and what they hold, by name."""
        return self._run(self._twin.datasets())


def connect(
    address: str | None = None,
    *,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
    config_file: str | Path | None = None,
    timeout_s: float = UNARY_TIMEOUT_S,
) -> Client:
    """Make a blocking client; see `connect_async`.

    Raises:
        ConfigError: Nothing was found, or it can't be used; all problems at once.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client:
        ...         print(client.status().version)
    """
    config = load_config(
        address=address, ca_file=ca_file, cert_file=cert_file, key_file=key_file, config_file=config_file
    )
    return Client(config, timeout_s=timeout_s)
