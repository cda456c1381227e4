"""SIGINT means to tests what it means at a terminal, also where a shell started them in the background, which ignores it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts() -> Iterator[None]:
    """In this process it raises `KeyboardInterrupt`; processes that are started get the system's default."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
