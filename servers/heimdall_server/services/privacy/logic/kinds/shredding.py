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
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from heimdall_server.domain.personal import SealedValue
from heimdall_server.services.privacy.logic.kinds.model import PrivacyPorts, gone_by, tail_wait
from heimdall_server.services.privacy.logic.steps import Progress, Wait

_APPLIED_WAIT_S: Final = 2.0
RESEALED: Final = "sealed anew"
"""What the stage begins with when all that is left is the destruction of old keys, which waits for the journal. The command line client
stops following a rotation there."""


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
    wait = await tail_wait(
        ports.journal, ports.clock, last_sealed, stage=stage, tail_s=ports.tail_s, nudge_s=ports.nudge_s
    )
    if wait is None:
        # What the projection took from old frames since.
        await _reseal(ports, progress, generations)
        await _destroy(ports, progress, generations)
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


async def _reseal(ports: PrivacyPorts, progress: Progress, generations: dict[str, int]) -> None:
    total = sum([await ports.vault.count_older_than(name, number) for name, number in generations.items()])
    if not total:
        return
    before, done = progress.operation.affected_count, 0
    await progress.note(stage="sealing what is left anew", done_count=0, total_count=total, problem="")
    for data_class, generation in generations.items():
        async for batch in ports.vault.older_than(data_class, generation, batch=ports.batch_values):
            await progress.checkpoint()
            done += await ports.vault.replace(await asyncio.to_thread(_sealed_anew, ports, data_class, batch))
            progress.count(done, total, affected=before + done)
    await progress.note(done_count=done, affected_count=before + done)


def _sealed_anew(ports: PrivacyPorts, data_class: str, batch: Sequence[SealedValue]) -> list[SealedValue]:
    words = [value.name.word for value in batch]
    return ports.sealer.seal(data_class, words, [ports.sealer.open(value) for value in batch])


async def _destroy(ports: PrivacyPorts, progress: Progress, generations: dict[str, int]) -> None:
    await progress.note(stage="destroying the old keys")
    destroyed: list[dict[str, Any]] = []
    for key in ports.keys.list():
        if key.kind == "data" and key.data_class in generations and key.number < generations[key.data_class]:
            time_ns = await ports.keys.destroy_generation(key.data_class, key.number)
            destroyed.append({"data_class": key.data_class, "generation": key.number, "destroyed_time_ns": time_ns})
    await progress.note(facts={"keys_destroyed": destroyed})
