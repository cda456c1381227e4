"""What the kinds of operations act on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from heimdall_server.domain.errors import OperationStateError
from heimdall_server.domain.operations import Operation
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.keys import KeyAdministration, Sealer, Tokeniser
from heimdall_server.ports.vault import Tombstone, Vault
from heimdall_server.services.privacy.logic.steps import Wait

SHARD: Final = 0
ENCRYPTED_IN_RECORDS: Final = "enc_"
"""What classes begin with whose data keys encrypt values where they stand (`crypto.field_cipher`)."""
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


class Blocklist(Protocol):
    """Values that are never sealed again, whatever epoch their tokens are of."""

    def block(self, data_classes: Collection[str], digests: Collection[str]) -> None:
        """Keep out values of some classes, by their keyed digests, from now on."""
        ...


class ErasedValues(Protocol):
    """What searches by value leave out."""

    def add(self, tombstones: Sequence[Tombstone]) -> None:
        """Find no records by these values from now on, but newer ones if they aren't blocked. Idempotent."""
        ...


class GraphRemoval(Protocol):
    """The graph, as an erasure acts on it."""

    async def erase(self, tokens: Collection[str], *, through: int) -> bool:
        """Delete what tokens (in brackets) stand for. False: the graph isn't as far as a position yet; ask again."""
        ...


@dataclass(frozen=True, slots=True)
class PrivacyPorts:
    """Everything that rotation and erasure act on."""

    keys: KeyAdministration
    tokeniser: Tokeniser
    sealer: Sealer
    vault: Vault
    follower: VaultFollower
    sealed_lately: SealedLately
    blocklist: Blocklist
    erased: ErasedValues
    graph: GraphRemoval
    journal: Journal
    barrier: Callable[[], Awaitable[int]]
    """Waits until everything that was protected before the call is durable or dropped; the journal's head then."""
    clock: Clock
    age_max_s: float = 259_200.0
    """How old a frame of the journal may become, in seconds: what waits for it is told when it will be gone."""
    tail_s: float = 5.0
    """How often it is looked whether the journal has let go of old frames: nobody announces it."""
    nudge_s: float = 600.0
    """How long a journal in which nothing comes in is left alone before it gets an empty frame, so that old ones can go."""
    batch_values: int = 2_000
    """Values sealed anew together."""


def data_classes(ports: PrivacyPorts, wanted: Sequence[str]) -> list[str]:
    """The classes that have data keys, or those of them that are wanted.

    Keys of what is encrypted in records must be wanted by name: nothing seals that anew, so it goes with them.
    """
    known = sorted({key.data_class for key in ports.keys.list() if key.kind == "data"})
    return [one for one in known if (one in wanted if wanted else not one.startswith(ENCRYPTED_IN_RECORDS))]


async def tail_wait(
    journal: Journal, clock: Clock, position: int, *, stage: str, tail_s: float, nudge_s: float
) -> Wait | None:
    """None once no segment holds a frame up to a position any more; else when to look again.

    `stage` is what is told meanwhile. A segment ends when it is full or, with the next frame, when it is old. Where nothing comes in there is no next frame, so an empty one is
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


def gone_by(time_ns: int, ports: PrivacyPorts) -> str:
    """When the journal has let go of what came in until a time, for a person."""
    latest_ns = time_ns + int((ports.age_max_s + ports.nudge_s + 2 * ports.tail_s) * 1e9)
    return f"about {dt.datetime.fromtimestamp(latest_ns // 1_000_000_000, dt.UTC):%Y-%m-%d %H:%M} UTC"


def out_of_date(operation: Operation) -> OperationStateError:
    """What an operation ends with that names tokens, where newer records have others that it can't know."""
    problem = "the index key was rotated before it began, and newer records have other tokens; begin it again"
    return OperationStateError(operation.operation_id, "out of date", problem)
