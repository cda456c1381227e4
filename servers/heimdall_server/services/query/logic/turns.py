"""Whose turn it is: a queue that is fair between callers by what their work costs, however much of it one brings.

Start-time fair queueing (Goyal, Vin, Cheng 1996). Each item gets a start tag: the later of the queue's virtual time and
the tag at which the caller's previous item ends. The least tag is next, and the virtual time becomes that tag. So a
caller with fifty items waits behind its own, and one that comes with its first is next after whoever is being
served. Nobody starves: of each other caller only as much goes before an item as the item's own wait is worth.

No clock, no loop: a data structure.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")
COST_MIN: Final = 0.001


@dataclass(order=True, slots=True)
class _Waiting(Generic[T]):
    start: float
    number: int
    caller: str = field(compare=False)
    item: T = field(compare=False)
    is_gone: bool = field(default=False, compare=False)


class FairQueue(Generic[T]):
    """See the module. Each operation costs a logarithm of the items; `first`, where callers may not, their number."""

    def __init__(self) -> None:
        self._heap: list[_Waiting[T]] = []
        self._entries: dict[int, _Waiting[T]] = {}
        self._ends: dict[str, float] = {}
        self._now = 0.0
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, caller: str, cost: float, item: T) -> int:
        """Put an item behind the caller's others.

        Args:
            caller: Who shares with others.
            cost: What it is worth, in any unit that is the same for all; at least `COST_MIN` is taken.
            item: What.

        Returns:
            A ticket to remove it by.
        """
        start = max(self._now, self._ends.get(caller, 0.0))
        self._ends[caller] = start + max(cost, COST_MIN)
        self._count += 1
        waiting = _Waiting(start, self._count, caller, item)
        self._entries[self._count] = waiting
        heapq.heappush(self._heap, waiting)
        return self._count

    def first(self, may: Callable[[str], bool] = lambda _: True) -> int | None:
        """The ticket of the item whose turn it is.

        Args:
            may: Whether a caller may have a turn now; others come before its items meanwhile.

        Returns:
            None: no caller that has items may.
        """
        while self._heap and self._heap[0].is_gone:
            heapq.heappop(self._heap)
        if self._heap and may(self._heap[0].caller):
            return self._heap[0].number
        eligible = [each for each in self._entries.values() if may(each.caller)]
        return min(eligible).number if eligible else None

    def item(self, ticket: int) -> T:
        """An item that waits."""
        return self._entries[ticket].item

    def take(self, ticket: int) -> T:
        """Take an item whose turn it is."""
        waiting = self._entries.pop(ticket)
        waiting.is_gone = True
        self._now = max(self._now, waiting.start)
        # Who has had all that it is owed starts anew, as a newcomer does: nothing grows with callers that are gone.
        self._ends = {caller: end for caller, end in self._ends.items() if end > self._now}
        return waiting.item

    def remove(self, ticket: int) -> bool:
        """Take an item out of the queue; what it would have cost its caller stays charged.

        Returns:
            False if its turn had come, or it was removed.
        """
        waiting = self._entries.pop(ticket, None)
        if waiting is None:
            return False
        waiting.is_gone = True
        return True

    def charge(self, caller: str, cost: float) -> None:
        """Charge a caller for what its work cost beyond what was said before (negative: less)."""
        end = max(self._ends.get(caller, 0.0), self._now) + cost
        if end > self._now:
            self._ends[caller] = end
        else:
            self._ends.pop(caller, None)
