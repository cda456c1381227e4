"""What the kinds of operations need from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from heimdall_server.domain.operations import Operation
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.keys import KeyAdministration, Sealer
from heimdall_server.ports.vault import Vault

SHARD: Final = 0


class Progress(Protocol):
    """The operation that is being worked on; what is noted is durable when `note` returns."""

    @property
    def operation(self) -> Operation:
        """As it was noted last."""
        ...

    async def note(self, **changes: object) -> Operation:
        """Change fields of the operation.

        Raises:
            OperationStateError: It was stopped meanwhile: the kind ends.
            StoreError: It isn't durable: what it says must not be acted on.
        """
        ...

    async def check(self) -> None:
        """Hear whether the operation was stopped, without changing it.

        Raises:
            OperationStateError: It was.
        """
        ...


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
    poll_s: float = 1.0
    """How often a condition that nobody announces is looked at."""
    nudge_s: float = 600.0
    """How often a journal in which nothing comes in gets an empty frame, so that its old ones can go."""
    batch_values: int = 2_000
    """Values sealed anew together."""


def data_classes(ports: PrivacyPorts, wanted: Sequence[str]) -> list[str]:
    """The classes that have data keys, or those of them that are wanted."""
    known = sorted({key.data_class for key in ports.keys.list() if key.kind == "data"})
    return [one for one in known if not wanted or one in wanted]
