"""Live queries: thin async code that drives `watch_state` over streams which may break."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import grpc.aio

from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from heimdall_client import errors, status, translate
from heimdall_client.backoff import Backoff
from heimdall_client.encodings import Encoding, to_encoding
from heimdall_client.streams import StreamReader
from heimdall_client.translate import Question, TimeLike
from heimdall_client.watch_state import Cancelled, Interrupted, WatchEvent, WatchState

SILENT_S_MAX: Final = 45.0
"""Each watch reports progress at least every 10 seconds; a server that is silent for so long counts as gone."""
FIRST_OPEN_S: Final = 15.0
"""Give up when nothing ever came for so long."""

_Request = query_service_pb2.WatchRequest
_Response = query_service_pb2.WatchResponse
OnRetry = Callable[[errors.HeimdallError, float], None]


class AsyncWatches:
    """Several live queries on one stream. Made by `AsyncClient.watches`; iterate it for their events.

    It heals breaks by itself: each watch goes on from its last `through` token, without gap or repeat of records. It
    reads only when it is iterated; a reader that is too slow is ended by the server and goes on from its token, too.
    The iteration ends with the last watch.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client, client.watches() as watches:
        ...         errors_id = await watches.add("severity:>=ERROR", since="15m")
        ...         counts_id = await watches.add("* | stats count() by service", every_s=5)
        ...         async for event in watches:
        ...             if isinstance(event, Rows):
        ...                 print([row["body"] for row in event.rows])
        ...             elif isinstance(event, AggregateRow):
        ...                 print(event.bucket_time, event.rows)
    """

    def __init__(
        self,
        stub: query_service_pb2_grpc.QueryServiceAsyncStub,
        *,
        address: str,
        give_up_after_s: float = math.inf,
        on_retry: OnRetry | None = None,
        raise_cancelled: bool = False,
    ) -> None:
        self._stub = stub
        self._address = address
        self._give_up_after_s = give_up_after_s
        self._on_retry = on_retry
        self._raise_cancelled = raise_cancelled
        self._state = WatchState()
        self._backoff = Backoff("the watch", give_up_after_s=FIRST_OPEN_S)
        self._call: Any = None
        self._reader: StreamReader[_Response] | None = None
        self._write_lock = asyncio.Lock()
        self._due: dict[str, float] = {}
        self._ready: deque[WatchEvent] = deque()
        self._heard = False
        self._closed = False

    async def add(
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
        """Begin a watch.

        Args:
            question: A filter, perhaps with `where`, `extract`, `fields`; or with `stats` for live aggregates.
            watch_id: A name, unique here; empty: one is made.
            since: History from this record time on, then live.
            last: The last so many matching records, then live.
            resume_token: Go on from a `through` of the same question.
            every_s: How often aggregates are sent, at least 0.1; None: every 5 s.
            datasets: Only these; none: all that the caller may see.
            encoding: How rows travel: `arrow` or `json`.

        Returns:
            The watch's id. Whether the question is one shows in the events: `Created`, or `Cancelled` with an error.

        Raises:
            ValueError: The id is taken, or more than one beginning was given.
        """
        if sum(begin is not None and begin != b"" for begin in (since, last, resume_token)) > 1:
            msg = "a watch begins at one of since, last, resume_token"
            raise ValueError(msg)
        start = None
        if resume_token:
            start = _Request.Start(resume_token=resume_token)
        elif since is not None:
            start = _Request.Start(since_time=translate.to_timestamp(since))
        elif last is not None:
            start = _Request.Start(last_count=last)
        create = _Request.Create(
            watch_id=watch_id or uuid.uuid4().hex[:12],
            question=translate.to_question(question),
            start=start,
            row_encoding=to_encoding(encoding),
            interval_duration=None if every_s is None else translate.to_duration(every_s),
            datasets=datasets,
        )
        await self._write(self._state.add(create))
        return create.watch_id

    async def update(self, watch_id: str, question: Question) -> None:
        """Change a watch's question; it goes on from where it is.

        Raises:
            KeyError: No such watch.
        """
        await self._write(self._state.update(watch_id, translate.to_question(question)))

    async def cancel(self, watch_id: str) -> None:
        """End a watch; `Cancelled` without an error follows.

        Raises:
            KeyError: No such watch.
        """
        requests = self._state.cancel(watch_id)
        self._due.pop(watch_id, None)
        await self._write(requests)

    def resume_token(self, watch_id: str) -> bytes:
        """The newest `through` of a watch; empty before the first.

        Raises:
            KeyError: No such watch.
        """
        return self._state.token(watch_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        """The next event of any watch. May be cancelled and called again; nothing is lost."""
        while not self._ready and not self._closed and self._state:
            try:
                if self._reader is None:
                    await self._connect()
                await self._recreate_due()
                response = await self._read()
                if response is None:
                    raise status.unavailable("the server ended the stream", address=self._address)
            except TimeoutError:
                if self._due:
                    continue
                await self._break(errors.StalledError(SILENT_S_MAX))
                continue
            except errors.RpcError as error:
                await self._break(error)
                continue
            await self._take(response)
        if self._ready:
            return self._ready.popleft()
        await self._hang_up()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Hang up; all watches end."""
        self._closed = True
        await self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _connect(self) -> None:
        requests = self._state.reopen()
        self._due.clear()
        if not requests:
            return
        call = self._stub.Watch()
        reader: StreamReader[_Response] = StreamReader(call, address=self._address)
        self._call, self._reader = call, reader
        try:
            await self._write(requests)
        except BaseException:
            await self._hang_up()  # half of the watches must not pass for all of them
            raise

    async def _write(self, requests: list[_Request]) -> None:
        """Send what the state asks for. Without a stream nothing need be: the next one begins with all of it."""
        call = self._call
        async with self._write_lock:
            if call is None or call is not self._call:
                return
            # A stream that has ended refuses writes; the reader learns why it ended.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for request in requests:
                    await call.write(request)

    async def _read(self) -> _Response | None:
        if self._reader is None:
            return None  # all watches were cancelled while nothing was connected
        return await self._reader.read(timeout_s=self._wait_s())

    async def _take(self, response: _Response) -> None:
        self._backoff.progressed()
        self._backoff.give_up_after_s = self._give_up_after_s
        self._heard = True
        event, requests = self._state.receive(response)
        if isinstance(event, Interrupted):
            delay_s = self._backoff.next_delay_s(event.error)
            self._due[event.watch_id] = time.monotonic() + delay_s
            if self._on_retry is not None:
                self._on_retry(event.error, delay_s)
        elif self._raise_cancelled and isinstance(event, Cancelled) and event.error is not None:
            raise event.error
        elif event is not None:
            self._ready.append(event)
        await self._write(requests)

    async def _break(self, error: errors.RpcError | errors.StalledError) -> None:
        await self._hang_up()
        if isinstance(error, errors.RpcError):
            lagged = isinstance(error, errors.StreamLaggedError)
            refused = isinstance(error, errors.HandshakeError) and not self._heard
            if refused or not (error.retryable or lagged):
                raise error
        delay_s = self._backoff.next_delay_s(error)
        if self._on_retry is not None:
            self._on_retry(error, delay_s)
        await asyncio.sleep(delay_s)

    async def _hang_up(self) -> None:
        reader, self._reader, self._call = self._reader, None, None
        if reader is not None:
            await reader.aclose()

    async def _recreate_due(self) -> None:
        now_s = time.monotonic()
        for watch_id in [key for key, due_s in self._due.items() if due_s <= now_s]:
            del self._due[watch_id]
            await self._write(self._state.recreate(watch_id))

    def _wait_s(self) -> float:
        if not self._due:
            return SILENT_S_MAX
        return max(0.01, min(SILENT_S_MAX, min(self._due.values()) - time.monotonic()))
