"""Where a projection goes on when it starts: its checkpoint, checked against the store and the journal.

The checkpoint is a hint that can be wrong: damaged, deleted, restored from a backup, or about a store that was
deleted. What may not happen is that records are inserted twice or left out in silence. So the store says who it
is and whose records it holds, and whether it holds any that the checkpoint doesn't know of. Where they don't fit:

| found | done |
|---|---|
| the store holds records of another journal, or the checkpoint is of another one | refused, with a sentence |
| no checkpoint, or a damaged one | everything that the journal holds is taken out of the store and inserted again |
| the store holds more than the checkpoint says | the same, from the checkpoint on |
| the store holds records from behind the end of the journal | refused: the journal is older than the store |
| the store isn't the one of the checkpoint | inserted from what the journal still holds; what is older is gone |

Taking out is an intent that can't be whole, so `LogStore.recover` does it, however often the process dies.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Final

from heimdall_server.domain.errors import ConfigurationError, CorruptionError
from heimdall_server.ports.journal import Journal
from heimdall_server.ports.log_store import LogStore
from heimdall_server.projections.checkpoint import Checkpoint, CheckpointFile, Intent

LOG: Final = logging.getLogger(__name__)
POSITION_MAX: Final = 2**63 - 1
_NEVER_WHOLE: Final = -1


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where to go on."""

    checkpoint: Checkpoint
    notice: str = ""
    """What was found and done, for the operator; empty: nothing unusual."""
    lost: bool = False
    """Whether records are gone that the store once held."""


async def resume(journal: Journal, store: LogStore, file: CheckpointFile) -> Resumed:
    """Find out where to go on, and make it durable.

    Raises:
        ConfigurationError: Checkpoint or store belong to another journal, or a newer version wrote them.
        CorruptionError: The journal lacks what the store has.
        StoreError: The store or the disk failed; call again.
    """
    identity = await store.identify()
    if identity.journal_id and identity.journal_id != journal.journal_id:
        problem = (
            f"the {store.name} store holds records of journal {identity.journal_id}, this one is {journal.journal_id}; "
            "restore that journal, or give this one an empty store"
        )
        raise ConfigurationError((problem,))
    damage = ""
    try:
        found = await asyncio.to_thread(file.load, journal.journal_id)
    except CorruptionError as error:
        damage, found = str(error), Checkpoint(journal.journal_id)
    if not identity.journal_id:
        await store.claim(journal.journal_id)
    resumed = Resumed(replace(found, store_id=identity.store_id))
    for shard in journal.head():
        resumed = await _resume_shard(journal, store, found, resumed, shard, damage)
    if resumed.checkpoint != found or damage:
        await asyncio.to_thread(file.store, resumed.checkpoint)
    if resumed.notice:
        LOG.warning("projection starts anew", extra={"notice": resumed.notice, "records_gone": resumed.lost})
    return resumed


async def _resume_shard(
    journal: Journal, store: LogStore, found: Checkpoint, resumed: Resumed, shard: int, damage: str
) -> Resumed:
    position, tail = found.position(shard), journal.tail()[shard]
    intent = found.intent if found.intent is not None and found.intent.shard == shard else None
    known = max(position, intent.last if intent is not None else 0)
    other = bool(position) and found.store_id not in ("", resumed.checkpoint.store_id)
    if not other and await store.holds_beyond(shard, known):
        reason = damage or (f"the checkpoint is older than the {store.name} store" if position else "")
        reason = reason or f"the {store.name} store has no checkpoint"
        lost = False
    elif other or damage or (position and not found.store_id and not await store.holds_beyond(shard, 0)):
        reason = damage or f"the {store.name} store is not the one of its checkpoint"
        lost = tail > 1 and not await store.holds_beyond(shard, 0)
    elif not position and tail > 1:
        reason, lost = f"the {store.name} store is empty", True
    else:
        return resumed
    head = journal.head()[shard]
    if await store.holds_beyond(shard, head):
        problem = f"it ends at position {head}, the {store.name} store holds records of later ones; restore the journal"
        raise CorruptionError(f"journal {journal.journal_id}", problem)
    after = max(0 if other or damage else position, tail - 1)
    again = Intent(shard, after + 1, POSITION_MAX, _NEVER_WHOLE, "resume")
    rebuilt = replace(
        resumed.checkpoint,
        positions={**resumed.checkpoint.positions, shard: after},
        intent=again,
        generation=found.generation + 1,
    )
    notice = f"{reason}: records of the journal from position {after + 1} on are inserted again"
    if lost:
        notice += f"; the journal doesn't reach back further, so records of positions 1 to {after} are gone"
    return Resumed(rebuilt, notice, lost or resumed.lost)
