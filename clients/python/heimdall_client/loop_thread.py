"""An event loop on a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

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
        outcome: _Outcome[_Result] = _Outcome()
        tasks: list[asyncio.Task[_Result]] = []

        def begin() -> None:
            task = self.loop.create_task(coroutine)
            tasks.append(task)
            task.add_done_callback(outcome.settle)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self.loop.call_soon_threadsafe(begin)
        try:
            # A signal that arrives just before the thread goes to sleep is noticed only when it wakes.
            while not outcome.wait(SLEEP_S):
                pass
        except BaseException:
            if not outcome.done:
                self.loop.call_soon_threadsafe(cancel)
                outcome.wait(CLOSE_S)
            raise
        try:
            return outcome.result()
        except asyncio.CancelledError:
            raise ClosedError(what) from None

    def close(self) -> None:
        """Cancel what runs, end the thread. May be called more than once."""
        self._finalizer()


class _Outcome(Generic[_Result]):
    """What became of a coroutine: settled by the loop's thread, waited for by one other.

    Only a bare lock stands between them, and only the waiting thread ever blocks on it. With a condition (as in
    `concurrent.futures`) an interrupt could strike the waiting thread while it holds it, and the loop's thread would wait for ever.
    """

    def __init__(self) -> None:
        self._pending = threading.Lock()
        self._pending.acquire()
        self._task: asyncio.Task[_Result] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._task is not None

    def settle(self, task: asyncio.Task[_Result]) -> None:
        """Loop's thread, once: it has ended."""
        self._task = task
        self._pending.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, for so long at most; whether it has."""
        return self.done or self._pending.acquire(timeout=timeout_s)

    def result(self) -> _Result:
        """Once it has ended: what it returned.

        Raises:
            asyncio.CancelledError: It was cancelled.
            BaseException: What it raised.
        """
        assert self._task is not None  # noqa: S101 - see `done`
        return self._task.result()


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
