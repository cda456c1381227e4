"""Reading a stream with a deadline on silence, ending tasks, and waking those who wait for a change."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from heimdall_client import errors, status

Response = TypeVar("Response")


class StreamReader(Generic[Response]):
    """Reads a call's messages one by one.

    A read that is waited for with a deadline goes on after it: cancelling a read of gRPC's would cancel the call.

    Args:
        call: A call whose responses are a stream.
        address: For the sentences of errors.
    """

    def __init__(self, call: Any, *, address: str) -> None:  # noqa: ANN401 - grpc's call types share no base that reads
        self._call = call
        self._address = address
        self._read: asyncio.Task[Any] | None = None

    async def read(self, *, timeout_s: float) -> Response | None:
        """The next message, or None at the stream's end.

        Raises:
            TimeoutError: None came for so long; call again to go on waiting.
            RpcError: The stream ended with a status.
        """
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._read}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        finished, self._read = self._read, None
        if finished.cancelled():
            raise errors.RpcError(grpc.StatusCode.CANCELLED, "the stream was cancelled on this side")
        try:
            message = finished.result()
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        return None if message is grpc.aio.EOF else message

    async def aclose(self) -> None:
        """Hang up."""
        self._call.cancel()
        if self._read is not None:
            reading, self._read = self._read, None
            await end_task(reading)


class Signal:
    """Wakes everyone who waits for some change. Waiters check what they wait for themselves, before and after."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, *, timeout_s: float | None = None) -> bool:
        """Wait for the next change.

        Returns:
            False if none came in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


async def end_task(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel a task and wait for its end, without taking the caller's own cancellation for the task's.

    Returns:
        What it raised, other than its cancellation.
    """
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()
