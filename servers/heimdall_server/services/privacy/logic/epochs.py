"""Epochs of the index key die with retention: once no record can hold a token of one, its key is destroyed and searches stop asking for it.

An epoch that isn't the newest may go when all of this holds:

1. A rotation to a later epoch has noted the position through which its tokens may stand (`IndexRotation`): what is protected after that
   is protected under a later one. Positions of another journal (one that was restored or replaced) say nothing.
2. The journal's tail is behind that position: nothing is replayed from there any more, into no projection.
3. The vault has taken in everything up to it.
4. No dataset of the store holds a record at or before it, nor one that came in within twice the journal's age after the epoch: dead letters,
   which the journal keeps, hold tokens, too, and may be decoded again behind that position. Datasets that forget by age aren't asked before that
   age is over; those that don't, or whose records are held back for whatever reason, keep the epoch alive until these records are gone.

Then the vault forgets the epoch's values, which nothing names any more, and the key goes, in this order: a crash between the two
is made good by the next look. What was erased under the epoch stays in the ledger and among the tombstones.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.domain.personal import EPOCHS
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.keys import KeyAdministration, KeyFacts
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.kinds.model import SHARD, VaultFollower

ACTION: Final = "privacy.keys.retire"
_ACTOR: Final = "system"
_DAY_NS: Final = 86_400 * 1_000_000_000
_LOG: Final = logging.getLogger(__name__)


class EpochRetirement:
    """Looks for epochs that may go. See the module. For one event loop."""

    def __init__(
        self,
        *,
        keys: KeyAdministration,
        vault: Vault,
        follower: VaultFollower,
        journal: Journal,
        datasets: Sequence[Dataset],
        rotations: Callable[[], Sequence[Operation]],
        journal_age_s: float,
        holds_records: Callable[[int, int], Awaitable[bool]],
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        """Make one.

        Args:
            keys: The keyring.
            vault: Forgets values of an epoch.
            follower: What brings values into the vault.
            journal: Whose tail must be behind an epoch.
            datasets: How long each keeps records.
            rotations: The operations that are known, of any kind.
            journal_age_s: How old a frame of the journal may get.
            holds_records: Whether any dataset of any store holds a record at or before a position, or one that was observed before a time in
                ns since 1970 UTC.
            audit: Where the end of a key is written down.
            clock: Now.
        """
        self._keys = keys
        self._vault = vault
        self._follower = follower
        self._journal = journal
        self._datasets = datasets
        self._rotations = rotations
        self._letters_ns = int(2 * journal_age_s * 1e9)
        self._holds_records = holds_records
        self._audit = audit
        self._clock = clock

    async def run(self) -> Sequence[int]:
        """Destroy the keys of the epochs that may go, the oldest first.

        Returns:
            Those epochs.

        Raises:
            StoreError: A store, the vault or the audit log failed; the next look goes on.
        """
        # In the order in which they were made.
        keys = [key for key in self._keys.list() if key.kind == "index"]
        gone: list[int] = []
        for place, (epoch, successor) in enumerate(itertools.pairwise(keys), start=1):
            if epoch.state == "destroyed":
                continue
            through = self._through({key.key_id for key in keys[place:]})
            # A younger epoch's tokens stand behind an older one's: where this can't go, none can.
            if through is None or not await self._may_go(successor, through):
                break
            await self._retire(epoch, through)
            gone.append(epoch.number)
        return gone

    def _through(self, later: Collection[str]) -> int | None:
        """The position through which tokens may stand of an epoch before some; None: nobody has noted it."""
        noted = [
            int(one.facts["through"])
            for one in self._rotations()
            if one.kind is OperationKind.ROTATE_INDEX
            and one.facts.get("journal_id") == self._journal.journal_id
            and one.facts.get("index_key") in later
        ]
        return min(noted, default=None)

    async def _may_go(self, successor: KeyFacts, through: int) -> bool:
        over_ns = successor.created_time_ns + self._letters_ns
        age_ns = self._clock.now_ns() - over_ns
        if age_ns < 0 or any(dataset.retention_days * _DAY_NS > age_ns for dataset in self._datasets):
            return False
        if self._journal.tail().get(SHARD, 1) <= through or not await self._follower.wait_applied(through, 0.0):
            return False
        return not await self._holds_records(through, over_ns)

    async def _retire(self, epoch: KeyFacts, through: int) -> None:
        character = EPOCHS[epoch.number]
        count = await self._vault.forget_epoch(epoch.number)
        details = {"epoch": character, "through": str(through), "vault_value_count": str(count)}
        reason = "no record holds a token of this epoch any more"
        await self._audit.append(Act(_ACTOR, ACTION, "allowed", reason, epoch.key_id, details))
        await self._keys.retire_epoch(epoch.number)
        _LOG.info("an epoch of the index key is over", extra={"epoch": character, "values": count})
