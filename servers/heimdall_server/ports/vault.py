"""The vault: sealed personal values by token. A projection of the journal, plus what erasure decided, which outlives any replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import SealedRun


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A token whose value was erased."""

    name: TokenName
    through: int
    """Journal position at the erasure: sealed copies in frames up to it never come back. (Shard 0.)"""
    blocked: bool
    """No later frame brings it back either."""
    erasure_id: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class VaultState:
    """What an operator wants to know."""

    value_count: int
    size_bytes: int
    tombstone_count: int
    applied_position: int


class Vault(Protocol):
    """Sealed values.

    Guarantees: `apply` is idempotent and atomic with the position it notes; one row a token; a tombstone wins over every value of a
    frame up to its position, whatever the order in which they come. Every call has a deadline.

    All raise StoreError (retryable) when the engine can't be reached.
    """

    async def applied(self, journal_id: str) -> int:
        """The position through which this journal's frames were applied; 0: none."""
        ...

    async def apply(self, runs: Sequence[SealedRun], positions: Sequence[int], *, journal_id: str, through: int) -> int:
        """Keep new values and note how far the journal was applied, in one transaction.

        Args:
            runs: In journal order. Values may be repeated: the first wins that no tombstone takes away.
            positions: Of the frame of each run.
            journal_id: The journal's.
            through: Position that is applied now; may be less than before, after a journal was restored.

        Returns:
            Values that were new.
        """
        ...

    async def note_gap(self, journal_id: str, *, first: int, last: int) -> None:
        """Remember positions (inclusive) whose frames were gone before they were applied: values in them can't be read. Idempotent."""
        ...

    async def gaps(self, journal_id: str) -> Sequence[tuple[int, int]]:
        """What `note_gap` remembered, in order: (first, last)."""
        ...

    async def rewind(self, journal_id: str, through: int) -> None:
        """Hear where the journal ended before anything new came in: nothing that is kept may be of a later position.

        After a journal was restored from a backup its next positions are other frames' than those that tombstones and values know: a
        tombstone that reached beyond would take away what comes in now, and a value from beyond would outlive an erasure. Idempotent;
        costs next to nothing unless this journal was applied further than that.

        Args:
            journal_id: The journal's.
            through: Its last position.
        """
        ...

    async def get(self, names: Collection[TokenName]) -> Mapping[TokenName, SealedValue]:
        """The values that are there."""
        ...

    async def tombstones(self, names: Collection[TokenName]) -> Mapping[TokenName, Tombstone]:
        """Those of the names that were erased."""
        ...

    async def bury(self, tombstones: Sequence[Tombstone]) -> int:
        """Delete values and keep their tombstones, in one transaction. Idempotent. Returns values that were deleted."""
        ...

    def older_than(self, data_class: str, generation: int, *, batch: int) -> AsyncIterator[Sequence[SealedValue]]:
        """Values of a class sealed under generations before one, in batches; each batch may be replaced before the next is asked for."""
        ...

    async def discard(self, values: Sequence[SealedValue]) -> int:
        """Delete values that nobody can open any more, where they are still there under the same generation, so that fresh copies can take their place.

        Idempotent. Returns how many there were.
        """
        ...

    async def replace(self, values: Sequence[SealedValue]) -> int:
        """Put re-sealed values in place of the older ones, where these are still there. Returns how many were."""
        ...

    async def count_older_than(self, data_class: str, generation: int) -> int:
        """How many are left to be re-sealed."""
        ...

    async def forget_epoch(self, epoch: int) -> int:
        """Delete the values whose tokens are of an epoch (an index into `EPOCHS`). Idempotent. Returns how many there were."""
        ...

    async def state(self) -> VaultState:
        """Sizes."""
        ...
