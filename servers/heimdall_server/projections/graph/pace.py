"""How much of the time the projection is at work: all of it while nothing comes in, a part while something does, little while ingest can't keep up."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

_STEP_S: Final = 0.1
_LOADED_S: Final = 1.0
"""A load counts for so long after it was seen: what waits at ingest comes and goes with every group that is taken."""
_FIRST_S: Final = 1.0
"""What it owes at least when ingest becomes busy: about what the next piece of work will take."""


class Load(enum.IntEnum):
    """What ingest has to do."""

    CALM = 0
    ACTIVE = 1
    """Something is on its way to be durable."""
    BUSY = 2
    """More comes than becomes durable, or so much that whatever else is done delays it."""


@dataclass(slots=True)
class Pace:
    """Lets the projection rest before each piece of work, for what it worked before. For one event loop.

    While ingest is busy it rests before the first piece, too, so that a load that is over soon meets no work at all.
    """

    share: float = 1.0
    """Of the time, at most."""
    active_share: float = 1.0
    """Of the time, while ingest is active."""
    busy_share: float = 1.0
    """Of the time, while it is busy."""
    load_now: Callable[[], Load] = lambda: Load.CALM
    """What ingest has to do, now."""
    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rested_s: float = field(default=0.0, init=False)
    """So far."""
    _seen_until_s: dict[Load, float] = field(default_factory=dict, init=False)
    _owed_s: float = field(default=0.0, init=False)
    _worked_at_s: float = field(default=0.0, init=False)
    _was_busy: bool = field(default=False, init=False)

    @property
    def load(self) -> Load:
        """What ingest had to do of late."""
        now_s, load = self.now_s(), self.load_now()
        self._seen_until_s[load] = now_s + _LOADED_S
        return max(one for one, until_s in self._seen_until_s.items() if now_s < until_s)

    def worked(self, worked_s: float) -> None:
        """Note time at work that is over now, the store's included."""
        self._owed_s += worked_s
        self._worked_at_s = self.now_s()

    async def begin(self) -> None:
        """Wait until it may work. Ends early when ingest keeps up again."""
        idle_s = self.now_s() - self._worked_at_s if self._owed_s else 0.0
        if self.load is Load.BUSY and not self._was_busy:
            self._owed_s, idle_s = max(self._owed_s, _FIRST_S), 0.0
        while self._owed_s > 0:
            share = min(self.share, (1.0, self.active_share, self.busy_share)[self.load])
            if share >= 1:
                break
            cost = share / (1 - share)
            self._owed_s -= idle_s * cost  # doing nothing is a rest, whyever
            step_s = min(_STEP_S, max(0.0, self._owed_s / cost))
            before_s = self.now_s()
            if step_s:
                await self.sleep(step_s)
            idle_s = max(step_s, self.now_s() - before_s)
            self.rested_s += idle_s
        self._owed_s, self._was_busy = 0.0, self.load is Load.BUSY
