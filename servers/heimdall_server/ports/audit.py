"""The audit log: append-only, hash-chained, written before the result of an act leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did or tried. Holds no personal value: tokens, classes and counts only."""

    actor: str
    """The caller's identity (URI of the certificate), or `system` for what the server does by itself."""
    action: str
    """`privacy.reveal`, `privacy.match`, `privacy.policy.set`, `keys.rotate`, …: the permission, or what it was for."""
    outcome: str
    """`allowed`, `denied`, `failed`, `done`."""
    reason: str = ""
    """As the caller gave it, personal data in it masked."""
    subject: str = ""
    """What it was about: a token, an operation's id, a class."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Further facts, for example counts."""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An act in the chain."""

    sequence: int
    """From 1, dense."""
    time_ns: int
    act: Act
    previous: bytes
    """Digest of the entry before; 32 zero bytes for the first."""
    digest: bytes
    """SHA-256 over everything above."""


class AuditLog(Protocol):
    """Where acts are kept.

    Guarantees: `append` returns when the entry is durable; entries are never changed or removed; a change to any of them is found by
    `verify`. Appends are serialised.
    """

    async def append(self, act: Act) -> AuditEntry:
        """Write an act.

        Raises:
            StoreError: It couldn't be made durable: the act must not go on.
        """
        ...

    def read(self, *, after: int = 0, action: str = "", actor: str = "") -> AsyncGenerator[AuditEntry, None]:
        """Entries in order behind a sequence number, those of an action (a prefix) and an actor if given."""
        ...

    async def verify(self) -> AuditEntry | None:
        """Walk the whole chain.

        Returns:
            The last entry; None: it is empty.

        Raises:
            CorruptionError: An entry was changed, removed or put in; says which.
        """
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...
