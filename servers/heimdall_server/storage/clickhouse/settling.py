"""Whether records and rollups are whole, and through which positions: what a query that reads no positions must know.

Rollups have no positions, so such an answer is a snapshot only while nothing changes them. A change bumps
the version and unsettles them; they settle when a projection says through where everything is whole.
A reader takes the version, starts its query, and starts again if the version has changed by then:
writers never wait for readers. Records change before rollups do, so they have a version of their own. An insert adds records behind
those that are held, and readers see none of them before it commits: until it has returned, a reader asks the store whether there are any.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from heimdall_server.ports.journal import Positions


@dataclass(frozen=True, slots=True)
class Settled:
    """A moment when the rollups, or the records, were whole."""

    version: int
    through: Positions


class Settling:
    """The state of one store's rollups. Belongs to the event loop."""

    def __init__(self) -> None:
        self._version = 0
        self._records_version = 0
        self._records_whole = False
        self._inserting = False
        self._through: dict[int, int] = {}
        self._is_settled = asyncio.Event()

    def insert(self) -> None:
        """Records behind those that are held are about to come in."""
        self._inserting = True

    def unsettle(self) -> None:
        """Records have come in, or others are about to change; and so are the rollups."""
        self._version += 1
        self._records_version += 1
        self._records_whole = self._inserting = False
        self._is_settled.clear()

    def settle(self, through: Positions) -> None:
        """Both are whole through these positions, and hold nothing behind them."""
        self._version += 1
        self._records_version += 1
        self._records_whole, self._inserting = True, False
        self._through = dict(through)
        self._is_settled.set()

    @property
    def now(self) -> Settled | None:
        """The state of the rollups, if it is settled."""
        return Settled(self._version, self._through) if self._is_settled.is_set() else None

    async def wait(self, timeout_s: float) -> Settled | None:
        """Wait for a settled state; None if there was none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_settled.wait()
        except TimeoutError:
            return None
        return self.now

    def still(self, settled: Settled) -> bool:
        """True if the rollups didn't change since."""
        return self._version == settled.version and self._is_settled.is_set()

    @property
    def records(self) -> Settled | None:
        """The state of the records, if they are whole but for what an insert may just have added."""
        return Settled(self._records_version, self._through) if self._records_whole else None

    @property
    def inserting(self) -> bool:
        """Whether an insert hasn't returned, so that there may be records behind those of `records`."""
        return self._inserting

    def records_still(self, settled: Settled) -> bool:
        """True if the records didn't change since, but for what an insert may just have added."""
        return self._records_version == settled.version
