"""The answer of a search: streamed once, as rows or batches, and resumed by itself after a break."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import ModuleType
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa

from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from heimdall.types.v1 import position_pb2
from heimdall_client import errors, rows, status
from heimdall_client.backoff import Backoff
from heimdall_client.rows import Row
from heimdall_client.streams import StreamReader

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]  # pandas has no types of its own
    import polars as pl

SILENT_S_MAX: Final = 60.0
"""Servers send progress about every second; one that is silent for so long counts as gone."""
GIVE_UP_AFTER_S: Final = 60.0

_Response = query_service_pb2.SearchResponse
OnProgress = Callable[[query_service_pb2.Statistics], None]


class AsyncSearch:
    """The answer of a search. Made by `AsyncClient.search`; it runs when it is first read, and is read once.

    A break is healed with the last batch's token, without gap or repeat. An answer whose rows have no order to resume
    by (`stats`, `sort`) can be healed only before its first rows.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client:
        ...         search = client.search("severity:>=ERROR AND timeout", since="1h", limit=100)
        ...         async for row in search:
        ...             print(row["time"], row["service"], row["body"])
        ...         print(search.statistics.elapsed_duration.ToMilliseconds(), "ms", search.missing)
    """

    def __init__(
        self,
        stub: query_service_pb2_grpc.QueryServiceAsyncStub,
        request: query_service_pb2.SearchRequest,
        *,
        address: str,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._stub = stub
        self._request = request
        self._address = address
        self._on_progress = on_progress
        self._messages: AsyncGenerator[_Response.Batch, None] | None = None
        self._taken = False
        self._first: _Response.Batch | None = None
        self._schema = _Response.Schema()
        self._finished: _Response.Finished | None = None
        self._statistics = query_service_pb2.Statistics()
        self._row_count = 0
        self._token = request.resume_token

    @property
    def columns(self) -> list[str]:
        """Names of the columns; empty before `start`."""
        return [column.name for column in self._schema.columns]

    @property
    def schema(self) -> pa.Schema:
        """Columns with their Arrow types; after `start`, for `encoding="arrow"`."""
        return rows.read_schema(self._schema.arrow_schema)

    @property
    def canonical_text(self) -> str:
        """The query as the server understood it; empty before `start`."""
        return self._schema.canonical_text

    @property
    def through(self) -> position_pb2.Position:
        """Records at or before this position are covered."""
        return self._schema.through

    @property
    def statistics(self) -> query_service_pb2.Statistics:
        """What the query used so far; after a break, since then."""
        return self._statistics

    @property
    def missing(self) -> list[query_service_pb2.Missing]:
        """What isn't in the answer; complete once it was read to its end."""
        return list(self._finished.missing) if self._finished else []

    @property
    def plan(self) -> query_service_pb2.Plan | None:
        """How it was answered; None before its end."""
        return self._finished.plan if self._finished and self._finished.HasField("plan") else None

    @property
    def resume_token(self) -> bytes:
        """Pass it to the same search to go on behind what was read; empty where it can't be."""
        return self._finished.resume_token if self._finished else self._token

    async def start(self) -> Self:
        """Send the request and wait for the columns, unless that was done.

        Raises:
            QueryInvalidError: The text isn't a query.
            RpcError: Another status, see the contract.
        """
        if self._messages is None:
            self._messages = self._read()
            self._first = await anext(self._messages, None)
        return self

    async def batch_messages(self) -> AsyncGenerator[_Response.Batch, None]:
        """The answer as the messages that carry it.

        Raises:
            ClosedError: It was read before.
        """
        if self._taken:
            what = "search, which can be read once,"
            raise errors.ClosedError(what)
        self._taken = True
        await self.start()
        assert self._messages is not None  # noqa: S101 - start made it
        async with aclosing(self._messages) as messages:
            first, self._first = self._first, None
            if first is not None:
                yield first
            async for batch in messages:
                yield batch

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The answer as Arrow record batches.

        Raises:
            TypeError: It was asked for as JSON.
        """
        if self._request.row_encoding == query_service_pb2.ROW_ENCODING_JSON:
            msg = "a search with encoding='json' gives rows, not tables"
            raise TypeError(msg)
        async with aclosing(self.batch_messages()) as messages:
            async for batch in messages:
                yield rows.read_batch(self._schema.arrow_schema, batch.arrow_batch)

    async def json_rows(self) -> AsyncGenerator[str, None]:
        """The answer as JSON objects, one a row; for `encoding="json"`."""
        async with aclosing(self.batch_messages()) as messages:
            async for batch in messages:
                for row in batch.json_rows:
                    yield row

    async def row_lists(self) -> AsyncGenerator[list[Row], None]:
        """The answer as lists of rows, as they arrive."""
        async with aclosing(self.batch_messages()) as messages:
            async for batch in messages:
                yield rows.rows_of_message(batch, self._schema.arrow_schema)

    async def __aiter__(self) -> AsyncGenerator[Row, None]:
        async with aclosing(self.row_lists()) as lists:
            async for several in lists:
                for row in several:
                    yield row

    async def to_arrow(self) -> pa.Table:
        """All of the answer as an Arrow table."""
        batches = [batch async for batch in self.batches()]
        return pa.Table.from_batches(batches, rows.read_schema(self._schema.arrow_schema))

    async def to_polars(self) -> pl.DataFrame:
        """All of the answer as a polars data frame.

        Raises:
            MissingLibraryError: polars isn't installed.
        """
        polars = _import("polars")
        frame: pl.DataFrame = polars.from_arrow(await self.to_arrow())
        return frame

    async def to_pandas(self) -> pd.DataFrame:
        """All of the answer as a pandas data frame; maps become dicts.

        Raises:
            MissingLibraryError: pandas isn't installed.
        """
        _import("pandas")
        frame: pd.DataFrame = (await self.to_arrow()).to_pandas(maps_as_pydicts="lossy")
        return frame

    async def aclose(self) -> None:
        """Hang up, which stops the query in the engine."""
        if self._messages is not None:
            await self._messages.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _read(self) -> AsyncGenerator[_Response.Batch, None]:
        backoff = Backoff("the search", give_up_after_s=GIVE_UP_AFTER_S)
        while True:
            try:
                async with aclosing(self._one_stream()) as stream:
                    async for batch in stream:
                        backoff.progressed()
                        self._row_count += batch.row_count
                        self._token = batch.resume_token
                        yield batch
            except (errors.RpcError, errors.StalledError) as error:
                if not self._may_resume(error):
                    raise
                await asyncio.sleep(backoff.next_delay_s(error))
            else:
                return

    def _may_resume(self, error: errors.HeimdallError) -> bool:
        if isinstance(error, errors.RpcError):
            heard = bool(self._schema.columns)
            if not error.retryable or (not heard and error.retry_after_s is None):
                return False  # gRPC itself has tried to connect several times
        return not self._row_count or bool(self._token)

    async def _one_stream(self) -> AsyncGenerator[_Response.Batch, None]:
        request = query_service_pb2.SearchRequest()
        request.CopyFrom(self._request)  # times were fixed when it was made: a token holds for the same request only
        request.resume_token = self._token
        reader: StreamReader[_Response] = StreamReader(self._stub.Search(request), address=self._address)
        try:
            while True:
                try:
                    response = await reader.read(timeout_s=SILENT_S_MAX)
                except TimeoutError:
                    raise errors.StalledError(SILENT_S_MAX) from None
                if response is None:
                    if self._finished is None:
                        raise status.unavailable("the server ended the stream", address=self._address)
                    return
                kind = response.WhichOneof("message")
                if kind == "schema":
                    self._schema = response.schema
                elif kind == "batch":
                    yield response.batch
                elif kind == "progress":
                    self._take_statistics(response.progress.statistics)
                elif kind == "finished":
                    self._finished = response.finished
                    self._take_statistics(response.finished.statistics)
        finally:
            await reader.aclose()

    def _take_statistics(self, statistics: query_service_pb2.Statistics) -> None:
        self._statistics = statistics
        if self._on_progress is not None:
            self._on_progress(statistics)


def _import(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise errors.MissingLibraryError(library) from error
