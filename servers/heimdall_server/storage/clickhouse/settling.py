"""Whether records and rollups are whole, and through which positions: what a query that reads no positions must know.

Rollups have no positions, so such an answer is a snapshot only while nothing changes them. A change bumps
the version and unsettles them; they settle when a projection says through where everything is whole.
A reader takes the version, starts its query, and starts again if the version has changed by then:
writers never wait for readers. Records change before rollups do, so they have a version of their own.
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
        self._through: dict[int, int] = {}
        self._is_settled = asyncio.Event()

    def unsettle_records(self) -> None:
        """Records are about to change; the rollups stay as they are for now."""
        self._records_version += 1
        self._records_whole = False

    def unsettle(self) -> None:
        """Both are about to change."""
        self.unsettle_records()
        self._version += 1
        self._is_settled.clear()

    def settle(self, through: Positions) -> None:
        """Both are whole through these positions, and hold nothing behind them."""
        self._version += 1
        self._records_version += 1
        self._records_whole = True
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
        """The state of the records, if they are whole."""
        return Settled(self._records_version, self._through) if self._records_whole else None

    def records_still(self, settled: Settled) -> bool:
        """True if the records didn't change since."""
        return self._records_version == settled.version
