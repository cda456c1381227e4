"""From an old generation of data keys to none: what survives is sealed anew, then the old keys are destroyed.

| step | done when | after a crash |
|---|---|---|
| a new generation for each class | noted in `facts["generations"]` | a class may get one more; nothing else |
| what was protected under the old ones is in the journal | `facts["last_sealed"]`, its position | found anew, a little later |
| survivors in the vault are sealed anew | none is left | goes on with those that are left |
| the journal has let go of the last frame that may hold an old copy | its tail is behind it | waits on |
| late ones are sealed anew, old keys destroyed | `facts["keys_destroyed"]` | a repeat tells the first time |

Destroying comes last, so nobody who isn't meant loses a value.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.personal import SealedValue
from heimdall_server.services.privacy.logic.kinds.model import PrivacyPorts, Progress
from heimdall_server.services.privacy.logic.kinds.tail import wait_for_tail

RETRY_S: Final = 2.0
"""Between attempts while the vault can't be reached."""
_APPLIED_WAIT_S: Final = 30.0


async def shred(ports: PrivacyPorts, progress: Progress, classes: list[str]) -> None:
    """Make a new generation for some classes and destroy all older ones. Resumes from what is noted.

    Args:
        ports: What it acts on.
        progress: The operation.
        classes: Classes that have data keys.
    """
    generations = await _new_generations(ports, progress, classes)
    if "last_sealed" not in progress.operation.facts:
        await _note_fact(progress, "last_sealed", await ports.barrier())
    last_sealed = int(progress.operation.facts["last_sealed"])
    await _reseal(ports, progress, generations)
    await _wait_for_journal(ports, progress, last_sealed)
    # What the projection took from old frames meanwhile.
    await _reseal(ports, progress, generations)
    await _destroy(ports, progress, generations)


async def _new_generations(ports: PrivacyPorts, progress: Progress, classes: list[str]) -> dict[str, int]:
    made: dict[str, int] = dict(progress.operation.facts.get("generations", {}))
    for data_class in classes:
        if data_class not in made:
            made[data_class] = await ports.keys.new_generation(data_class)
            await _note_fact(progress, "generations", dict(made))
    ports.sealed_lately.clear()
    return made


async def _reseal(ports: PrivacyPorts, progress: Progress, generations: dict[str, int]) -> None:
    while True:
        try:
            total = sum([await ports.vault.count_older_than(name, number) for name, number in generations.items()])
            done = 0
            await progress.note(stage="sealing what is left anew", done_count=0, total_count=total, problem="")
            for data_class, generation in generations.items():
                batches = ports.vault.older_than(data_class, generation, batch=ports.batch_values)
                async for batch in batches:
                    anew = await asyncio.to_thread(_sealed_anew, ports, data_class, batch)
                    done += await ports.vault.replace(anew)
                    await progress.note(done_count=done, affected_count=progress.operation.affected_count + len(anew))
            break
        except StoreError as error:
            await progress.note(problem=f"waits for {error.store}")
            await asyncio.sleep(RETRY_S)


def _sealed_anew(ports: PrivacyPorts, data_class: str, batch: Any) -> list[SealedValue]:  # noqa: ANN401 - a sequence
    words = [value.name.word for value in batch]
    return ports.sealer.seal(data_class, words, [ports.sealer.open(value) for value in batch])


async def _wait_for_journal(ports: PrivacyPorts, progress: Progress, position: int) -> None:
    """Until no frame up to a position is left, and the vault has taken what it needs from them."""
    await progress.note(stage=f"waiting for the journal to let go of position {position}", done_count=0, total_count=0)
    while not await ports.follower.wait_applied(position, _APPLIED_WAIT_S):
        await progress.note(problem="the vault's projection is behind")
    if progress.operation.problem:
        await progress.note(problem="")
    await wait_for_tail(ports.journal, position, poll_s=ports.poll_s, nudge_s=ports.nudge_s, looked=progress.check)


async def _destroy(ports: PrivacyPorts, progress: Progress, generations: dict[str, int]) -> None:
    await progress.note(stage="destroying the old keys")
    destroyed: list[dict[str, Any]] = []
    for key in ports.keys.list():
        if key.kind == "data" and key.data_class in generations and key.number < generations[key.data_class]:
            time_ns = await ports.keys.destroy_generation(key.data_class, key.number)
            destroyed.append({"data_class": key.data_class, "generation": key.number, "destroyed_time_ns": time_ns})
    await _note_fact(progress, "keys_destroyed", destroyed)


async def _note_fact(progress: Progress, name: str, value: object) -> None:
    await progress.note(facts={**progress.operation.facts, name: value})
