"""Drives `append_protocol` over streams which may break: connects, sends, receives, waits, connects again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc.aio

from heimdall.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from heimdall_client import errors, status
from heimdall_client.append_events import Acked, Draining, Opened, Refused
from heimdall_client.append_protocol import AppendProtocol, Phase
from heimdall_client.backoff import Backoff
from heimdall_client.streams import Signal, StreamReader, end_task

OPEN_TIMEOUT_S: Final = 20.0
"""For the answer to `open`."""
DRAIN_S: Final = 30.0
"""How long a server that is going away may take for its last acknowledgements."""
CHECK_S: Final = 5.0
"""How often silence is looked at."""

OnRetry = Callable[[errors.HeimdallError, float], None]
"""Told of each break: why, and in how many seconds the next try is."""

_Request = ingest_service_pb2.AppendRequest
_Response = ingest_service_pb2.AppendResponse


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How an ingester behaves; the defaults suit most."""

    chunk_bytes: int = 1024 * 1024
    """Aim for payloads of this size; the server's limit counts, too."""
    linger_s: float = 0.1
    """Written bytes wait at most so long for more, and only while others are in flight."""
    buffer_bytes_max: int = 32 * 1024 * 1024
    """Bytes that aren't acknowledged yet; beyond, `write` waits. At least 8 MiB (a held record and a window)."""
    first_open_s: float = 15.0
    """Give up when the source couldn't be opened for the first time within this."""
    give_up_after_s: float = 300.0
    """Give up when nothing was acknowledged for so long although it was tried."""
    stall_s: float = 60.0
    """A server that owes an answer and is silent for so long counts as gone."""

    def __post_init__(self) -> None:
        if self.buffer_bytes_max < 8 * 1024 * 1024:
            msg = "buffer_bytes_max must be at least 8 MiB"
            raise ValueError(msg)


class AppendDriver:
    """See the module. `run` is a task of its owner; everything is on one event loop.

    Args:
        stub: Of the channel to use.
        protocol: The source's state.
        options: Deadlines.
        address: For the sentences of errors.
        on_retry: See `OnRetry`.
        on_event: Called after each message of the server.
    """

    def __init__(
        self,
        stub: ingest_service_pb2_grpc.IngestServiceAsyncStub,
        protocol: AppendProtocol,
        *,
        options: IngestOptions,
        address: str,
        on_retry: OnRetry | None = None,
        on_event: Callable[[], None] | None = None,
    ) -> None:
        self.changed = Signal()
        """Notified whenever the protocol's state may have changed; notify it after changing that."""
        self.opened = False
        self.already_complete = False
        self.start_offset = 0
        self.break_count = 0
        """Streams that broke after they were opened."""
        self._stub = stub
        self._protocol = protocol
        self._options = options
        self._address = address
        self._on_retry = on_retry
        self._on_event = on_event
        self._what = f"source {protocol.source_id!r}"
        self._backoff = Backoff(self._what, give_up_after_s=options.first_open_s)
        self._failure: Exception | None = None
        self._last_problem: errors.HeimdallError | None = None
        self._running = True
        self._heard_s = self._sent_s = time.monotonic()

    async def run(self) -> None:
        """Feed the source until it is finished or fails; `until` tells which."""
        try:
            while self._protocol.phase is not Phase.FINISHED:
                problem = await self._one_stream()
                if problem is None:
                    break
                self.break_count += self._protocol.phase is Phase.STREAMING
                self._protocol.disconnect()
                self.changed.notify()
                if not self._may_try_again(problem):
                    raise problem
                delay_s = self._backoff.next_delay_s(problem)
                self._tell(problem, delay_s)
                await asyncio.sleep(delay_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._failure = error
        finally:
            self._running = False
            self.changed.notify()

    async def until(self, condition: Callable[[], bool], *, timeout_s: float | None = None) -> None:
        """Wait for something about the source.

        Raises:
            GaveUpError: It took longer than `timeout_s`.
            ClosedError: The driver ended before.
            HeimdallError: The source has failed; the same reason each time.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if self._failure is not None:
                raise self._failure
            if condition():
                return
            if not self._running:
                raise errors.ClosedError(self._what)
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                last = self._last_problem or errors.StalledError(time.monotonic() - self._heard_s)
                raise errors.GaveUpError(self._what, timeout_s or 0.0, last)
            await self.changed.wait(timeout_s=left_s)

    def _may_try_again(self, problem: errors.HeimdallError) -> bool:
        if isinstance(problem, errors.HandshakeError) and not self.opened:
            return False  # nothing ever worked: a wrong certificate doesn't heal
        return not isinstance(problem, errors.RpcError) or problem.retryable

    def _tell(self, problem: errors.HeimdallError, delay_s: float) -> None:
        self._last_problem = problem
        if self._on_retry is not None:
            self._on_retry(problem, delay_s)

    async def _one_stream(self) -> errors.HeimdallError | None:
        """Run a stream to its end.

        Returns:
            Why it broke; None: the source is finished.

        Raises:
            HeimdallError: The source has failed.
        """
        call = self._stub.Append()
        reader: StreamReader[_Response] = StreamReader(call, address=self._address)
        sender = asyncio.create_task(self._send(call))
        sender.add_done_callback(lambda _: call.cancel() if _crashed(sender) else None)
        try:
            await self._receive(reader)
        except (errors.RpcError, errors.StalledError) as error:
            if self._protocol.phase is Phase.FAILED:
                raise
            problem: errors.HeimdallError | None = error
        else:
            problem = None
        finally:
            crash = await end_task(sender)
            await reader.aclose()
        if crash is not None:
            raise crash
        return problem

    async def _send(self, call: grpc.aio.StreamStreamCall[_Request, _Response]) -> None:
        # A write to a stream that has ended raises; the reader learns why it ended.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(self._protocol.connect())
            while True:
                request = self._protocol.next_request(time.monotonic())
                if request is not None:
                    self._sent_s = time.monotonic()
                    await call.write(request)
                else:
                    await self.changed.wait(timeout_s=self._protocol.wake_after_s(time.monotonic()))

    async def _receive(self, reader: StreamReader[_Response]) -> None:
        """Read until the source is finished.

        Raises:
            RpcError: The stream ended, or the source has failed.
            StalledError: The server owes an answer and says nothing.
        """
        silent_s_max = OPEN_TIMEOUT_S
        self._sent_s = time.monotonic()
        while self._protocol.phase is not Phase.FINISHED:
            try:
                response = await reader.read(timeout_s=min(silent_s_max, CHECK_S))
            except TimeoutError:
                silent_s = time.monotonic() - max(self._heard_s, self._sent_s)
                owed = self._protocol.expects_answer or self._protocol.phase is Phase.CLOSED
                if owed and silent_s >= silent_s_max:
                    raise errors.StalledError(silent_s) from None
                continue
            self._heard_s = time.monotonic()
            if response is None:
                raise status.unavailable("the server ended the stream", address=self._address)
            silent_s_max = self._on_response(response)

    def _on_response(self, response: _Response) -> float:
        """Take a message; returns how long the server may now be silent while it owes an answer, in seconds."""
        event = self._protocol.receive(response)
        silent_s = self._options.stall_s
        if isinstance(event, Refused):
            delay_s = self._backoff.next_delay_s(event.error)
            self._protocol.pause_until(time.monotonic() + delay_s)
            self._tell(event.error, delay_s)
        elif isinstance(event, Draining):
            silent_s = DRAIN_S
        elif isinstance(event, Opened):
            self._take_opened(event.offset)
        elif isinstance(event, Acked):
            if event.advanced:
                self._backoff.progressed()
        else:
            self.already_complete = event.already_complete
            self._take_opened(self._protocol.durable_offset)
        if self._on_event is not None:
            self._on_event()
        self.changed.notify()
        return silent_s

    def _take_opened(self, offset: int) -> None:
        if not self.opened:
            self.opened = True
            self.start_offset = offset
            self._backoff.give_up_after_s = self._options.give_up_after_s
            self._backoff.progressed()
        elif not self._protocol.held_bytes:
            self._backoff.progressed()


def _crashed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None
