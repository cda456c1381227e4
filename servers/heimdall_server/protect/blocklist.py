"""Values that are never sealed: what was erased for good, whatever epoch the tokens of later copies are of.

Known by keyed digests under the identity key, which is never rotated: neither tells the value, and both are the same in all epochs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping


class Blocklist:
    """The list. Thread-safe: readers see one picture or the next. Only grows; filled anew at each start by whoever keeps it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: Mapping[str, frozenset[str]] = {}

    def block(self, data_classes: Collection[str], digests: Collection[str]) -> None:
        """Keep out values of some classes from now on. Idempotent.

        Args:
            data_classes: Which classes the values may be of.
            digests: As `Tokeniser.digests` makes them, which hold for one class each.
        """
        if not digests:
            return
        with self._lock:
            known = dict(self._digests)
            known.update((name, known.get(name, frozenset()).union(digests)) for name in data_classes)
            self._digests = known

    def of(self, data_class: str) -> frozenset[str]:
        """Digests of a class; for nearly every class there are none."""
        return self._digests.get(data_class, frozenset())
