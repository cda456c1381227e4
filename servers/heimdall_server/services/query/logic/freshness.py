"""How far what is acknowledged is visible to queries."""

from __future__ import annotations

from typing import Protocol

from heimdall_server.ports.journal import Positions


class Visibility(Protocol):
    """The warm projection, as queries see it."""

    @property
    def visible_through(self) -> Positions:
        """Everything up to here answers queries."""
        ...

    @property
    def lag_s(self) -> float:
        """Age of the oldest acknowledged record that doesn't yet; 0: none."""
        ...

    async def wait_through(self, positions: Positions, timeout_s: float) -> bool:
        """Wait until everything up to some positions is visible.

        Returns:
            False if the time ran out first.
        """
        ...
