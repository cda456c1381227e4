"""What was tokenised lately: the words of values, and which of them have a sealed copy in a durable frame. Bounded.

Rules:
* A value's *spelling* leads to its word: true as long as the epoch of the index key lasts, whatever becomes of a frame.
* A word counts as *sealed* only once the frame that carries the sealed copy is durable (`Pending`, promoted then). A frame that
  couldn't be appended leaves nothing behind: its values are sealed again with the next.
* A new epoch forgets a class's spellings, a new generation its sealed words: both are seen by comparison, nobody needs to tell.
* What is erased is forgotten at once, and whatever was pending at that moment is never promoted: its frame may stand before
  the tombstone, which would take the sealed copy away.

Spellings hold personal values in plain, in memory only. Nothing here is ever logged; `repr` shows counts.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from heimdall_server.domain.personal import WORD_LENGTH, TokenName

_ENTRY_BYTES: Final = 300
"""What a spelling costs beside its text: two strings, a place in two tables."""
_FORGOTTEN_AT_ONCE: Final = 8
"""When it is full, one of so many goes, of each class those that are known longest. A look-up is one step, then: nothing is noted of how
lately a value was seen, and what is seen often is soon learnt again."""


@dataclass(slots=True)
class _OfClass:
    """What is known of one class, the oldest first."""

    epoch: int = -1
    generation: int = 0
    spellings: dict[str, str] = field(default_factory=dict, repr=False)
    sealed: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Pending:
    """Words whose sealed copies are in a frame that isn't durable yet."""

    erasures: int
    """How many there had been when the frame was made."""
    words: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    """By class and generation."""


class SealedLately:
    """The cache. Thread-safe."""

    def __init__(self, *, entries_max: int = 500_000, bytes_max: int = 256 * 1024 * 1024) -> None:
        """Make an empty one.

        Args:
            entries_max: Spellings that are kept, of all classes together.
            bytes_max: About what they may take.
        """
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._classes: dict[str, _OfClass] = {}
        self._bytes = 0
        self._erasures = 0

    def __repr__(self) -> str:
        return f"SealedLately({len(self)} spellings)"

    def __len__(self) -> int:
        with self._lock:
            return self._entries()

    def words(self, data_class: str, epoch: int, spellings: Sequence[str]) -> list[str | None]:
        """What the spellings led to under an epoch; None: not known."""
        with self._lock:
            return list(map(self._of_epoch(data_class, epoch).spellings.get, spellings))

    def learn(self, data_class: str, epoch: int, words: Mapping[str, str]) -> None:
        """Keep what spellings lead to."""
        with self._lock:
            known = self._of_epoch(data_class, epoch).spellings
            count = len(known)
            known.update(words)
            # Two threads may have learnt the same: what is too much by it goes with the next clearing.
            self._bytes += sum(map(len, words)) + _ENTRY_BYTES * (len(known) - count)
            if self._entries() > self._entries_max or self._bytes > self._bytes_max:
                self._forget_oldest()

    def unsealed(self, data_class: str, generation: int, words: Iterable[str]) -> list[str]:
        """Which words have no sealed copy of this generation that is known to be durable; each once."""
        with self._lock:
            return list(set(words).difference(self._of_generation(data_class, generation).sealed))

    def pending(self) -> Pending:
        """Begin to note what a frame will carry."""
        with self._lock:
            return Pending(self._erasures)

    def promote(self, pending: Pending) -> None:
        """The frame is durable: what it carries counts as sealed, unless something was erased meanwhile."""
        with self._lock:
            if pending.erasures != self._erasures:
                return
            for (data_class, generation), words in pending.words.items():
                known = self._classes.get(data_class)
                if known is not None and known.generation == generation:
                    known.sealed.update(dict.fromkeys(words))

    def forget(self, names: Collection[TokenName]) -> None:
        """Forget values that are erased: their spellings, and that they were sealed."""
        words: dict[str, set[str]] = {}
        for name in names:
            words.setdefault(name.data_class, set()).add(name.word)
        with self._lock:
            self._erasures += 1
            for data_class, gone in words.items():
                known = self._classes.get(data_class)
                if known is None:
                    continue
                for word in gone:
                    known.sealed.pop(word, None)
                for spelling in [one for one, word in known.spellings.items() if word[:WORD_LENGTH] in gone]:
                    del known.spellings[spelling]

    def clear(self) -> None:
        """Forget everything, and what is pending, too: for when sealed copies may have been lost."""
        with self._lock:
            self._erasures += 1
            self._classes.clear()
            self._bytes = 0

    def _entries(self) -> int:
        return sum(len(one.spellings) for one in self._classes.values())

    def _forget_oldest(self) -> None:
        for known in self._classes.values():
            for some in (known.spellings, known.sealed):
                _shorten(some, len(some) // _FORGOTTEN_AT_ONCE + 1)
        texts = sum(sum(map(len, one.spellings)) for one in self._classes.values())
        self._bytes = texts + _ENTRY_BYTES * self._entries()

    def _of_epoch(self, data_class: str, epoch: int) -> _OfClass:
        known = self._classes.setdefault(data_class, _OfClass())
        if known.epoch != epoch:
            known.epoch = epoch
            known.spellings = {}
        return known

    def _of_generation(self, data_class: str, generation: int) -> _OfClass:
        known = self._classes.setdefault(data_class, _OfClass())
        if known.generation != generation:
            known.generation = generation
            known.sealed = {}
        return known


def _shorten(some: dict[str, Any], count: int) -> None:
    for key in list(islice(some, count)):
        del some[key]
