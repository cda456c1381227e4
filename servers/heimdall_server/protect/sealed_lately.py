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
from typing import Final

from heimdall_server.domain.personal import WORD_LENGTH, TokenName

_ENTRY_BYTES: Final = 300
"""What a spelling costs beside its text: two strings, a place in two tables."""


@dataclass(slots=True)
class _OfClass:
    """What is known of one class, in two ages: what isn't used while the younger fills up is forgotten with the older."""

    epoch: int = -1
    generation: int = 0
    spellings: dict[str, str] = field(default_factory=dict, repr=False)
    older_spellings: dict[str, str] = field(default_factory=dict, repr=False)
    sealed: set[str] = field(default_factory=set)
    older_sealed: set[str] = field(default_factory=set)

    def age(self) -> None:
        self.older_spellings, self.spellings = self.spellings, {}
        self.older_sealed, self.sealed = self.sealed, set()


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
        self._young_entries = 0
        self._young_bytes = 0
        self._erasures = 0

    def __repr__(self) -> str:
        return f"SealedLately({len(self)} spellings)"

    def __len__(self) -> int:
        with self._lock:
            return sum(len(one.spellings) + len(one.older_spellings) for one in self._classes.values())

    def words(self, data_class: str, epoch: int, spellings: Sequence[str]) -> list[str | None]:
        """What the spellings led to under an epoch; None: not known."""
        with self._lock:
            known = self._of_epoch(data_class, epoch)
            young, old = known.spellings, known.older_spellings
            words = [young.get(spelling) for spelling in spellings]
            if old:
                for index, word in enumerate(words):
                    if word is None and (again := old.get(spellings[index])) is not None:
                        words[index] = young[spellings[index]] = again
                        self._count(spellings[index])
            return words

    def learn(self, data_class: str, epoch: int, words: Mapping[str, str]) -> None:
        """Keep what spellings lead to."""
        with self._lock:
            self._of_epoch(data_class, epoch).spellings.update(words)
            for spelling in words:
                self._count(spelling)
            if self._young_entries > self._entries_max // 2 or self._young_bytes > self._bytes_max // 2:
                for known in self._classes.values():
                    known.age()
                self._young_entries = self._young_bytes = 0

    def unsealed(self, data_class: str, generation: int, words: Iterable[str]) -> list[str]:
        """Which words have no sealed copy of this generation that is known to be durable; each once."""
        with self._lock:
            known = self._of_generation(data_class, generation)
            missing = set(words).difference(known.sealed)
            again = missing & known.older_sealed
            known.sealed |= again
        return list(missing - again)

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
                    known.sealed.update(words)

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
                known.sealed -= gone
                known.older_sealed -= gone
                for ages in (known.spellings, known.older_spellings):
                    for spelling in [one for one, word in ages.items() if word[:WORD_LENGTH] in gone]:
                        del ages[spelling]

    def clear(self) -> None:
        """Forget everything, and what is pending, too: for when sealed copies may have been lost."""
        with self._lock:
            self._erasures += 1
            self._classes.clear()
            self._young_entries = self._young_bytes = 0

    def _count(self, spelling: str) -> None:
        self._young_entries += 1
        self._young_bytes += len(spelling) + _ENTRY_BYTES

    def _of_epoch(self, data_class: str, epoch: int) -> _OfClass:
        known = self._classes.setdefault(data_class, _OfClass())
        if known.epoch != epoch:
            known.epoch = epoch
            known.spellings, known.older_spellings = {}, {}
        return known

    def _of_generation(self, data_class: str, generation: int) -> _OfClass:
        known = self._classes.setdefault(data_class, _OfClass())
        if known.generation != generation:
            known.generation = generation
            known.sealed, known.older_sealed = set(), set()
        return known
