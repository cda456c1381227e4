"""The adapters that the journal's contract suite runs over, and what each can't do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from heimdall_server.ports.journal import Journal
from tests.support.journal import ManualClock, opened, small_config


@dataclass(frozen=True)
class JournalAdapter:
    """One engine behind the port."""

    name: str
    open: Callable[[Path, ManualClock], AbstractAsyncContextManager[Journal]]
    """The journal of a directory; the same one when it is opened again."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Test case to the reason why the engine opts out of it."""


def _embedded(path: Path, clock: ManualClock) -> AbstractAsyncContextManager[Journal]:
    return opened(small_config(path), clock=clock)


def _embedded_cached(path: Path, clock: ManualClock) -> AbstractAsyncContextManager[Journal]:
    return opened(small_config(path, cache_bytes=64 * 1024), clock=clock)


ADAPTERS = (
    JournalAdapter("embedded", _embedded),
    JournalAdapter("embedded_cached", _embedded_cached),
)
