"""What the kinds of operations act on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.keys import KeyAdministration, Sealer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.steps import Wait

SHARD: Final = 0
VAULT_LANE: Final = "vault"
"""Rotations of data keys and erasures change the same keys and rows."""


class VaultFollower(Protocol):
    """The projection into the vault."""

    async def wait_applied(self, position: int, timeout_s: float) -> bool:
        """Whether everything up to a position was applied in time."""
        ...


class SealedLately(Protocol):
    """The cache of values that were sealed lately."""

    def forget(self, names: Collection[TokenName]) -> None:
        """Seal these anew the next time they come in."""
        ...

    def clear(self) -> None:
        """Forget all: the keys have changed."""
        ...


@dataclass(frozen=True, slots=True)
class PrivacyPorts:
    """Everything that rotation and erasure act on."""

    keys: KeyAdministration
    sealer: Sealer
    vault: Vault
    follower: VaultFollower
    sealed_lately: SealedLately
    journal: Journal
    barrier: Callable[[], Awaitable[int]]
    """Waits until everything that was protected before the call is durable or dropped; the journal's head then."""
    clock: Clock
    tail_s: float = 5.0
    """How often it is looked whether the journal has let go of old frames: nobody announces it."""
    nudge_s: float = 600.0
    """How long a journal in which nothing comes in is left alone before it gets an empty frame, so that old ones can go."""
    batch_values: int = 2_000
    """Values sealed anew together."""


def data_classes(ports: PrivacyPorts, wanted: Sequence[str]) -> list[str]:
    """The classes that have data keys, or those of them that are wanted."""
    known = sorted({key.data_class for key in ports.keys.list() if key.kind == "data"})
    return [one for one in known if not wanted or one in wanted]


async def tail_wait(
    journal: Journal, clock: Clock, position: int, *, stage: str, tail_s: float, nudge_s: float
) -> Wait | None:
    """None once no segment holds a frame up to a position any more; else when to look again.

    A segment ends when it is full or, with the next frame, when it is old. Where nothing comes in there is no next frame, so an empty one is
    written now and then.
    """
    if journal.tail().get(SHARD, 1) > position:
        return None
    head = journal.head().get(SHARD, 0)
    newest_ns = 0
    async for frame in journal.read_control(SHARD, after=max(0, head - 1)):
        newest_ns = frame.time_ns
    if clock.now_ns() - newest_ns > nudge_s * 1e9:
        await journal.append([Entry(None)])
    return Wait(tail_s, stage)
