"""From an old generation of data keys to none: what survives is sealed anew, then the old keys are destroyed.

| step | done when | after a crash |
|---|---|---|
| a new generation for each class | noted in `facts["generations"]` | a class may get one more; nothing else |
| what was protected under the old ones is in the journal | `facts["last_sealed"]`, its position | found anew, a little later |
| survivors in the vault are sealed anew | none is left | goes on with those that are left |
| the vault has taken in the last of them, and those are sealed anew, too | none is left | looks again |
| the journal has let go of the last frame that may hold an old copy | its tail is behind it | looks again |
| late ones are sealed anew, old keys destroyed | `facts["keys_destroyed"]` | a repeat tells the first time |

Destroying comes last, so nobody who isn't meant loses a value.

What can't be opened holds nothing up. A value whose key is gone (PostgreSQL came back from a backup that is older than its destruction) is
taken out where it is met, since a fresh copy can take its place. One that was changed in the database stays as long as its key does: a
backup may still have it as it was, and the stage says so; with the key it is lost for good, and then it is taken out, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError
from heimdall_server.domain.personal import SealedValue
from heimdall_server.services.privacy.logic.kinds.model import PrivacyPorts, gone_by, tail_wait
from heimdall_server.services.privacy.logic.steps import Progress, Wait

_APPLIED_WAIT_S: Final = 2.0
RESEALED: Final = "sealed anew"
"""What the stage begins with when all that is left is the destruction of old keys, which waits for the journal. The command line client
stops following a rotation there."""
_UNREADABLE: Final = "unreadable_count"
"""Fact: values that were changed in the database."""
_TOLD_MAX: Final = 20
_LOG: Final = logging.getLogger(__name__)


async def shred(ports: PrivacyPorts, progress: Progress, classes: Sequence[str]) -> Wait | None:
    """Make a new generation for some classes and destroy all older ones. Goes on from what is noted.

    Args:
        ports: What it acts on.
        progress: The operation.
        classes: Classes that have data keys.

    Returns:
        When to go on; None: the old keys are destroyed.
    """
    generations = await _new_generations(ports, progress, classes)
    if "last_sealed" not in progress.operation.facts:
        time_ns = ports.clock.now_ns()
        await progress.note(facts={"last_sealed": await ports.barrier(), "last_sealed_time_ns": time_ns})
    last_sealed = int(progress.operation.facts["last_sealed"])
    await _reseal(ports, progress, generations)
    if not await ports.follower.wait_applied(last_sealed, _APPLIED_WAIT_S):
        return Wait(_APPLIED_WAIT_S, "waiting for the vault to take in what was sealed under the old keys")
    # Again, for what the projection has brought meanwhile.
    await _reseal(ports, progress, generations)
    until = gone_by(int(progress.operation.facts.get("last_sealed_time_ns", progress.operation.create_time_ns)), ports)
    stage = f"{RESEALED}; the old keys are destroyed when the journal has let go of position {last_sealed}, {until}"
    if count := progress.operation.facts.get(_UNREADABLE, 0):
        stage += (
            f"; {count} of the values were changed in the database and can't be opened: restore PostgreSQL from a backup "
            "before then, or they are lost with the old keys"
        )
    wait = await tail_wait(
        ports.journal, ports.clock, last_sealed, stage=stage, tail_s=ports.tail_s, nudge_s=ports.nudge_s
    )
    if wait is None:
        # What the projection took from old frames since.
        unreadable = await _reseal(ports, progress, generations, is_last=True)
        await _destroy(ports, progress, generations)
        await ports.vault.discard(unreadable)
    return wait


async def _new_generations(ports: PrivacyPorts, progress: Progress, classes: Sequence[str]) -> dict[str, int]:
    made: dict[str, int] = dict(progress.operation.facts.get("generations", {}))
    for data_class in classes:
        if data_class not in made:
            await progress.checkpoint()
            made[data_class] = await ports.keys.new_generation(data_class)
            await progress.note(facts={"generations": dict(made)})
    ports.sealed_lately.clear()
    return made


async def _reseal(
    ports: PrivacyPorts, progress: Progress, generations: dict[str, int], *, is_last: bool = False
) -> list[SealedValue]:
    """Seal anew what is left; returns what was changed in the database. Unless it is the last time, it is looked for only where there is more to do."""
    total = sum([await ports.vault.count_older_than(name, number) for name, number in generations.items()])
    unreadable: list[SealedValue] = []
    if total <= (0 if is_last else progress.operation.facts.get(_UNREADABLE, 0)):
        return unreadable
    before, done, dead = progress.operation.affected_count, 0, 0
    await progress.note(stage="sealing what is left anew", done_count=0, total_count=total, problem="")
    for data_class, generation in generations.items():
        async for batch in ports.vault.older_than(data_class, generation, batch=ports.batch_values):
            await progress.checkpoint()
            anew = await asyncio.to_thread(_sealed_anew, ports, data_class, batch)
            done += await ports.vault.replace(anew.sealed)
            dead += await ports.vault.discard(anew.dead)
            unreadable += anew.unreadable
            progress.count(done, total, affected=before + done)
    if dead:
        _LOG.warning("the vault held values whose keys are gone: they are taken out", extra={"count": dead})
    if len(unreadable) != progress.operation.facts.get(_UNREADABLE, 0):
        tokens = " ".join(str(value.name) for value in unreadable[:_TOLD_MAX])
        _LOG.error(
            "the vault holds values that were changed and can't be opened; a backup of PostgreSQL may have them",
            extra={"count": len(unreadable), "tokens": tokens},
        )
    await progress.note(done_count=done, affected_count=before + done, facts={_UNREADABLE: len(unreadable)})
    return unreadable


@dataclass(slots=True)
class _Anew:
    """What became of a batch."""

    sealed: Sequence[SealedValue]
    dead: Sequence[SealedValue]
    """Their keys are gone."""
    unreadable: Sequence[SealedValue]
    """They were changed, or the ring never had their key."""


def _sealed_anew(ports: PrivacyPorts, data_class: str, batch: Sequence[SealedValue]) -> _Anew:
    words: list[str] = []
    plain: list[str] = []
    dead: list[SealedValue] = []
    unreadable: list[SealedValue] = []
    for value in batch:
        try:
            plain.append(ports.sealer.open(value))
        except KeyDestroyedError:
            dead.append(value)
        except IntegrityError:
            unreadable.append(replace(value, sealed=b""))
        else:
            words.append(value.name.word)
    return _Anew(ports.sealer.seal(data_class, words, plain), dead, unreadable)


async def _destroy(ports: PrivacyPorts, progress: Progress, generations: dict[str, int]) -> None:
    await progress.note(stage="destroying the old keys")
    destroyed: list[dict[str, Any]] = []
    for key in ports.keys.list():
        if key.kind == "data" and key.data_class in generations and key.number < generations[key.data_class]:
            time_ns = await ports.keys.destroy_generation(key.data_class, key.number)
            destroyed.append({"data_class": key.data_class, "generation": key.number, "destroyed_time_ns": time_ns})
    await progress.note(facts={"keys_destroyed": destroyed})
