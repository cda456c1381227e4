"""The blocking halves of searches and watches: each drives its asynchronous twin on the loop's thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

import pyarrow as pa

from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client.encodings import Encoding
from heimdall_client.loop_thread import LoopThread
from heimdall_client.rows import Row
from heimdall_client.search import AsyncSearch
from heimdall_client.translate import Question, TimeLike
from heimdall_client.watch_state import WatchEvent
from heimdall_client.watches import AsyncWatches

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]  # pandas has no types of its own
    import polars as pl

_Item = TypeVar("_Item")


def iterate(portal: LoopThread, items: AsyncGenerator[_Item, None]) -> Iterator[_Item]:
    """An asynchronous generator as a blocking one; leaving it early closes the other."""
    try:
        while True:
            try:
                yield portal.run(_next(items))
            except StopAsyncIteration:
                return
    finally:
        if not portal.closed:
            portal.run(items.aclose())


async def _next(items: AsyncGenerator[_Item, None]) -> _Item:
    return await anext(items)


class Search:
    """The answer of a search. Made by `Client.search`; it runs when it is first read. See `AsyncSearch`.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client:
        ...         for row in client.search("severity:>=ERROR", since="1h", limit=100):
        ...             print(row["time"], row["service"], row["body"])
    """

    def __init__(self, portal: LoopThread, twin: AsyncSearch) -> None:
        self._portal = portal
        self._twin = twin

    @property
    def columns(self) -> list[str]:
        """Names of the columns; empty before `start`."""
        return self._twin.columns

    @property
    def schema(self) -> pa.Schema:
        """Columns with their Arrow types; after `start`, for `encoding="arrow"`."""
        return self._twin.schema

    @property
    def canonical_text(self) -> str:
        """The query as the server understood it; empty before `start`."""
        return self._twin.canonical_text

    @property
    def through(self) -> position_pb2.Position:
        """Records at or before this position are covered."""
        return self._twin.through

    @property
    def statistics(self) -> query_service_pb2.Statistics:
        """What the query used so far."""
        return self._twin.statistics

    @property
    def missing(self) -> list[query_service_pb2.Missing]:
        """What isn't in the answer; complete once it was read to its end."""
        return self._twin.missing

    @property
    def plan(self) -> query_service_pb2.Plan | None:
        """How it was answered; None before its end."""
        return self._twin.plan

    @property
    def resume_token(self) -> bytes:
        """Pass it to the same search to go on behind what was read."""
        return self._twin.resume_token

    def start(self) -> Self:
        """Send the request and wait for the columns, unless that was done."""
        self._portal.run(self._twin.start())
        return self

    def __iter__(self) -> Iterator[Row]:
        for several in iterate(self._portal, self._twin.row_lists()):
            yield from several

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The answer as Arrow record batches."""
        return iterate(self._portal, self._twin.batches())

    def json_rows(self) -> Iterator[str]:
        """The answer as JSON objects, one a row; for `encoding="json"`."""
        for batch in iterate(self._portal, self._twin.batch_messages()):
            yield from batch.json_rows

    def to_arrow(self) -> pa.Table:
        """All of the answer as an Arrow table."""
        return self._portal.run(self._twin.to_arrow())

    def to_polars(self) -> pl.DataFrame:
        """All of the answer as a polars data frame."""
        return self._portal.run(self._twin.to_polars())

    def to_pandas(self) -> pd.DataFrame:
        """All of the answer as a pandas data frame."""
        return self._portal.run(self._twin.to_pandas())

    def close(self) -> None:
        """Hang up, which stops the query in the engine."""
        self._portal.run(self._twin.aclose())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class Watches:
    """Several live queries on one stream. Made by `Client.watches`; see `AsyncWatches`.

    One thread iterates; others may add, update and cancel.

    Example:
        >>> def main():
        ...     with heimdall_client.connect() as client, client.watches() as watches:
        ...         watches.add("severity:>=ERROR", last=10)
        ...         for event in watches:
        ...             print(event)
    """

    def __init__(self, portal: LoopThread, twin: AsyncWatches) -> None:
        self._portal = portal
        self._twin = twin

    def add(
        self,
        question: Question,
        *,
        watch_id: str = "",
        since: TimeLike | None = None,
        last: int | None = None,
        resume_token: bytes = b"",
        every_s: float | None = None,
        datasets: Sequence[str] = (),
        encoding: Encoding = "arrow",
    ) -> str:
        """Begin a watch; see `AsyncWatches.add`."""
        return self._portal.run(
            self._twin.add(
                question,
                watch_id=watch_id,
                since=since,
                last=last,
                resume_token=resume_token,
                every_s=every_s,
                datasets=datasets,
                encoding=encoding,
            )
        )

    def update(self, watch_id: str, question: Question) -> None:
        """Change a watch's question; it goes on from where it is."""
        self._portal.run(self._twin.update(watch_id, question))

    def cancel(self, watch_id: str) -> None:
        """End a watch; `Cancelled` without an error follows."""
        self._portal.run(self._twin.cancel(watch_id))

    def resume_token(self, watch_id: str) -> bytes:
        """The newest `through` of a watch; empty before the first."""
        return self._twin.resume_token(watch_id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchEvent:
        try:
            return self._portal.run(_event(self._twin))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Hang up; all watches end."""
        self._portal.run(self._twin.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _event(watches: AsyncWatches) -> WatchEvent:
    return await anext(watches)
