"""The journal on a disk that fails: what it acknowledged is there, in order, whatever happens.

`SCHEDULES` (1000) is how many schedules are run, from `SEED` (1) on; `SEED=17 SCHEDULES=1` repeats one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from heimdall_server.crypto.envelope import DataCipher
from tests.simulation.journal_mutants import DISKS, PATCHES, broken
from tests.simulation.journal_schedule import BrokenPromiseError, MakeDisk, Schedule
from tests.support.simulated_disk import SimDisk

SCHEDULES = int(os.environ.get("SCHEDULES", "1000"))
SEED = int(os.environ.get("SEED", "1"))
MUTANT_SCHEDULES = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The journal tells of each of thousands of faults."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Numbers that were used twice under one key: each blob's must be its own."""
    found: list[tuple[int, int]] = []
    seal = DataCipher.seal_into

    def watched(self: DataCipher, *arguments: Any, lane: int, counter: int, context: bytes) -> None:
        used = self.__dict__.setdefault("used", set())
        if (lane, counter) in used:
            found.append((lane, counter))
        used.add((lane, counter))
        seal(self, *arguments, lane=lane, counter=counter, context=context)

    monkeypatch.setattr(DataCipher, "seal_into", watched)
    return found


async def first_broken(seeds: range, reused: list[tuple[int, int]], make_disk: MakeDisk = SimDisk) -> str:
    """The first seed whose schedule breaks a promise, and which; empty: none."""
    for seed in seeds:
        try:
            await Schedule(seed, make_disk).run()
        except BrokenPromiseError as error:
            return f"SEED={seed} SCHEDULES=1: {error}"
        if reused:
            return f"SEED={seed} SCHEDULES=1: a key sealed {reused[0]} twice"
    return ""


@pytest.mark.timeout(60 + SCHEDULES)
async def test_recovery_finds_what_was_acknowledged_on_any_schedule(reused: list[tuple[int, int]]) -> None:
    problem = await first_broken(range(SEED, SEED + SCHEDULES), reused)
    assert not problem, problem


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [*DISKS, *PATCHES])
async def test_the_schedules_find_a_journal_that(name: str, reused: list[tuple[int, int]]) -> None:
    with broken(name) as make_disk:
        assert await first_broken(range(1, 1 + MUTANT_SCHEDULES), reused, make_disk)
