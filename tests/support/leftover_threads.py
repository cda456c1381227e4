"""No thread may outlive its test: what it goes on with (clients that connect again, random numbers) disturbs tests that come later."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

GRACE_S: Final = 5.0
"""A thread that was told to end may take so long."""


def _is_ours(thread: threading.Thread) -> bool:
    """The SDK's, or one that tests began; not those of pools and libraries, which are shared."""
    begun_for = getattr(thread, "_target", None) or type(thread).run
    return thread.name == "heimdall client" or str(getattr(begun_for, "__module__", "")).startswith("tests.")


@pytest.fixture(autouse=True)
def joined_threads() -> Iterator[None]:
    """Fails a test whose threads go on; those of its module's or session's fixtures were there before it."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _is_ours(thread)]
    if left:
        gc.collect()  # a client that nobody refers to ends its thread
    deadline_s = time.monotonic() + GRACE_S
    for thread in left:
        thread.join(max(0.0, deadline_s - time.monotonic()))
        assert not thread.is_alive(), f"thread {thread.name!r} outlives its test: end what it waits for, and join it"
