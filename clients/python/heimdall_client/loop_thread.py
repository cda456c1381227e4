"""An event loop on a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from heimdall_client.errors import ClosedError

CLOSE_S: Final = 10.0
"""How long tasks may take to end once they are cancelled."""

SLEEP_S: Final = 0.5
"""How long a waiting thread sleeps at a stretch."""

_Result = TypeVar("_Result")


class LoopThread:
    """Runs coroutines for other threads. Thread-safe.

    The thread is a daemon only so that a program that forgets `close` can end: it is closed, and joined, at exit or
    when nothing refers to it any more.
    """

    def __init__(self) -> None:
        self.loop: Final = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self.loop,), name="heimdall client", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _shut_down, self.loop, self._thread)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end and give back what it returned or raised.

        Ctrl-C (any exception in the waiting thread) cancels it and waits until it has ended; a second one doesn't.

        Raises:
            ClosedError: The loop was closed, before or meanwhile.
        """
        what = "client"
        if self.closed:
            coroutine.close()
            raise ClosedError(what)
        future: concurrent.futures.Future[_Result] = concurrent.futures.Future()
        tasks: list[asyncio.Task[_Result]] = []

        def begin() -> None:
            task = self.loop.create_task(coroutine)
            tasks.append(task)
            task.add_done_callback(lambda done: _settle(future, done))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self.loop.call_soon_threadsafe(begin)
        try:
            return _result(future)
        except concurrent.futures.CancelledError:
            raise ClosedError(what) from None
        except BaseException:
            if not future.done():
                self.loop.call_soon_threadsafe(cancel)
                concurrent.futures.wait([future], timeout=CLOSE_S)
            raise

    def close(self) -> None:
        """Cancel what runs, end the thread. May be called more than once."""
        self._finalizer()


def _result(future: concurrent.futures.Future[_Result]) -> _Result:
    # A signal that arrives just before the thread goes to sleep is noticed only when it wakes.
    while not future.done():
        concurrent.futures.wait((future,), timeout=SLEEP_S)
    return future.result()


def _settle(future: concurrent.futures.Future[_Result], task: asyncio.Task[_Result]) -> None:
    if task.cancelled():
        future.set_exception(concurrent.futures.CancelledError())
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _shut_down(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if loop.is_closed():
        return
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(CLOSE_S)
