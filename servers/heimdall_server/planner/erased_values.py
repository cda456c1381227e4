"""Which values were erased: what a search by value finds no record of from before that. A token that somebody knows still finds them all.

Filled at each start from the ledger's erasures, and by each erasure as it makes values inaccessible. Knows tokens and positions, no values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Final

from heimdall_server.ports.vault import Tombstone

FOREVER: Final = 2**63 - 1
"""Stands for the position of a value that was blocked: no record is found by it, whenever it came in."""


class ErasedValues:
    """The list. Thread-safe; only grows."""

    def __init__(self, blocked: Callable[[str], Collection[str]] = lambda _: ()) -> None:
        """Begin with nothing erased.

        Args:
            blocked: The keyed digests of a class's values that were erased for good, which hold for epochs to come, too.
        """
        self._blocked = blocked
        self._lock = threading.Lock()
        self._through: dict[tuple[str, str], int] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Counts what was added: a query that runs on must be rewritten again when it changes. 0: nothing was ever erased."""
        return self._version

    def add(self, tombstones: Iterable[Tombstone]) -> None:
        """Take in what an erasure reaches by now. Idempotent: a value that is known keeps the greater position."""
        with self._lock:
            changed = False
            for one in tombstones:
                key = one.name.data_class, one.name.word
                through = FOREVER if one.blocked else one.through
                if through > self._through.get(key, 0):
                    self._through[key] = through
                    changed = True
            # Last, so that whoever sees it sees all of them.
            self._version += changed

    def through(self, data_class: str, word: str) -> int:
        """The journal position (shard 0) through which records of a token's value aren't found by it; 0: it wasn't erased."""
        return self._through.get((data_class, word), 0)

    def blocked(self, data_class: str) -> Collection[str]:
        """Digests of a class, as `Tokeniser.digests` makes them; for nearly every class there are none."""
        return self._blocked(data_class)
