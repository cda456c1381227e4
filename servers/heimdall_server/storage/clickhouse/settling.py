"""Whether the rollups are whole, and through which positions: what a query by rollup must know.

Rollups have no positions, so such an answer is a snapshot only while nothing changes them. A change bumps
the version and unsettles them; they settle when a projection says through where everything is whole.
A reader takes the version, starts its query, and starts again if the version has changed by then:
writers never wait for readers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from heimdall_server.ports.journal import Positions


@dataclass(frozen=True, slots=True)
class Settled:
    """A moment when the rollups were whole."""

    version: int
    through: Positions


class Settling:
    """The state of one store's rollups. Belongs to the event loop."""

    def __init__(self) -> None:
        self._version = 0
        self._through: dict[int, int] = {}
        self._is_settled = asyncio.Event()

    def unsettle(self) -> None:
        """They are about to change."""
        self._version += 1
        self._is_settled.clear()

    def settle(self, through: Positions) -> None:
        """They are whole through these positions, and hold nothing behind them."""
        self._version += 1
        self._through = dict(through)
        self._is_settled.set()

    @property
    def now(self) -> Settled | None:
        """The state, if it is settled."""
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
        """True if nothing changed since."""
        return self._version == settled.version and self._is_settled.is_set()
