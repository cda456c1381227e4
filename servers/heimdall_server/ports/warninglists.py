"""The warninglists in force, for whoever shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from heimdall_server.domain.warninglists import Warninglist


@dataclass(frozen=True, slots=True)
class InForce:
    """What is in force now."""

    lists: Sequence[Warninglist]
    """By name."""
    problems: Sequence[str]
    """Files that can't be used, and settings that name no list."""


class WarninglistBook(Protocol):
    """Tells which lists there are and who is on them. Never fails: a list that can't be read isn't there, and `problems` says so."""

    async def in_force(self) -> InForce:
        """All lists."""
        ...

    async def naming(self, type_name: str, value: str) -> Sequence[str]:
        """Names of the lists that a canonical value of a type is on; a token is on none."""
        ...
